"""The decoder of a model: its configuration with nothing left out, and how to serve it without an image encoder.

A published configuration may leave out whatever equals transformers' defaults, and a model of text and images keeps
its decoder's configuration and weights under names of their own. vLLM would start such a model with its processor of
images; here it is given the decoder's configuration, and the weights by the decoder's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transfergrid.engine.models.bundled import cache_folder
from transfergrid.grid import UserError
from transfergrid.store.files import hash_json, write_json
from transfergrid.store.json_text import JsonError, read_json


@dataclass(frozen=True, slots=True)
class TextPart:
    """The decoder of a kind of model that takes more than text."""

    model_type: str
    """Of the decoder's own configuration."""
    architecture: str
    """The class that holds the decoder alone."""
    module: str
    """Where vLLM keeps that class."""


TEXT_PARTS: Mapping[str, TextPart] = {
    "gemma3": TextPart("gemma3_text", "Gemma3ForCausalLM", "vllm.model_executor.models.gemma3"),
}
"""By ``model_type``: models of which the decoder is served and the rest is not loaded."""


class PeftNames(NamedTuple):
    """How peft names the layers of a model's decoder."""

    prefix: str
    """Before ``layers.``"""
    excluded: str | None
    """Pattern of the layers of the model's other parts; None: it has none."""


_PEFT_PREFIX = "base_model.model.model."
_OTHER_INPUTS = ("vision_config", "audio_config")
_OUTER_KEYS = ("quantization_config", "tie_word_embeddings")  # written beside the decoder's configuration, meant for it
_GENERATION = "generation_config.json"


def read_decoder_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a model's decoder, what it leaves out filled in as transformers does.

    Raises:
        UserError: If ``config.json`` cannot be read, or the model takes more than text and its decoder is not served.
    """
    config, part = _read_config(folder)
    if part is not None:
        config = {**(config.get("text_config") or {}), "model_type": part.model_type}
    elif others := [key for key in _OTHER_INPUTS if key in config]:
        raise UserError(
            f"model {str(folder)!r} is a {config.get('model_type')!r} with {others[0]!r}, which takes more than text; "
            f"expected a text model, or one of {sorted(TEXT_PARTS)}, whose text part is served"
        )
    return {key: value for key, value in _completed(config, folder).items() if value is not None}


def peft_names(folder: Path) -> PeftNames:
    """Return how peft names the layers of a model's decoder."""
    _, part = _read_config(folder)
    return PeftNames(_PEFT_PREFIX, None) if part is None else PeftNames(f"{_PEFT_PREFIX}language_model.", ".*vision.*")


def text_arguments(folder: Path) -> dict[str, str]:
    """Return the vLLM arguments that let it see the decoder only; none for a model of text alone.

    The decoder's configuration is written to the cache, once per content.
    """
    config, part = _read_config(folder)
    if part is None:
        return {}
    outer = {key: config[key] for key in _OUTER_KEYS if key in config}
    text = {**(config.get("text_config") or {}), **outer, "model_type": part.model_type}
    text["architectures"] = [part.architecture]
    path = folder / _GENERATION
    generation = read_json(path, allow_nan=True) if path.is_file() else None
    target = cache_folder() / "text-parts" / hash_json([text, generation])[:16]
    if not (target / "config.json").is_file():
        if generation is not None:
            write_json(target / _GENERATION, generation)
        write_json(target / "config.json", text)  # last: a reader that finds it finds all files
    return {"hf_config_path": str(target)}


def _read_config(folder: Path) -> tuple[dict[str, Any], TextPart | None]:
    """Return a model's configuration as it is written, and which part of it is served if not all.

    Raises:
        UserError: If there is no ``config.json``, or it is not a JSON mapping of texts and numbers.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"model folder {str(folder)!r} has no config.json; expected a folder saved by transformers")
    try:
        config = read_json(path, allow_nan=True)
        expected: dict[str, Any] = {"": dict, "model_type": str | None, "text_config": dict | None}
        for key, kind in expected.items():
            value = config.get(key) if key else config
            if not isinstance(value, kind):
                raise JsonError(str(path), f"{key or 'it'} holds {value!r:.40}")
    except JsonError as error:
        raise UserError(
            f"config.json in model folder {str(folder)!r} cannot be read: {error.reason}; expected one saved by "
            "transformers; was it cloned without git-lfs, or not downloaded to its end? Fetch it again"
        ) from error
    return config, TEXT_PARTS.get(config.get("model_type"))


def _completed(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a configuration as transformers completes it; as it is for kinds of models that transformers lacks."""
    from transformers import CONFIG_MAPPING

    if config.get("model_type") not in CONFIG_MAPPING:
        return config
    try:
        completed: dict[str, Any] = CONFIG_MAPPING[config["model_type"]].from_dict(config).to_dict()
    except Exception as error:  # each kind of model checks its settings in its own way
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise UserError(
            f"config.json in {str(folder)!r} is refused by transformers: {reason}; expected one saved by transformers"
        ) from error
    return completed


def checked_folder(folder: Path) -> Path:
    """Return the folder if it holds a model.

    Raises:
        UserError: If there is no ``config.json``, or it is not a JSON mapping.
    """
    _read_config(folder)
    return folder
