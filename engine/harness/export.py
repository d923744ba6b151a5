"""A run's scores as results and samples files of lm-evaluation-harness."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from transfergrid.benchmarks.items import Item
from transfergrid.config.settings import GridConfig
from transfergrid.engine.harness.requests import MODEL_NAME
from transfergrid.engine.work.cells import load_cell
from transfergrid.grid import BASE_KIND, CELL_KIND, Cell, UserError
from transfergrid.store.files import hash_text, write_json, write_text
from transfergrid.store.folder import RunFolder
from transfergrid.store.scores import scan_scores, score_parts
from transfergrid.wording import count

_METRICS = ("acc", "acc_norm")
_SOURCE = ("model", "seed", "source", "source_kind")


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written."""

    output: Path
    n_sources: int
    n_samples: int
    remarks: tuple[str, ...]

    def __rich__(self) -> str:
        """Say what was written."""
        return "\n".join(
            [f"{count(self.n_samples, 'sample')} of {count(self.n_sources, 'source')} in {self.output}", *self.remarks]
        )

    def rows(self) -> pl.DataFrame:
        """Return one row of counts."""
        return pl.DataFrame([self.as_json()]).drop("remarks")

    def as_json(self) -> Any:
        """Return everything that was counted."""
        counts = {"output": str(self.output), "n_sources": self.n_sources, "n_samples": self.n_samples}
        return {**counts, "remarks": list(self.remarks)}


def export_lm_eval(config: GridConfig, run: RunFolder, output: Path) -> ExportReport:
    """Write the store's scores as the harness would have, one results file per model, seed and source.

    Prompts are written as text without the chat template. Items that were not scored are left out.

    Args:
        config: The run's configuration, for the text of the items.
        run: The run's folder.
        output: Folder for the files; its own files of an earlier export are replaced.

    Raises:
        UserError: If there are no scores, a target has a metric or a language that the harness' files cannot name, or
            the configuration's items are not those that were scored.
    """
    parts = score_parts(run)
    if not parts:
        raise UserError(f"no scores in {str(run.root)!r}; 'grid eval' makes some")
    stored = scan_scores(parts).collect()
    scored = stored.filter(pl.col("unscored_reason").is_null())
    known = scored.filter(pl.col("source_kind").is_in([BASE_KIND, CELL_KIND]))
    targets = {
        cell: _Target.read(config, run, cell, part)
        for (task, language), part in known.group_by("target_task", "target_language")
        for cell in [Cell(str(task), str(language))]
    }
    for key, part in known.group_by(*_SOURCE, maintain_order=True):
        _write_source(config, run, output, dict(zip(_SOURCE, key, strict=True)), _by_cell(part, targets))
    return ExportReport(output, known.select(_SOURCE).n_unique(), known.height, tuple(_left_out(stored, scored, known)))


def _left_out(stored: pl.DataFrame, scored: pl.DataFrame, known: pl.DataFrame) -> Iterator[str]:
    """Say what of the store is in no file."""
    if stored.height > scored.height:
        yield f"left out {count(stored.height - scored.height, 'row')} of items that were not scored"
    if others := sorted(set(scored["source"]) - set(known["source"])):
        yield f"left out sources that are no adapter of one cell, which the files cannot name: {', '.join(others)}"


@dataclass(frozen=True, slots=True)
class _Target:
    """A target cell: how its files name it, and the text of its items."""

    task: str
    metric: str
    items: Mapping[str, Item]

    @classmethod
    def read(cls, config: GridConfig, run: RunFolder, cell: Cell, scored: pl.DataFrame) -> _Target:
        """Read a target's items and check that they are those that were scored."""
        (metric,) = scored["primary_metric"].unique()
        if metric not in _METRICS:
            raise UserError(
                f"target {cell.name!r} is scored by {metric!r}, which the harness' results files for choices do not "
                f"have; expected one of {list(_METRICS)}"
            )
        if len(cell.language) != 2:
            raise UserError(
                f"target {cell.name!r} has the language {cell.language!r}, which 'grid import lm-eval' would not read "
                "back; expected a code of two letters"
            )
        items = {item.item_id: item for item in load_cell(config, run.data, cell).items}
        for item_id, chars in scored.select("item_id", "choice_chars").unique().iter_rows():
            if item_id not in items or list(items[item_id].choice_chars) != chars:
                raise UserError(
                    f"item {item_id!r} of {cell.name!r} was scored with other choices than the configuration gives; "
                    "export with the configuration and data of the evaluation"
                )
        return cls(f"{cell.task}_{cell.language}", metric, items)


