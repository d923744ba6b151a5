"""Brings results of lm-evaluation-harness into a run: aggregates, or items where samples were logged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import polars as pl

from transfergrid.analysis.imports import ImportReport, summarise_import
from transfergrid.analysis.store import IMPORTED_SCHEMA, SE_OF_SEEDS
from transfergrid.benchmarks.files import write_atomically
from transfergrid.benchmarks.scores import SCORE_SCHEMA
from transfergrid.grid import Cell, RunFolder, Source, UserError

ALIASES = {
    "arc": "arc_challenge",
    "arc_challenge": "arc_challenge",
    "hellaswag": "hellaswag",
    "truthfulqa": "truthfulqa",
    "global_mmlu": "global_mmlu",
    "global_mmlu_full": "global_mmlu",
}
"""Task names of lm-evaluation-harness without language and ``_mc1``; other names are kept."""

UNKNOWN_SEED = 0
"""Seed of an adapter whose path has no folder ``sSEED``."""

_ID_FIELDS = ("id", "sample_id", "truth_id", "item_id")
_RESULT_NAME = re.compile(r"results_(?P<time>.+)\.json")


@dataclass(frozen=True, slots=True)
class Result:
    """The scores of one source on one target in one results file."""

    model: str
    seed: int | None
    """None: the base model."""
    source: Source
    target: Cell
    acc: float | None
    acc_norm: float | None
    stderr: float | None
    """Of the score, unpaired."""
    samples: Path | None
    time: str
    """When it was run, as in the file's name."""
    n_items: int | None

    @property
    def score(self) -> float:
        """acc_norm where the task has it, else acc."""
        return self.acc_norm if self.acc_norm is not None else (self.acc or 0.0)

    @property
    def metric(self) -> str:
        """Name of the score."""
        return "acc" if self.acc_norm is None else "acc_norm"

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What is scored once; a later run replaces an earlier one."""
        return self.model, -1 if self.seed is None else self.seed, self.source.name, self.target.name


def task_cell(name: str) -> Cell | None:
    """Return the cell of a task name such as ``arc_de``, ``truthfulqa_bn_mc1`` or ``hellaswag`` (English).

    None: the name has no two-letter language and is no known task, or is a part of a task.
    """
    plain = name.removesuffix("_mc1")
    if plain in ALIASES:
        return Cell(ALIASES[plain], "en")
    stem, _, language = plain.rpartition("_")
    if not stem or not re.fullmatch(r"[a-z]{2}", language):
        return None
    try:
        return Cell(ALIASES.get(stem, stem), language)
    except UserError:
        return None


def adapter_source(arguments: Mapping[str, Any]) -> tuple[str, int | None, Source]:
    """Return model name, seed and source of a run's model arguments.

    The adapter's folder names its cell, ``.../sSEED/TASK-LANG``; ``peft`` and ``lora_local_path`` are read.

    Raises:
        UserError: If no base model is named or the adapter's folder is not a cell.
    """
    base = arguments.get("pretrained") or arguments.get("model")
    if not isinstance(base, str) or not base:
        raise UserError(f"model_args {dict(arguments)!r} name no base model; expected 'pretrained=...'")
    model = base.rstrip("/").rsplit("/", 1)[-1]
    path = arguments.get("peft") or arguments.get("lora_local_path")
    if not path:
        return model, None, Source()
    folder = Path(str(path))
    try:
        cell = Cell.parse(folder.name)
    except UserError as error:
        raise UserError(
            f"adapter folder {str(path)!r} does not say what it was trained on; name it 'TASK-LANG', "
            "for example '.../s17/arc_challenge-de'"
        ) from error
    seed = re.fullmatch(r"s(\d+)", folder.parent.name)
    return model, int(seed[1]) if seed else UNKNOWN_SEED, Source(cell)


def parse_arguments(raw: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return ``model_args`` as a mapping; older files have them as ``a=1,b=2``."""
    if isinstance(raw, str):
        return dict(part.split("=", 1) for part in raw.split(",") if "=" in part)
    return dict(raw or {})


