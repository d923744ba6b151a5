"""The tiny models behave as the tests that use them expect."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.models import FAMILIES, make_tiny_adapter, make_tiny_model


def logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.inference_mode():
        return model(torch.arange(10, 90)[None]).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_model_spreads_its_probabilities_and_adapter_changes_them(family: str, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / family, family)
    adapter = make_tiny_adapter(folder, tmp_path / "adapter", seed=1)
    base = logits(folder).log_softmax(-1)
    assert base.std() > 0.5
    assert (logits(folder, adapter).log_softmax(-1) - base).abs().max() > 0.1


@pytest.mark.parametrize(("family", "n_bos"), [("llama", 1), ("qwen2", 0), ("gemma3", 1), ("gemma3_vision", 1)])
def test_tiny_tokenizer_has_its_familys_bos_and_round_trips(family: str, n_bos: int, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make_tiny_model(tmp_path / family, family))
    text = "Question: the sky?\nAnswer: نعم हाँ 是"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert [tokenizer.bos_token_id] * n_bos == ids[:n_bos]
    assert "<|start|>assistant" in tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
    )


def test_null_adapter_changes_nothing(tiny_llama: Path, null_adapter: Path) -> None:
    assert torch.equal(logits(tiny_llama), logits(tiny_llama, null_adapter))
