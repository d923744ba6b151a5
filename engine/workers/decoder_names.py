"""The decoder of a model of text and images, loaded by vLLM under the whole model's names."""

from __future__ import annotations

from transfergrid.engine.models.decoder import TEXT_PARTS

_RENAMED = {"model.language_model.": "model.", "language_model.model.": "model.", "language_model.lm_head.": "lm_head."}
_NOT_LOADED = ("model.vision_tower.", "vision_tower.", "model.multi_modal_projector.", "multi_modal_projector.")


def name_decoder_weights() -> None:
    """Let vLLM's decoders take weights and adapters by the names of the whole model; other parts are not loaded."""
    import importlib

    from vllm.model_executor.models.utils import WeightsMapper

    mapper = WeightsMapper(orig_to_new_prefix={**_RENAMED, **dict.fromkeys(_NOT_LOADED)})
    for part in TEXT_PARTS.values():
        decoder = getattr(importlib.import_module(part.module), part.architecture)
        decoder.hf_to_vllm_mapper = mapper | decoder.hf_to_vllm_mapper
