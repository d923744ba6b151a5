"""The base model: loaded once, frozen; one adapter after another is attached, and it stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfergrid.config.training import LoraConfig, TrainingConfig
from transfergrid.engine.models.device import device_type, resolve_dtype
from transfergrid.grid import UserError
from transfergrid.trainers.sft.fused_lora import fuse_lora_layers

NOT_THE_DECODER = "vision"
"""Part of the names of layers that never get LoRA: image encoders of multimodal models."""


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """A frozen base model in memory."""

    model: Any
    device: str
    dtype: str
    plain_head: bool
    """Whether the logits are the vocabulary projection and nothing more; see ``sft.loss.has_plain_head``."""


def load_base(folder: Path, training: TrainingConfig, *, device: str | None = None) -> LoadedBase:
    """Load a base model and freeze it.

    Raises:
        UserError: If a quantised base is asked for without a GPU or without bitsandbytes, or a number format in which
            small gradients vanish.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from transfergrid.trainers.sft.attention import choose_attention
    from transfergrid.trainers.sft.loss import has_plain_head

    device = device or device_type()
    dtype = resolve_dtype(training.dtype, device)
    if dtype == "float16":
        raise UserError(
            "training.dtype 'float16' would lose small gradients, since the loss is not scaled; set it to 'bfloat16', "
            "'float32' or 'auto'"
        )
    model = AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype=getattr(torch, dtype),
        device_map={"": device},
        quantization_config=_quantization(training.quantization, device, dtype),
        attn_implementation=choose_attention(device, dtype),
    )
    model.requires_grad_(False).eval()
    return LoadedBase(model, device, dtype, has_plain_head(model))


def targeted_layers(base: Any, target_modules: tuple[str, ...]) -> list[str]:
    """Return the names of the linear layers of a decoder that get LoRA."""
    return [
        name
        for name, module in base.named_modules()
        if name.rpartition(".")[2] in target_modules and NOT_THE_DECODER not in name and hasattr(module, "weight")
    ]


def expected_keys(base: Any, target_modules: tuple[str, ...]) -> set[str]:
    """Return the keys a saved adapter must have: A and B of every targeted layer."""
    layers = targeted_layers(base, target_modules)
    return {f"base_model.model.{name}.lora_{side}.weight" for name in layers for side in "AB"}


class AttachedAdapter:
    """A fresh adapter of a base, on it only while it is asked for, so that several can take turns."""

    def __init__(self, base: LoadedBase, lora: LoraConfig, seed: int) -> None:
        """Make it, the base left as it was; the seed decides A's random values and everything random that follows."""
        from peft import get_peft_model
        from transformers import set_seed

        self._base = base.model
        before = _remember(self._base)
        set_seed(seed)
        try:
            self.model: Any = get_peft_model(self._base, _peft_settings(self._base, lora))
            """The peft model."""
            self.weights = fuse_lora_layers(self.model)
            """Weights of the fused layers by name."""
            self._attached = _remember(self._base)
        finally:
            _restore(self._base, before)

    @contextmanager
    def on_base(self) -> Iterator[Any]:
        """Put it on the base; on leaving, remove what was added since. Yields the peft model."""
        before = _remember(self._base)
        try:
            _restore(self._base, self._attached)
            yield self.model
        finally:
            self._attached = _remember(self._base)
            _restore(self._base, before)


@contextmanager
def attached_adapter(base: LoadedBase, lora: LoraConfig, seed: int) -> Iterator[Any]:
    """Put a fresh adapter on the base; on leaving, remove what was added since. See ``AttachedAdapter``.

    Yields:
        The peft model.
    """
    with AttachedAdapter(base, lora, seed).on_base() as model:
        yield model


def _peft_settings(model: Any, lora: LoraConfig) -> Any:
    """Return the shape of an adapter as peft names it."""
    from peft import LoraConfig as PeftLoraConfig

    return PeftLoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_rslora=lora.rslora,
        target_modules=list(lora.target_modules),
        exclude_modules=f".*{NOT_THE_DECODER}.*" if _has_vision(model) else None,
    )


def _remember(model: Any) -> tuple[Any, ...]:
    """Return what peft and TRL change on a base: attributes, hooks and children of every module, its settings."""
    modules = [(module, {name: _shallow(value) for name, value in vars(module).items()}) for module in model.modules()]
    settings = [(part, copy.deepcopy(vars(part))) for part in (model.config, model.generation_config)]
    return modules, settings


def _restore(model: Any, before: tuple[Any, ...]) -> None:
    """Put everything back: adapters, patched methods, hooks, tags and settings go."""
    modules, settings = before
    for owner, attributes in (*modules, *settings):
        vars(owner).clear()
        vars(owner).update(attributes)
    model.zero_grad()


def _shallow(value: Any) -> Any:
    """Return a dictionary's copy, anything else as it is."""
    return copy.copy(value) if isinstance(value, dict) else value


def _has_vision(model: Any) -> bool:
    """Whether a model has layers that are not its decoder's."""
    return any(NOT_THE_DECODER in name for name, _ in model.named_modules())


def _quantization(quantization: str | None, device: str, dtype: str) -> Any:
    """Return transformers' setting for a quantised base, None for a plain one."""
    if quantization is None:
        return None
    if device != "cuda":
        raise UserError(
            f"training.quantization {quantization!r} needs a CUDA GPU, this is {device!r}; set it to null, or train on "
            "a GPU"
        )
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"training.quantization {quantization!r} needs bitsandbytes; install it with: pip install bitsandbytes"
        )
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=quantization == "4bit",
        load_in_8bit=quantization == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