def import_lm_eval(folder: Path, run: RunFolder) -> ImportReport:
    """Read every ``results_*.json`` below a folder into the run's imports.

    A model whose every result has its samples logged becomes item rows (``imported/scores/lm_eval.parquet``); the
    others become aggregates (``imported/lm_eval.parquet``), adapter against baseline, averaged over seeds.

    Raises:
        UserError: If there are no results, a file is not such JSON, no result fits a cell, or a baseline is missing.
    """
    paths = sorted(folder.rglob("results_*.json"))
    if not paths:
        raise UserError(f"no 'results_*.json' below {str(folder)!r}; give lm-evaluation-harness's --output_path")
    skipped: set[str] = set()
    found = [result for path in paths for result in _read_results(path, skipped)]
    if not found:
        raise UserError(f"no result below {str(folder)!r} is of a task with a language; skipped {sorted(skipped)}")
    newest = {result.key: result for result in sorted(found, key=lambda each: each.time)}
    results = [newest[key] for key in sorted(newest)]
    remarks = _remarks(skipped, len(found) - len(results))
    with_items = _with_items(results)
    items = [result for result in results if result.model in with_items]
    others = [result for result in results if result.model not in with_items]
    reports = [
        *([_write_items(items, run)] if items else []),
        *([_write_aggregates(others, run)] if others else []),
    ]
    return _merge_reports(reports, run, remarks)


def _remarks(skipped: set[str], n_replaced: int) -> tuple[str, ...]:
    remarks = []
    if skipped:
        remarks.append(f"skipped tasks without a language: {', '.join(sorted(skipped))}")
    if n_replaced:
        remarks.append(f"{n_replaced} results were replaced by later ones of the same source and target")
    return tuple(remarks)


def _with_items(results: Sequence[Result]) -> set[str]:
    without = {result.model for result in results if result.samples is None}
    return {result.model for result in results} - without


def _merge_reports(reports: Sequence[ImportReport], run: RunFolder, remarks: tuple[str, ...]) -> ImportReport:
    first = reports[0]
    return ImportReport(
        first.path if len(reports) == 1 else run.imported,
        sum(report.n_rows for report in reports),
        " and ".join(report.what for report in reports),
        tuple(sorted({model for report in reports for model in report.models})),
        max(report.n_sources for report in reports),
        max(report.n_targets for report in reports),
        remarks,
    )


