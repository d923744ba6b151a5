"""Reads results files of lm-evaluation-harness: which model, adapter and cell a score is of, and its samples."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from transfergrid.analysis.imports.lm_eval_conditions import read_conditions
from transfergrid.analysis.imports.lm_eval_names import adapter_source, parse_arguments, task_cell
from transfergrid.benchmarks.spec import HARNESS_METRICS
from transfergrid.grid import Cell, Source, UserError
from transfergrid.store.json_text import read_json
from transfergrid.wording import one_line

COUNTED = {
    "acc": "mean",
    "acc_mutual_info": "mean",
    "acc_bytes": "mean",
    "byte_perplexity": "weighted_perplexity",
    "bits_per_byte": "bits_per_byte",
    "word_perplexity": "weighted_perplexity",
    "perplexity": "perplexity",
}
"""Metrics that may be an item's value as the harness logs it, the first one first, and how it sums them up."""
_SAME = 1e-9
_RESULT_NAME = re.compile(r"results_(?P<time>.+)\.json")


class Samples(NamedTuple):
    """Logged samples of one task."""

    part: str
    """Which part of a group of tasks it is, without the group's name; empty: the task is no group."""
    path: Path
    delimiter: str = " "
    """What the task puts between context and choice; acc_norm does not count it."""
    acc: float | None = None
    """The results file's own mean over these samples; None: it does not say."""
    counted: str | None = None
    """The harness' metric that is an item's value where choices and log-likelihoods alone do not make it."""


@dataclass(frozen=True, slots=True)
class Result:
    """The scores of one source on one target in one results file."""

    model: str
    """Name of the base model: the last part of ``base``, or all of it where two would have one name."""
    base: str
    """Base model as the results file names it."""
    adapter: str | None
    """Folder of the adapter as the results file names it; None: the base model."""
    seed: int | None
    """None: the base model."""
    source: Source
    target: Cell
    acc: float | None
    """Of a task that is counted, the share by its metric; None where that is no share."""
    acc_norm: float | None
    stderr: float | None
    """Of the score, unpaired."""
    samples: tuple[Samples, ...]
    """Logged samples, one file per part of a group of tasks."""
    unlogged: tuple[str, ...]
    """Tasks of the harness whose samples are not there; none: every item of the target is in ``samples``."""
    time: str
    """When it was run, as in the file's name."""
    n_items: int | None
    """None: the file does not say."""
    conditions: Mapping[str, str | None] = field(default_factory=dict)
    """What else decided the score, see `read_conditions`."""

    @property
    def score(self) -> float:
        """acc_norm where the task has it, else acc."""
        return self.acc_norm if self.acc_norm is not None else (self.acc or 0.0)

    @property
    def metric(self) -> str:
        """Name of the score."""
        if counted := {each.counted for each in self.samples} - {None}:
            return HARNESS_METRICS[all(str(name).startswith("acc") for name in counted)]
        return "acc" if self.acc_norm is None else "acc_norm"

    @property
    def key(self) -> tuple[str, int, str, str]:
        """What is scored once; a later run replaces an earlier one."""
        return self.model, -1 if self.seed is None else self.seed, self.source.name, self.target.name


def read_results(path: Path, skipped: set[str]) -> Iterator[Result]:
    """Yield the results of one file that are of a cell.

    Args:
        path: ``results_TIME.json``; samples are looked for beside it.
        skipped: Names of tasks that are no cell, or have no acc, are added; parts of a group that is one are not.

    Raises:
        UserError: If the file is not of that kind, does not name its model or adapter, or has a score outside 0..1.
    """
    content = read_json(path, allow_nan=True)  # a score that is NaN is refused by name below
    named = _RESULT_NAME.fullmatch(path.name)
    yield from results_of_cells(ResultsFile(path, content, named["time"] if named else path.name), skipped)


def results_of_cells(file: ResultsFile, skipped: set[str]) -> Iterator[Result]:
    """Yield the results of a file that are of a cell; see `read_results`."""
    cells = [name for name in file.results if task_cell(name) is not None]
    parts = {part for name in cells for part in file.descendants(name)}
    for name in file.results:
        if name in parts:
            continue
        target = task_cell(name)
        result = file.result(name, target) if target is not None else None
        if result is None:
            skipped.add(one_line(name, 80))
        else:
            yield result


