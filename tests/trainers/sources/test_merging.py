"""Merges against peft on a whole model, and against plain sums."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.models import edit_json, make_tiny_adapter
from transfergrid.config.sources import PRUNING, Merge, Method
from transfergrid.engine.interfaces import AdapterError
from transfergrid.trainers.sources.merging import merge_adapters, saved_keys

METHODS = get_args(Method)
WEIGHTS = (0.7, -0.4)


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> tuple[Path, Path]:
    """Two adapters of rank 4 on all layers of a tiny model."""
    return make_parents(tiny_llama, tmp_path_factory.mktemp("parents"))


def make_parents(base: Path, root: Path, **settings: Any) -> tuple[Path, Path]:
    """Return two adapters of scale 6 / 4, with rslora 6 / 2."""
    made = (make_tiny_adapter(base, root / str(seed), rank=4, seed=seed, lora_alpha=6, **settings) for seed in (1, 2))
    return next(made), next(made)


def merge_of(method: str, weights: tuple[float, ...] = WEIGHTS, density: float = 0.6) -> Merge:
    return Merge(("one", "two"), method, weights, density if method in PRUNING else None)  # type: ignore[arg-type]


def deltas(weights: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """Return scale x B A of every layer."""
    return {
        key.removesuffix(".lora_A.weight"): scale * weights[key.replace("lora_A", "lora_B")] @ weights[key]
        for key in weights
        if "lora_A" in key
    }


def save(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("method", METHODS)
def test_a_merge_is_pefts_on_the_whole_model(
    method: str, parents: tuple[Path, Path], tiny_llama: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    whole = PeftModel.from_pretrained(base, parents[0], adapter_name="one")
    whole.load_adapter(parents[1], adapter_name="two")
    torch.manual_seed(17)
    whole.add_weighted_adapter(
        ["one", "two"], list(WEIGHTS), "both", combination_type=method, density=0.6 if method in PRUNING else None
    )
    whole.save_pretrained(tmp_path / "whole", selected_adapters=["both"])
    expected = load_file(tmp_path / "whole" / "both" / "adapter_model.safetensors")
    found = save(merge_adapters(parents, merge_of(method), seed=17), tmp_path / "found")
    assert found.keys() == expected.keys() == saved_keys(parents)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("rslora", [False, True])
def test_cat_is_the_weighted_sum_of_the_deltas(rslora: bool, tiny_llama: Path, tmp_path: Path) -> None:
    one, two = make_parents(tiny_llama, tmp_path, use_rslora=rslora)
    scale = 6 / math.sqrt(4) if rslora else 6 / 4
    merged = save(merge_adapters((one, two), merge_of("cat"), seed=17), tmp_path / "merged")
    first, second = (deltas(load_file(folder / "adapter_model.safetensors"), scale) for folder in (one, two))
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(tmp_path / "merged"))
    assert (config.r, config.lora_alpha, config.use_rslora, config.task_type) == (8, 8, False, "CAUSAL_LM")
    for layer, delta in deltas(merged, 1.0).items():
        assert (delta - (WEIGHTS[0] * first[layer] + WEIGHTS[1] * second[layer])).abs().max() < 1e-5


def test_svd_keeps_the_best_part_of_the_sum(parents: tuple[Path, Path], tmp_path: Path) -> None:
    merged = deltas(save(merge_adapters(parents, merge_of("svd"), seed=17), tmp_path / "merged"), 1.0)
    first, second = (deltas(load_file(folder / "adapter_model.safetensors"), 1.5) for folder in parents)
    for layer, delta in merged.items():
        whole = WEIGHTS[0] * first[layer] + WEIGHTS[1] * second[layer]
        left_out = torch.linalg.svdvals(whole)[4:].square().sum().sqrt()
        assert torch.allclose((whole - delta).norm(), left_out, rtol=1e-3)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_what_a_method_drops_at_random_hangs_on_the_seed_alone(
    method: str, parents: tuple[Path, Path], tmp_path: Path
) -> None:
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    first, again, other = (
        save(merge_adapters(parents, merge_of(method), seed=seed), tmp_path / str(number))
        for number, seed in enumerate((17, 17, 42))
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_ranks_that_do_not_fit_are_refused(parents: tuple[Path, Path], tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    wide.mkdir()
    (wide / "adapter_config.json").write_bytes((parents[0] / "adapter_config.json").read_bytes())
    edit_json(wide / "adapter_config.json", r=510)
    save_file({}, wide / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"method 'ties' needs adapters of one rank, these have \[4, 510\]"):
        merge_adapters((parents[0], wide), merge_of("ties"), seed=17)
    with pytest.raises(AdapterError, match=r"method 'cat' would have rank 514, at most 512 is served; use 'svd'"):
        merge_adapters((parents[0], wide), merge_of("cat"), seed=17)
