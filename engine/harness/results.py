"""Results and samples files in the harness' own layout, one pair per source and task, never half-written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfergrid.engine.harness.requests import MODEL_NAME
from transfergrid.grid import UserError
from transfergrid.store.files import write_atomically
from transfergrid.store.json_text import JsonError, read_json

_KEY = "run_key"
_UNFINISHED = ".unfinished"


@dataclass(frozen=True, slots=True)
class ResultsFolder:
    """The harness' ``--output_path``."""

    root: Path

    def finished(self) -> dict[str, Path]:
        """Return the results files that hold all their samples, by the run key of their source and task."""
        found = {}
        for path in sorted(self.root.rglob("results_*.json")):
            if _UNFINISHED not in path.parts and (key := _run_key(path)) is not None:
                found[key] = path
        return found

    def clean(self) -> None:
        """Remove what a run that was killed left behind."""
        shutil.rmtree(self.root / _UNFINISHED, ignore_errors=True)

    def write(self, results: dict[str, Any], tracker: Any, key: str) -> Path:
        """Have the harness write its files, then move them into place, the results file last.

        Args:
            results: From ``simple_evaluate``, with samples.
            tracker: The harness' ``EvaluationTracker`` that was given to it, whose folder is ``unfinished``.
            key: Run key of the source and task.

        Returns:
            The results file.

        Raises:
            UserError: If the files cannot be written.
        """
        samples = results.pop("samples")
        results["config"]["model"] = tracker.general_config_tracker.model_source = MODEL_NAME
        results["config"][MODEL_NAME][_KEY] = key
        tracker.save_results_aggregated(results=results, samples=samples)
        for name in results["configs"]:
            tracker.save_results_samples(task_name=name, samples=samples[name])
        files = sorted(self.unfinished.rglob("*.json*"), key=lambda path: path.name.startswith("results_"))
        if len(files) != 1 + len(results["configs"]):  # the harness only logs that it could not write
            raise UserError(
                f"lm-evaluation-harness wrote {len(files)} of {1 + len(results['configs'])} files below "
                f"{str(self.unfinished)!r}; make room or give write access there, and give the same command again"
            )
        targets = [self.root / path.relative_to(self.unfinished) for path in files]
        for path, target in zip(files, targets, strict=True):
            write_atomically(target, path.rename)
        self.clean()
        return targets[-1]

    @property
    def unfinished(self) -> Path:
        """Folder that the harness writes to."""
        return self.root / _UNFINISHED


def _run_key(path: Path) -> str | None:
    """Return the run key of a results file of ours; None: it is none, or a samples file is missing."""
    try:
        content = read_json(path, allow_nan=True)
        key = content["config"][MODEL_NAME][_KEY]
        time = path.stem.removeprefix("results_")
        complete = all(path.with_name(f"samples_{task}_{time}.jsonl").is_file() for task in content["configs"])
        return str(key) if complete else None
    except (JsonError, KeyError, TypeError, OSError):
        return None


def count_cut(path: Path) -> tuple[int, int]:
    """Return how many prompts of a results file of ours lost their beginning, and how many there are."""
    counts = read_json(path, allow_nan=True)["config"][MODEL_NAME]
    return counts["n_truncated"], counts["n_requests"]


def read_scores(path: Path) -> Iterator[tuple[str, str, float, float | None]]:
    """Yield task or group, metric, value and standard error of a results file; parts of a group are left out."""
    content = read_json(path, allow_nan=True)
    groups: Mapping[str, list[str]] = content.get("group_subtasks") or {}
    parts = {part for members in groups.values() for part in members}
    for task, scores in content["results"].items():
        for name, value in scores.items():
            metric, _, filtered = name.partition(",")
            if task not in parts and filtered and not metric.endswith("_stderr") and not isinstance(value, str):
                error = scores.get(f"{metric}_stderr,{filtered}")
                shown = metric if filtered == "none" else f"{metric} ({filtered})"
                yield task, shown, float(value), None if isinstance(error, str | None) else float(error)