class ResultsFile:
    """One results file and what all its results share."""

    def __init__(self, path: Path, content: Any, time: str) -> None:
        """Take a file's path, its content as the harness writes it, and when it was run."""
        self.path, self.content, self.time = path, content, time
        self.results = self._section(content, "results", needed=True)
        config = self._section(content, "config", needed=True)
        try:
            self.arguments = parse_arguments(config.get("model_args"))
        except (TypeError, ValueError) as error:
            raise self._unusable(f"its model_args are {one_line(config['model_args'])}") from error
        self.children = {
            group: [str(part) for part in parts]
            for group, parts in self._section(content, "group_subtasks").items()
            if isinstance(parts, list)
        }
        self.counts = self._section(content, "n-samples")
        self.configs = self._section(content, "configs")
        self.adapter = adapter_source(self.arguments)

    def _section(self, content: Any, name: str, *, needed: bool = False) -> Mapping[str, Any]:
        found = content.get(name) if isinstance(content, Mapping) else None
        if not isinstance(found, Mapping):
            if needed:
                raise self._unusable(f"it has no section {name!r}")
            return {}
        return found

    def _unusable(self, reason: str) -> UserError:
        return UserError(
            f"{str(self.path)!r} is not a results file of lm-evaluation-harness: {reason}; give the folder that its "
            "--output_path wrote"
        )

    def descendants(self, name: str) -> list[str]:
        """Return the groups and tasks inside a group, at any depth, each once."""
        found: dict[str, None] = {}
        waiting = list(self.children.get(name, ()))
        while waiting:
            part = waiting.pop(0)
            if part not in found:
                found[part] = None
                waiting += self.children.get(part, ())
        return list(found)

    def result(self, name: str, target: Cell) -> Result | None:
        """Return a task's or group's result; None: it has no acc."""
        acc, norm = self.share(name, "acc"), self.share(name, "acc_norm")
        inner = self.descendants(name)
        leaves = [part for part in inner if not self.children.get(part)] or [name]
        logged = {leaf: self.samples(name, leaf) for leaf in leaves}
        if acc is None and not all(samples is not None and samples.counted for samples in logged.values()):
            return None
        metric = "acc" if norm is None else "acc_norm"
        return Result(
            model=self.adapter.base.rsplit("/", 1)[-1],
            base=self.adapter.base,
            adapter=self.adapter.folder,
            seed=self.adapter.seed,
            source=self.adapter.source,
            target=target,
            acc=acc,
            acc_norm=norm,
            stderr=self._stderr(name, metric, leaves),
            samples=tuple(samples for samples in logged.values() if samples is not None),
            unlogged=tuple(leaf for leaf, samples in logged.items() if samples is None),
            time=self.time,
            n_items=self.n_items(leaves),
            conditions=read_conditions(self.content, self.arguments, [name, *inner]),
        )

    def value(self, name: str, metric: str) -> Any:
        """Return a task's value as written; older files name it without the filter ``none``."""
        scores = self.results.get(name)
        if not isinstance(scores, Mapping):
            return None
        return scores.get(f"{metric},none", scores.get(metric))

    def share(self, name: str, metric: str) -> float | None:
        """Return a number from 0 to 1; None: there is none, or a text such as ``N/A`` stands there."""
        value = self.value(name, metric)
        if value is None or isinstance(value, str) or (metric.endswith("_stderr") and value != value):
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise UserError(
                f"{metric} of task {one_line(name, 80)!r} in {str(self.path)!r} is {one_line(value)}; expected a "
                "number from 0 to 1; run the task again"
            )
        return float(value)

    def _stderr(self, name: str, metric: str, leaves: Sequence[str]) -> float | None:
        """Return the score's standard error; for an unweighted mean over tasks the one of such a mean.

        Older versions of the harness wrote the pooled error, of all items as one sample, beside both kinds of mean.
        """
        own, score = self.share(name, f"{metric}_stderr"), self.share(name, metric)
        found = [
            (self.share(leaf, metric), self.share(leaf, f"{metric}_stderr"), self.n_items([leaf])) for leaf in leaves
        ]
        known = [(acc, error, size) for acc, error, size in found if acc is not None and error is not None and size]
        if own is None or score is None or len(leaves) < 2 or len(known) < len(leaves):
            return own
        unweighted = sum(acc for acc, _, _ in known) / len(known)
        weighted = sum(acc * size for acc, _, size in known) / sum(size for _, _, size in known)
        if abs(score - unweighted) > _SAME or abs(score - weighted) <= _SAME:
            return own
        return float(sum(error**2 for _, error, _ in known) ** 0.5 / len(known))

    def n_items(self, leaves: Sequence[str]) -> int | None:
        """Return how many items some tasks have; None: the file does not say."""
        counts = [self.counts.get(leaf) for leaf in leaves]
        known = [each.get("effective") for each in counts if isinstance(each, Mapping)]
        whole = [each for each in known if isinstance(each, int) and not isinstance(each, bool) and each >= 0]
        return sum(whole) if len(whole) == len(leaves) else None

    def samples(self, name: str, leaf: str) -> Samples | None:
        """Return the logged samples of a task or of one of a group; None: there are none."""
        try:
            file = self.path.with_name(f"samples_{leaf}_{self.time}.jsonl")
            if not file.is_file():
                return None
        except (OSError, ValueError):  # a task name that can be no file name
            return None
        config = self.configs.get(leaf)
        delimiter = config.get("target_delimiter") if isinstance(config, Mapping) else None
        part = "" if leaf == name else leaf.removeprefix(f"{name}_")
        acc, kind = self.share(leaf, "acc"), config.get("output_type") if isinstance(config, Mapping) else None
        is_chosen = acc is not None and kind != "loglikelihood"
        counted = None if is_chosen else next((each for each in COUNTED if self.value(leaf, each) is not None), None)
        return Samples(part, file, delimiter if isinstance(delimiter, str) else " ", acc, counted)
