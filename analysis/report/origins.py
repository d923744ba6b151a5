"""The origin of a run's numbers, as its folder records it, for the last section of the page."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from transfergrid.config.settings import GridConfig
from transfergrid.store.counts import describe_counts, sum_counts
from transfergrid.store.data_manifest import read_manifest
from transfergrid.store.files import hash_files
from transfergrid.store.folder import RECORD_FILE, RunFolder
from transfergrid.store.json_text import JsonError, read_json
from transfergrid.store.provenance import installed_versions
from transfergrid.store.score_store import Part, read_footers
from transfergrid.wording import count as counted

ANALYSIS_PACKAGES = ("transfergrid", "polars", "numpy", "scipy", "statsmodels", "lang2vec")

_SHORT_HASH = 16
_NOT_KEPT = "not recorded in this run"

Facts = list[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestPart:
    """One block of the manifest: facts, then perhaps a table."""

    title: str
    facts: Facts
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    text: str = ""
    """Preformatted text, such as the configuration."""


def read_run_manifest(run: RunFolder, config: GridConfig | None = None) -> list[ManifestPart]:
    """Return what a run folder says about configuration, versions, data, scores, adapters and imports.

    Args:
        run: The run's folder; what is not there is left out, what cannot be read is counted.
        config: The configuration of the analysis; None: the defaults.
    """
    parts = [_report_part(run), _config_part(config), _data_part(run), *_score_parts(run), *_adapter_parts(run)]
    return [*parts, *_import_parts(run)]


def _report_part(run: RunFolder) -> ManifestPart:
    versions = {"python": platform.python_version(), **installed_versions(ANALYSIS_PACKAGES)}
    facts = [
        ("run folder", run.root.resolve().name),
        ("made", datetime.now(UTC).isoformat(timespec="seconds")),
        ("versions", _listed(versions)),
    ]
    return ManifestPart(title="This page", facts=facts)


def _config_part(config: GridConfig | None) -> ManifestPart:
    if config is None:
        facts = [("configuration", "none was given: the analysis' defaults, and the cells that are there")]
        return ManifestPart(title="Configuration", facts=facts)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
    return ManifestPart(title="Configuration", facts=[("resolved", "every setting, defaults included")], text=text)


def _data_part(run: RunFolder) -> ManifestPart:
    manifest = read_manifest(run.data)
    if manifest is None:
        return ManifestPart(title="Data", facts=[("items", _NOT_KEPT)])
    facts = [
        ("source", manifest.source),
        ("languages", " ".join(manifest.languages)),
        *((f"{task}", _listed(counts)) for task, counts in manifest.counts.items()),
        *((f"{task} revision", revision) for task, revision in manifest.revisions.items()),
        *((f"{task} ids left out", str(count)) for task, count in manifest.dropped.items() if count),
        ("request hash", manifest.request_hash),
        *(("remark", remark) for remark in manifest.remarks),
    ]
    rows = tuple((cell, digest) for cell, digest in sorted(manifest.hashes.items()))
    return ManifestPart(title="Data", facts=facts, columns=("cell", "SHA-256 of its files"), rows=rows)


def _score_parts(run: RunFolder) -> Iterator[ManifestPart]:
    (parts, unknown), imported = read_footers(run.scores), read_footers(run.imported / "scores")
    parts, unknown = [*parts, *imported[0]], [*unknown, *imported[1]]
    if not parts and not unknown:
        return
    keys = Counter((part.origin.model, _without_adapter(part)) for part in parts)
    facts = [("files", f"{len(parts) + len(unknown)}, {len(unknown)} without a record of how they were scored")]
    facts.append(("counts", describe_counts(sum_counts(asdict(cell) for part in parts for cell in part.cells))))
    yield ManifestPart(
        title="Scores",
        facts=facts,
        columns=("model", "files", "what decided the numbers"),
        rows=tuple((model, str(count), _listed(json.loads(decided))) for (model, decided), count in keys.most_common()),
    )
    n_cells = {**dict.fromkeys(unknown, "-"), **{part.path.name: str(len(part.cells)) for part in parts}}
    yield ManifestPart(
        title="Score files",
        facts=[("names", "hold a checksum of the content where this project wrote them")],
        columns=("file", "cells"),
        rows=tuple(sorted(n_cells.items())),
    )


def _without_adapter(part: Part) -> str:
    """Return what decided a part's numbers, without the adapter, as sorted JSON."""
    return json.dumps({name: each for name, each in part.key_parts.items() if name != "adapter"}, sort_keys=True)


def _adapter_parts(run: RunFolder) -> Iterator[ManifestPart]:
    paths = sorted(run.adapters.glob(f"*/*/*/{RECORD_FILE}"))
    records = [record for path in paths if (record := _read_json(path)) is not None]
    if not paths:
        return
    facts = [
        ("adapters", f"{len(records)}" + (f", {len(paths) - len(records)} unreadable" * (len(records) < len(paths))))
    ]
    for name in ("versions", "git", "base", "resolved"):
        for text, count in Counter(_record_text(record, name) for record in records).most_common():
            facts.append((name, f"{text} ({counted(count, 'adapter')})"))
    for section in ("lora", "training"):
        for text, count in Counter(_listed(_section(record, "config").get(section)) for record in records).items():
            facts.append((section, f"{text} ({counted(count, 'adapter')})"))
    columns = ("model", "seed", "source", "train items", "best epoch", "validation loss", "content hash")
    yield ManifestPart(title="Adapters", facts=facts, columns=columns, rows=tuple(map(_adapter_row, records)))


def _record_text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if name == "resolved" and isinstance(value, Mapping):
        value = {key: each for key, each in value.items() if key in ("dtype", "device", "max_length")}
    return _listed(value)


def _section(record: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = record.get(name)
    return found if isinstance(found, Mapping) else {}


def _adapter_row(record: Mapping[str, Any]) -> tuple[str, ...]:
    loss = record.get("best_validation_loss")
    return (
        str(record.get("model", "-")),
        str(record.get("seed", "-")),
        str(record.get("cell", record.get("source", "-"))),
        str(_section(record, "data").get("n_train", "-")),
        str(record.get("best_epoch", "-")),
        f"{loss:.4f}" if isinstance(loss, float) else "-",
        str(record.get("content_hash", "-"))[:_SHORT_HASH],
    )


def _import_parts(run: RunFolder) -> Iterator[ManifestPart]:
    paths = sorted(run.imported.glob("*.parquet"))
    if paths:
        tables = [pl.read_parquet(path, columns=["origin"]) for path in paths]
        rows = tuple(
            (path.name, str(table.height), hash_files([path])) for path, table in zip(paths, tables, strict=True)
        )
        yield ManifestPart(
            title="Imported tables",
            facts=[("origin", _listed(pl.concat(tables)["origin"].unique().sort().to_list()))],
            columns=("file", "rows", "SHA-256"),
            rows=rows,
        )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = read_json(path)
    except JsonError:
        return None
    return found if isinstance(found, dict) else None


def _flatten(parts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in parts.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _listed(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in _flatten(value).items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return _NOT_KEPT if value is None else str(value)
