"""Full fine-tunes in a running engine, on tiny models made on the spot, float32; engines are those of ``test_vllm``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.engine.scorers.test_vllm import TOLERANCE, largest_difference, loglikelihoods, random_items, reference
from tests.models import make_tiny_adapter
from transfergrid.config.settings import EngineConfig
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.folder import WEIGHTS_FILE
from transfergrid.engine.interfaces import Adapter, AdapterError, EngineLostError
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.scorers.launch import start_vllm
from transfergrid.trainers.full_model import write_full

pytestmark = pytest.mark.engine


def tuned(model: Path, folder: Path, *, step: float) -> Adapter:
    """Move every weight at random, and save the model both ways: as a full fine-tune and for transformers."""
    torch.manual_seed(1)
    moved = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        for weight in moved.parameters():
            weight.add_(step * torch.randn_like(weight))
    moved.save_pretrained(folder / "model")
    (folder / "full").mkdir()
    write_full(moved, folder / "full", "float32")
    return check_adapter(folder / "full", read_linear_shapes(model), name="full", takes_full=True)


@pytest.mark.parametrize("family", ["llama", "gemma3_vision"])
def test_a_full_fine_tune_scores_as_in_transformers_and_the_base_comes_back_bit_for_bit(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model: Path = request.getfixturevalue(f"tiny_{family}")
    shapes, items = read_linear_shapes(model), random_items(5)
    full, same = tuned(model, tmp_path, step=0.02), tuned(model, tmp_path / "same", step=0.0)
    adapter = check_adapter(make_tiny_adapter(model, tmp_path / "adapter", rank=8, seed=1), shapes, name="adapter")
    scorer = start_vllm(
        model, EngineConfig(dtype="float32", token_budget=256, kv_cache_gib=0.05), max_rank=8, longest_tokens=256
    )
    try:
        base, adapted = loglikelihoods(scorer, items), loglikelihoods(scorer, items, adapter)
        found = loglikelihoods(scorer, items, full)
        assert largest_difference(found, reference(tmp_path / "model", items)) < TOLERANCE
        assert largest_difference(found, base) > 100 * TOLERANCE
        assert loglikelihoods(scorer, items, adapter) == adapted
        assert loglikelihoods(scorer, items, full) == found
        assert loglikelihoods(scorer, items) == base
        with pytest.raises(AdapterError, match=r"'full@\w+' changes no score of a probe: its weights are the base's"):
            loglikelihoods(scorer, items, same)
        weights = load_file(full.path / WEIGHTS_FILE)
        name = next(key for key in weights if key.endswith("norm.weight"))
        damaged = tmp_path / "damaged"
        damaged.mkdir()
        (damaged / "adapter_config.json").write_text((full.path / "adapter_config.json").read_text())
        save_file({key: value for key, value in weights.items() if key != name}, damaged / WEIGHTS_FILE)
        broken = check_adapter(damaged, shapes, name="broken", takes_full=True)
        with pytest.raises(AdapterError, match=rf"lacks 1 of the model's weights, for example '{name}'"):
            loglikelihoods(scorer, items, broken)
        assert loglikelihoods(scorer, items) == base
        scorer._base_probe = scorer._base_probe + 1
        loglikelihoods(scorer, items, full)
        with pytest.raises(
            EngineLostError, match=r"the base does not score a probe as before, .* give the same command"
        ):
            loglikelihoods(scorer, items)
    finally:
        scorer.close()