def _by_cell(part: pl.DataFrame, targets: Mapping[Cell, _Target]) -> Iterator[tuple[_Target, pl.DataFrame]]:
    for (task, language), rows in part.group_by("target_task", "target_language", maintain_order=True):
        yield targets[Cell(str(task), str(language))], rows


def _write_source(
    config: GridConfig,
    run: RunFolder,
    output: Path,
    source: Mapping[str, Any],
    scored: Iterator[tuple[_Target, pl.DataFrame]],
) -> None:
    """Write the samples of a source's targets, then its results file."""
    model = next((each for each in config.models if each.name == source["model"]), None)
    arguments = {"pretrained": source["model"] if model is None else model.path}
    folder = output / str(source["model"])
    if source["source_kind"] != BASE_KIND:
        place = f"s{source['seed']}/{source['source']}"
        arguments["peft"] = str(run.adapters / str(source["model"]) / place)
        folder = folder / place
    time = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")
    for earlier in (*folder.glob("results_*.json"), *folder.glob("samples_*.jsonl")):
        earlier.unlink()
    results: dict[str, dict[str, Any]] = {name: {} for name in ("results", "configs", "n-shot", "n-samples")}
    for target, rows in scored:
        samples = [_sample(target, row, config) for row in rows.iter_rows(named=True)]
        lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        write_text(folder / f"samples_{target.task}_{time}.jsonl", lines)
        metrics = _METRICS[: 1 + (target.metric == "acc_norm")]
        results["results"][target.task] = dict(_means(samples, metrics))
        results["configs"][target.task] = {"task": target.task, "target_delimiter": _delimiter(target, config)}
        results["n-shot"][target.task] = config.prompts.shots
        results["n-samples"][target.task] = {"original": len(samples), "effective": len(samples)}
    write_json(folder / f"results_{time}.json", {**results, "config": {"model": MODEL_NAME, "model_args": arguments}})


def _delimiter(target: _Target, config: GridConfig) -> str:
    item = next(iter(target.items.values()))
    return next(_requests(item, config))[1].removesuffix(item.measured[0])


def _requests(item: Item, config: GridConfig) -> Iterator[tuple[str, str]]:
    """Yield prompt and text of every choice, a chat as its texts."""
    for text in () if item.requests else item.scored_texts(chat_template=config.prompts.eval_chat_template):
        yield item.prompt, text
    for prompt, text in ((request.prompt, request.continuation) for request in item.requests):
        yield "\n\n".join(each for _, each in prompt) if isinstance(prompt, tuple) else prompt or "", text


def _sample(target: _Target, row: Mapping[str, Any], config: GridConfig) -> dict[str, Any]:
    item = target.items[row["item_id"]]
    pairs = list(_requests(item, config))
    answers = [[[repr(value), None]] for value in row["loglikelihoods_nats"]]  # greedy matches are not stored
    document = {"id": item.item_id, "context": item.context, "choices": list(item.choices), "gold": item.gold}
    scores = {"acc": float(row["pred"] == row["gold"]), "acc_norm": float(row["pred_norm"] == row["gold"])}
    metrics = _METRICS[: 1 + (target.metric == "acc_norm")]
    return {
        "doc_id": item.item_id,
        "doc": document,
        "target": str(row["gold"]),
        "arguments": {f"gen_args_{n}": {"arg_0": prompt, "arg_1": text} for n, (prompt, text) in enumerate(pairs)},
        "resps": answers,
        "filtered_resps": [answer for (answer,) in answers],
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": hash_text(json.dumps(document, ensure_ascii=False)),
        "prompt_hash": hash_text(pairs[0][0]),
        "target_hash": hash_text(str(row["gold"])),
        **{name: scores[name] for name in metrics},
    }


def _means(samples: list[dict[str, Any]], metrics: tuple[str, ...]) -> Iterator[tuple[str, float | str]]:
    for name in metrics:
        mean = sum(sample[name] for sample in samples) / len(samples)
        yield f"{name},none", mean
        error = math.sqrt(mean * (1 - mean) / (len(samples) - 1)) if len(samples) > 1 else None
        yield f"{name}_stderr,none", "N/A" if error is None else error
