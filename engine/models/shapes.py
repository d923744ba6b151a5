"""The linear layers of a base model and their shapes, from headers of safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from transfergrid.engine.interfaces import AdapterError
from transfergrid.store.json_text import header_shapes

DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError)  # what reading a damaged header can raise
_MAX_LAYERS = 1_000
LinearShapes = Mapping[str, tuple[int, int]]
"""(out, in) of linear layers by their name from ``layers.`` on: ``layers.0.self_attn.q_proj``."""


def read_linear_shapes(model_folder: Path) -> dict[str, tuple[int, int]]:
    """Return (out, in) of all linear layers of a base, read from the headers of its safetensors files.

    Raises:
        AdapterError: If a file is damaged, the folder holds no safetensors, or none of them holds decoder layers.
    """
    weights: dict[str, tuple[int, ...]] = {}
    for file in sorted(model_folder.glob("*.safetensors")):
        weights |= _base_shapes(file)
    if shapes := decoder_layers(weights):
        return shapes
    if matrix := next((key for key, shape in weights.items() if len(shape) == 2 and ".0." in key), None):
        raise AdapterError(
            f"the model in {str(model_folder)!r} names its layers like {matrix!r}; expected names like "
            "'model.layers.0.self_attn.q_proj.weight', as in Llama, Qwen or Gemma: models of another build, such as "
            "GPT-2, are not served"
        )
    raise AdapterError(
        f"{str(model_folder)!r} has no safetensors with decoder layers; expected the base model's own folder"
    )


def plan_linear_shapes(model_folder: Path) -> dict[str, tuple[int, int]]:
    """Return what ``read_linear_shapes`` does; for a hub's snapshot without weights, from its configuration.

    Raises:
        AdapterError: As ``read_linear_shapes``, or if transformers cannot read the configuration.
    """
    if model_folder.parent.name != "snapshots" or any(model_folder.glob("*.safetensors")):
        return read_linear_shapes(model_folder)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(model_folder), local_files_only=True)
        if (layers := config.get_text_config().num_hidden_layers) > _MAX_LAYERS:
            raise ValueError(f"{layers:.3g} layers")  # building them takes minutes, and no model has as many
        with torch.device("meta"):  # shapes without memory
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise AdapterError(
            f"the layers of the model in {str(model_folder)!r} cannot be told from its config.json "
            f"({str(error).partition('. ')[0]}); expected a causal language model that transformers knows"
        ) from error
    return decoder_layers({name: tuple(weight.shape) for name, weight in model.named_parameters()})


def decoder_layers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Return (out, in) of the linear layers among a base's weights."""
    return {
        module: (shape[0], shape[1])
        for key, shape in shapes.items()
        if key.endswith("_proj.weight") and len(shape) == 2 and (module := layer_name(key.removesuffix(".weight")))
    }


def _base_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a base's tensors in one of its files."""
    try:
        return header_shapes(file)
    except DAMAGED as error:
        raise AdapterError(
            f"{file.name!r} in model folder {str(file.parent)!r} is not a safetensors file ({error}); was it cloned "
            "without git-lfs, or not downloaded to its end? Fetch it again"
        ) from error


def layer_name(module: str) -> str:
    """Return a layer's name from ``layers.`` on, the same in checkpoints, peft and vLLM; empty outside the decoder."""
    before, marker, after = module.rpartition("layers.")
    outside = "vision" in before or not marker
    return "" if outside else marker + after