def _read_results(path: Path, skipped: set[str]) -> Iterator[Result]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        results, config = content["results"], content["config"]
        arguments = parse_arguments(config.get("model_args"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{str(path)!r} is not a results file of lm-evaluation-harness: {error!r}") from error
    model, seed, source = adapter_source(arguments)
    named = _RESULT_NAME.fullmatch(path.name)
    time = named["time"] if named else path.name
    for name, scores in results.items():
        target = task_cell(name)
        scores = scores if isinstance(scores, Mapping) else {}
        acc = _number(scores.get("acc,none", scores.get("acc")))
        if target is None or acc is None:
            skipped.add(name)
            continue
        samples = path.with_name(f"samples_{name}_{time}.jsonl")
        norm = _number(scores.get("acc_norm,none"))
        yield Result(
            model=model,
            seed=seed,
            source=source,
            target=target,
            acc=acc,
            acc_norm=norm,
            stderr=_number(scores.get("acc_stderr,none" if norm is None else "acc_norm_stderr,none")),
            samples=samples if samples.exists() else None,
            time=time,
            n_items=content.get("n-samples", {}).get(name, {}).get("effective"),
        )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _write_aggregates(results: Sequence[Result], run: RunFolder) -> ImportReport:
    baselines = {(each.model, each.target.name): each for each in results if each.source.is_base}
    records = []
    for result in results:
        if result.source.cell is None:
            continue
        base = baselines.get((result.model, result.target.name))
        if base is None:
            raise UserError(
                f"model {result.model!r} has no baseline on {result.target.name!r}; run lm-evaluation-harness "
                "without the adapter on the same tasks and put its results in the same folder"
            )
        records.append(_delta_record(result, base))
    if not records:
        raise UserError("the results are of base models only; expected runs with 'peft=...' or 'lora_local_path=...'")
    table = _average_seeds(pl.DataFrame(records))
    path = run.imported / "lm_eval.parquet"
    write_atomically(path, table.write_parquet)
    return summarise_import(path, table, "aggregates")


def _delta_record(result: Result, base: Result) -> dict[str, object]:
    assert result.source.cell is not None
    known = result.stderr is not None and base.stderr is not None
    return {
        "model": result.model,
        "source_task": result.source.cell.task,
        "source_language": result.source.cell.language,
        "target_task": result.target.task,
        "target_language": result.target.language,
        "base_score": base.score,
        "adapter_score": result.score,
        # 0.14 - 0.15 is a little more than -0.01 in binary: it must still count as harm
        "delta_pp": round(100 * (result.score - base.score), 9),
        "unpaired_se_pp": 100 * ((result.stderr or 0) ** 2 + (base.stderr or 0) ** 2) ** 0.5 if known else None,
        "primary_metric": result.metric,
    }


def _average_seeds(table: pl.DataFrame) -> pl.DataFrame:
    keys = ["model", "source_task", "source_language", "target_task", "target_language"]
    several = pl.len() > 1
    unpaired = pl.col("unpaired_se_pp").cast(pl.Float64).first()
    averaged = table.group_by(keys, maintain_order=True).agg(
        pl.col("base_score", "adapter_score").mean(),
        pl.col("delta_pp").mean().round(9),
        pl.col("primary_metric").first(),
        delta_sd_pp=pl.col("delta_pp").std(),
        se_pp=pl.when(several).then(pl.col("delta_pp").std() / pl.len().sqrt()).otherwise(unpaired),
        n_seeds=pl.len().cast(pl.Int64),
        se_origin=pl.when(several).then(pl.lit(SE_OF_SEEDS)).when(unpaired.is_not_null()).then(pl.lit("unpaired")),
    )
    filled = averaged.with_columns(
        size_b=pl.lit(None, dtype=pl.Float64), seed=pl.lit(None, dtype=pl.Int64), origin=pl.lit("lm-evaluation-harness")
    )
    return filled.select(pl.col(name).cast(dtype) for name, dtype in IMPORTED_SCHEMA.items()).sort(keys)


def _write_items(results: Sequence[Result], run: RunFolder) -> ImportReport:
    rows = [row for result in results for row in _item_rows(result)]
    table = pl.DataFrame(rows, schema=SCORE_SCHEMA, orient="row")
    path = run.imported / "scores" / "lm_eval.parquet"
    write_atomically(path, table.write_parquet)
    return summarise_import(path, table, "item rows")


def _item_rows(result: Result) -> Iterator[dict[str, object]]:
    assert result.samples is not None
    try:
        with result.samples.open(encoding="utf-8") as handle:
            samples = [json.loads(line) for line in handle if line.strip()]
        ids = _item_ids(samples)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{str(result.samples)!r} is not a samples file of lm-evaluation-harness: {error!r}") from error
    for item_id, sample in zip(ids, samples, strict=True):
        yield {
            "model": result.model,
            "seed": result.seed,
            "source_task": result.source.cell.task if result.source.cell else None,
            "source_language": result.source.cell.language if result.source.cell else None,
            "target_task": result.target.task,
            "target_language": result.target.language,
            "item_id": item_id,
            "primary_metric": result.metric,
            "run_key": f"lm-eval {result.time}",
            "n_truncated_tokens": 0,
            **_answer(result, item_id, sample),
        }


def _item_ids(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the documents' own ids where every one has a unique one, else their positions."""
    for name in _ID_FIELDS:
        ids = [str(sample.get("doc", {}).get(name, "")) for sample in samples]
        if all(ids) and len(set(ids)) == len(ids):
            return ids
    return [str(sample["doc_id"]) for sample in samples]


def _answer(result: Result, item_id: str, sample: Mapping[str, Any]) -> dict[str, object]:
    try:
        values = [float(response[0]) for response in sample["filtered_resps"]]
        arguments = sample["arguments"]
        listed = list(arguments.values()) if isinstance(arguments, dict) else arguments
        texts = [each["arg_1"] if isinstance(each, dict) else each[1] for each in listed]
        gold = int(sample["target"])
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise UserError(f"sample {item_id!r} in {str(result.samples)!r} is not multiple choice: {error!r}") from error
    # the task's target delimiter is one blank; acc_norm counts the choice without it
    chars = [len(text.removeprefix(" ")) for text in texts]
    if len(chars) != len(values) or not all(chars) or not 0 <= gold < len(values) or not all(map(isfinite, values)):
        raise UserError(
            f"sample {item_id!r} in {str(result.samples)!r} has {len(values)} log-likelihoods, choices of {chars} "
            f"characters and gold {gold}; expected one finite number per choice and gold among them"
        )
    return {
        "gold": gold,
        "pred": max(range(len(values)), key=lambda choice: values[choice]),
        "pred_norm": max(range(len(values)), key=lambda choice: values[choice] / chars[choice]),
        "loglikelihoods_nats": values,
        "choice_chars": chars,
        "unscored_reason": None,
    }
