"""What is to be scored: sources and their remaining targets, each with the key that decides its numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfergrid.config.selection import Selection
from transfergrid.config.settings import GridConfig, ModelConfig
from transfergrid.engine.adapters.check import RECORD_FILE, read_linear_shapes
from transfergrid.engine.adapters.places import AdapterPlace
from transfergrid.engine.interfaces import Adapter, AdapterError
from transfergrid.engine.models.device import resolve_dtype
from transfergrid.engine.models.resolve import model_revision, read_model_facts, resolve_model
from transfergrid.engine.planning.tokenisation import TokenisationSettings
from transfergrid.engine.scorers.multi_lora import Backend
from transfergrid.engine.work.failures import Failure
from transfergrid.grid import BASE, Cell, Source, UserError
from transfergrid.store.files import hash_files
from transfergrid.store.key import RunKey
from transfergrid.store.score_store import FinishedCell, Origin

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
class BaseModel:
    """A resolved base model and the part of its keys that all its sources share."""

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


@dataclass(frozen=True, slots=True)
class SourceJob:
    """One source and the targets it is to be scored on."""

    origin: Origin
    adapter: Adapter | None
    key: RunKey
    targets: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class ModelJobs:
    """All sources of one base model, the base first."""

    base: BaseModel
    jobs: tuple[SourceJob, ...]

    @property
    def max_rank(self) -> int:
        """Largest rank of the adapters; 0 without any."""
        return max((job.adapter.rank for job in self.jobs if job.adapter is not None), default=0)

    def without(self, finished: Mapping[tuple[Origin, Cell], FinishedCell]) -> ModelJobs:
        """Return what is left to do; sources without remaining targets are left out."""
        remaining = (
            SourceJob(
                job.origin, job.adapter, job.key, tuple(t for t in job.targets if (job.origin, t) not in finished)
            )
            for job in self.jobs
        )
        return ModelJobs(self.base, tuple(job for job in remaining if job.targets))


def resolve_base(config: GridConfig, model: ModelConfig, backend: Backend) -> BaseModel:
    """Find a base model and work out what of it and of the configuration decides its numbers.

    Args:
        config: The configuration.
        model: One of its models.
        backend: The engine that scores it.

    Raises:
        UserError: If the model cannot be found, is damaged, or is of no supported shape.
    """
    folder = resolve_model(model.path, model.revision)
    read_linear_shapes(folder)  # a damaged file is the model's fault, not that of each of its adapters
    tokenisation = tokenisation_settings(config, folder)
    files = (folder / name for name in _TOKENIZER_FILES)
    shared = {
        "model": {
            "revision": model_revision(folder),
            "dtype": resolve_dtype(config.engine.dtype),
            "quantization": config.engine.quantization,
        },
        "tokenizer": {"files": hash_files(path for path in files if path.is_file())},
        "prompts": {
            "format": config.prompts.eval_format,
            "chat_template": tokenisation.chat_template,
            "template_arguments": dict(tokenisation.template_arguments) if tokenisation.chat_template else None,
        },
        "limits": {"max_length": tokenisation.max_length, "truncation": tokenisation.truncation},
        "engine": dict(backend.key_parts()),
    }
    return BaseModel(model, folder, tokenisation, shared)


def tokenisation_settings(config: GridConfig, model_folder: Path) -> TokenisationSettings:
    """Return how a configuration's items become a model's tokens."""
    facts = read_model_facts(model_folder)
    return TokenisationSettings(
        max_length=config.engine.max_model_len or facts.max_positions,
        chat_template=config.prompts.eval_chat_template,
        truncation=config.engine.truncation,
        template_arguments=config.prompts.template_arguments,
    )


def find_jobs(
    base: BaseModel, places: Sequence[AdapterPlace], selection: Selection, backend: Backend
) -> tuple[ModelJobs, tuple[Failure, ...]]:
    """Check the adapters of one model.

    Returns:
        The usable sources with all targets of the selection, and the adapters that cannot be used.
    """
    failures: list[Failure] = []
    jobs = []
    if selection.has_base:
        jobs.append(SourceJob(Origin(base.name, None, BASE), None, base.key(None), selection.targets))
    for place in places:
        if place.model != base.name:
            continue
        name = place.cell.name
        try:
            if not place.path.is_dir():
                raise AdapterError(
                    f"no adapter of that name in {str(place.path.parent)!r}; 'grid train-adapters' trains it"
                )
            require_base(place.path, base, name=f"{name}-s{place.seed}")
            adapter = backend.check_adapter(place.path, base.folder, name=f"{name}-s{place.seed}")
        except UserError as error:
            failures.append(Failure(model=base.name, seed=place.seed, source=name, reason=str(error)))
        else:
            origin = Origin(base.name, place.seed, Source(place.cell))
            jobs.append(SourceJob(origin, adapter, base.key(adapter), selection.targets))
    return ModelJobs(base, tuple(jobs)), tuple(failures)


def require_base(folder: Path, base: BaseModel, *, name: str) -> None:
    """See that an adapter was trained on this very base, where a record beside its weights says on which.

    Bases of one shape take each other's adapters, and only the record tells them apart.

    Raises:
        AdapterError: If the record names another revision, or cannot be read.
    """
    record = folder / RECORD_FILE
    if not record.is_file():
        return
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(
            f"adapter {name!r}: {RECORD_FILE} in {str(folder)!r} cannot be read: {error}; train the adapter again"
        ) from error
    trained_on = content.get("base") if isinstance(content, dict) else None
    revision = trained_on.get("revision") if isinstance(trained_on, dict) else None
    here = base.shared_parts["model"]["revision"]
    if revision is not None and revision != here:
        raise AdapterError(
            f"adapter {name!r} was trained on revision {revision!r} of its base, and {base.name!r} is {here!r}; score "
            "it with the base it was trained on (for a hub model, set its revision), or train it again"
        )
