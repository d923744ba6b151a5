"""Tiny random models, a byte-level tokenizer and tiny random adapters, made on the spot.

The weights are larger than a real model's initialisation, so that log-probabilities differ by nats, not by rounding.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

FAMILIES = ("llama", "qwen2", "gemma3", "gemma3_vision")

TINY_WINDOW = 48
"""Sliding window of the tiny Gemma 3 in tokens: longer than one KV block, shorter than the test's prompts."""

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

_BOS = {"llama": "<|begin_of_text|>", "qwen2": None, "gemma3": "<bos>", "gemma3_vision": "<bos>"}
_CHAT_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
_MERGES = (("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ġ", "A"), ("Ġ", "a"), ("i", "n"), ("e", "r"), ("Ċ", "A"), (":", "Ċ"))
_SPECIAL = ("<|end_of_text|>", "<|start|>", "<|end|>", "<|begin_of_text|>", "<bos>")
_VOCAB_SIZE = 320

# as google/gemma-3-4b-it is published: what equals transformers' defaults (8 heads of 256, 4 of keys) is not said
_SPARSE_TEXT = {
    "model_type": "gemma3_text",
    "vocab_size": _VOCAB_SIZE,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 6,  # the last one sees all tokens, the others the window
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": TINY_WINDOW,
}
_TINY_VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "vision_use_head": False,
}


def make_tiny_tokenizer(folder: Path, family: str = "llama") -> Any:
    """Save a byte-level BPE tokenizer (a few merges, chat template, BOS as the family has it) in ``folder``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*_SPECIAL, *alphabet, *("".join(pair) for pair in _MERGES)]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, list(_MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL))
    bos = _BOS[family]
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokens.index(bos))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token="<|end_of_text|>", pad_token="<|end_of_text|>"
    )
    fast.chat_template = _CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return fast


def _config(family: str) -> Any:
    """Return the tiny model's configuration."""
    from transformers import Gemma3Config, Gemma3TextConfig, LlamaConfig, Qwen2Config

    shape = {
        "vocab_size": _VOCAB_SIZE,
        "hidden_size": 128,  # 4 heads of 32, the smallest that vLLM has on the CPU
        "intermediate_size": 192,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.12,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    if family == "llama":
        return LlamaConfig(**shape, num_hidden_layers=2, bos_token_id=3, tie_word_embeddings=True)
    if family == "qwen2":
        return Qwen2Config(**shape, num_hidden_layers=2, bos_token_id=None, tie_word_embeddings=False)
    if family == "gemma3":
        kinds = ["sliding_attention", "full_attention", "sliding_attention"]
        return Gemma3TextConfig(
            **shape,
            num_hidden_layers=len(kinds),
            layer_types=kinds,
            sliding_window=TINY_WINDOW,
            head_dim=32,
            query_pre_attn_scalar=32,
            bos_token_id=4,
        )
    if family == "gemma3_vision":
        return Gemma3Config(
            text_config={**_SPARSE_TEXT, "initializer_range": 0.12},
            vision_config={**_TINY_VISION, "initializer_range": 0.12},
            mm_tokens_per_image=4,
            boi_token_index=_VOCAB_SIZE - 3,
            eoi_token_index=_VOCAB_SIZE - 2,
            image_token_index=_VOCAB_SIZE - 1,
        )
    raise ValueError(f"unknown family {family!r}; expected one of {FAMILIES}")


def make_tiny_model(folder: Path | str, family: str = "llama", *, seed: int = 0) -> Path:
    """Save a random causal model of one family with its tokenizer, float32, and return the folder as a Path."""
    from transformers import AutoModelForCausalLM

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(_config(family), dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    if family == "gemma3_vision":
        edit_json(folder / "config.json", text_config=_SPARSE_TEXT, vision_config=_TINY_VISION)
    make_tiny_tokenizer(folder, family)
    return folder


def make_tiny_adapter(
    model_folder: Path | str,
    folder: Path | str,
    *,
    rank: int = 8,
    seed: int = 0,
    scale: float = 0.1,
    target_modules: Sequence[str] = TARGET_MODULES,
    **lora_settings: Any,
) -> Path:
    """Save a random peft adapter for a model and return its folder as a Path.

    ``scale`` is the standard deviation of B; 0 makes a null adapter. ``lora_settings`` go to ``peft.LoraConfig``.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = Path(folder)
    generator = torch.Generator().manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    has_vision = hasattr(base.config, "vision_config")
    config = LoraConfig(
        **{"r": rank, "lora_alpha": 2 * rank, "target_modules": list(target_modules), **lora_settings},
        exclude_modules=".*vision.*" if has_vision else None,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)
        elif "lora_B" in name:
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file in place; a value of None removes the key."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def make_full_fine_tune(model: Path, folder: Path, *, step: float) -> Path:
    """Move every weight at random; ``folder/full`` is the full fine-tune, ``folder`` the same for transformers."""
    from transformers import AutoModelForCausalLM

    from transfergrid.trainers.full_model import write_full

    torch.manual_seed(1)
    moved = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        for weight in moved.parameters():
            weight.add_(step * torch.randn_like(weight))
    moved.save_pretrained(folder)
    (folder / "full").mkdir()
    write_full(moved, folder / "full", "float32")
    return folder / "full"
