"""One base model of a sweep, with the part of the run key that all its sources share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transfergrid.config.settings import GridConfig, ModelConfig
from transfergrid.engine.adapters.folder import RECORD_FILE
from transfergrid.engine.interfaces import Adapter, AdapterError, ScorerMaker
from transfergrid.engine.models.device import engine_device_type, resolve_dtype
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.engine.models.resolve import model_revision, resolve_model
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.models.token_facts import token_facts
from transfergrid.engine.models.tokenizer import TokenisationSettings
from transfergrid.store.file_index import FileIndex
from transfergrid.store.files import hash_files
from transfergrid.store.json_text import JsonError, read_json
from transfergrid.store.key import RunKey

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)
_NO_ADAPTER: Mapping[str, Any] = {"content": None}


@dataclass(frozen=True, slots=True)
class ScoredBase:
    """A base model that is scored: where it lies, and the part of its keys that all its sources share."""

    config: ModelConfig
    folder: Path
    tokenisation: TokenisationSettings
    shared_parts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The configuration's name of the model."""
        return self.config.name

    def key(self, adapter: Adapter | None) -> RunKey:
        """Return what decides the numbers of one source."""
        content = _NO_ADAPTER if adapter is None else {"content": adapter.content_hash}
        return RunKey({**self.shared_parts, "adapter": content})


def resolve_base(
    config: GridConfig, model: ModelConfig, maker: ScorerMaker, index: FileIndex | None = None
) -> ScoredBase:
    """Find a base model and work out what of it and of the configuration decides its numbers.

    Without an index of what is known of unchanged models, every byte is read.

    Raises:
        UserError: If the model cannot be found, is damaged, or is of no supported shape.
    """
    folder = resolve_model(model.path, model.revision)
    read_linear_shapes(folder)  # a damaged file is the model's fault, not that of each of its adapters
    tokenisation = tokenisation_settings(config, folder)
    files = (folder / name for name in _TOKENIZER_FILES)
    shared = {
        "model": {
            "revision": _revision(folder, index),
            "dtype": resolve_dtype(config.engine.dtype, engine_device_type()),
            "quantization": config.engine.quantization,
        },
        "tokenizer": {
            "files": hash_files(path for path in files if path.is_file()),
            **token_facts(folder, tokenisation),
        },
        "prompts": {
            "format": config.prompts.eval_format,
            "chat_template": tokenisation.chat_template,
            "template_arguments": dict(tokenisation.template_arguments) if tokenisation.chat_template else None,
            **({"shots_as_turns": True} if tokenisation.chat_template and tokenisation.shots_as_turns else {}),
        },
        "limits": {"max_length": tokenisation.max_length, "truncation": tokenisation.truncation},
        "engine": dict(maker.key_parts()),
    }
    return ScoredBase(model, folder, tokenisation, shared)


def _revision(folder: Path, index: FileIndex | None) -> str:
    """Return what pins a model's weights; they are hashed only where they may have changed."""
    if index is None:
        return model_revision(folder)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return str(index.look_up(folder, files, partial(model_revision, folder)))


def tokenisation_settings(config: GridConfig, model_folder: Path) -> TokenisationSettings:
    """Return how a configuration's items become a model's tokens."""
    facts = read_model_facts(model_folder)
    return TokenisationSettings(
        max_length=config.engine.max_model_len or facts.max_positions,
        chat_template=config.prompts.eval_chat_template,
        truncation=config.engine.truncation,
        template_arguments=config.prompts.template_arguments,
        date=config.prompts.date,
        shots_as_turns=config.prompts.shots > 0 and config.prompts.shots_as_turns,
    )


def require_base(folder: Path, base: ScoredBase, *, name: str) -> None:
    """Check that an adapter was trained on this base, where a record beside its weights names its base.

    Bases of one shape take each other's adapters, and only the record tells them apart.

    Raises:
        AdapterError: If the record names another revision, or cannot be read.
    """
    record = folder / RECORD_FILE
    if not record.is_file():
        return
    try:
        content = read_json(record, allow_nan=True)
    except JsonError as error:
        raise AdapterError(
            f"adapter {name!r}: {RECORD_FILE} in {str(folder)!r} cannot be read: {error.reason}; train it again"
        ) from error
    trained_on = content.get("base") if isinstance(content, dict) else None
    revision = trained_on.get("revision") if isinstance(trained_on, dict) else None
    here = base.shared_parts["model"]["revision"]
    if revision is not None and revision != here:
        raise AdapterError(
            f"adapter {name!r} was trained on revision {revision!r} of its base, and {base.name!r} is {here!r}; score "
            "it with the base it was trained on (for a hub model, set its revision), or train it again"
        )
