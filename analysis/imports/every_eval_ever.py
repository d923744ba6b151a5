"""Brings files in the schema of Every Eval Ever, made of lm-evaluation-harness' output, into a run."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transfergrid.analysis.imports.lm_eval import ResultsFormat, import_results
from transfergrid.analysis.imports.lm_eval_results import COUNTED, Result, ResultsFile, Samples, results_of_cells
from transfergrid.analysis.imports.lm_eval_samples import (
    Answer,
    LoggedSample,
    check_sample,
    check_score,
    counted,
    gold_of,
)
from transfergrid.analysis.imports.report import ImportReport
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.json_text import parse_json, read_json, read_json_lines
from transfergrid.store.scores import CHECKSUM_LENGTH, content_checksum
from transfergrid.wording import one_line

SCHEMA_VERSION = "0.3.0"
"""Of the package ``every-eval-ever`` and its schema."""
_NEXT = "give the folder that 'every_eval_ever convert lm_eval --include_samples' wrote"
_SHAPE_ERRORS = (KeyError, ValueError, TypeError, IndexError, AttributeError, SyntaxError, MemoryError, RecursionError)


def import_every_eval_ever(folder: Path, run: RunFolder, *, allow_mismatch: bool = False) -> ImportReport:
    """Read every results file below a folder and the samples beside it; see `import_lm_eval`.

    The schema holds the choice with the highest log-likelihood and the value by each metric. Log-likelihoods, the
    choice by acc_norm and the lengths of choices are not in it and stay null. An item's id is the sample's.

    Raises:
        UserError: If there are no such files, one is damaged, of another version or not made of the harness' output,
            samples are missing or of another evaluation, or for a reason of `import_lm_eval`.
    """
    return import_results(folder, run, _FORMAT, allow_mismatch=allow_mismatch)


def _read_log(path: Path, skipped: set[str]) -> Iterator[Result]:
    log = _checked(read_json(path, allow_nan=True), repr(str(path)))
    try:
        file = _Converted(path, log)
    except _SHAPE_ERRORS as error:
        raise _broken(repr(str(path)), error) from error
    yield from results_of_cells(file, skipped)


class _Converted(ResultsFile):
    """One results file of the harness, as far as it is left after the conversion."""

    def __init__(self, path: Path, log: Mapping[str, Any]) -> None:
        self.log, self.evaluation = log, log["evaluation_id"]
        scores, n_items = {}, None
        for each in log["evaluation_results"]:
            metric, details = each["evaluation_result_id"], each["score_details"]
            uncertainty = details.get("uncertainty") or {}
            n_items = uncertainty.get("num_samples")
            scores[metric] = details["score"]
            scores[f"{metric}_stderr"] = (uncertainty.get("standard_error") or {}).get("value")
        task = log["evaluation_results"][0]["evaluation_name"].partition("/")[0]
        details, engine = log["model_info"]["additional_details"], log["model_info"].get("inference_engine") or {}
        text = details["model_args"]  # a mapping is written as Python writes it
        config = {f"model_{name}": details[name] for name in ("dtype", "revision", "sha") if name in details}
        config |= {"model": engine.get("name"), "model_args": ast.literal_eval(text) if text[:1] == "{" else text}
        content = {"results": {task: scores}, "n-samples": {task: {"effective": n_items}}, "config": config}
        super().__init__(path, content, str(log.get("evaluation_timestamp") or log["retrieved_timestamp"]))

    def samples(self, name: str, leaf: str) -> Samples | None:
        """Return the samples beside the file; None: there are none, or they are of a part of a group of tasks."""
        named = self.log.get("detailed_evaluation_results")
        if named is None:
            return None
        file = self._samples_file(named)
        found = list(_read_samples(file, self.evaluation))
        if self.n_items([leaf]) != len(found):  # the converter gives a group the samples of one of its tasks
            return None
        acc = self.share(leaf, "acc")
        is_chosen = acc is not None and all(each["choices"] is not None for each in found)
        by = None if is_chosen else next((each for each in COUNTED if self.value(leaf, each) is not None), None)
        return Samples(self.evaluation, file, acc=acc, counted=by)

    def _samples_file(self, named: Any) -> Path:
        try:
            file = self.path.parent / Path(named["file_path"]).name
            is_whole = content_checksum(file) == named["checksum"][:CHECKSUM_LENGTH]
        except (OSError, *_SHAPE_ERRORS) as error:
            raise UserError(
                f"the samples of {str(self.path)!r} are not beside it: {one_line(repr(error), 200)}; convert again "
                "into one folder"
            ) from error
        if not is_whole:
            raise UserError(f"{str(file)!r} is not as it was written: its SHA-256 is not that in its results; {_NEXT}")
        return file


def _checked(content: Any, where: str) -> dict[str, Any]:
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(content, dict) or version is None:
        raise UserError(f"{where} is no file of Every Eval Ever: it has no 'schema_version'; {_NEXT}")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{where} has schema version {one_line(version, 60)!r} of Every Eval Ever; expected {SCHEMA_VERSION!r}; "
            f"{_NEXT}"
        )
    return content


def _broken(where: str, error: BaseException) -> UserError:
    return UserError(
        f"{where} is no conversion of lm-evaluation-harness' output: {one_line(repr(error), 100)}; {_NEXT}"
    )


def _read_samples(file: Path, evaluation: str) -> Iterator[dict[str, Any]]:
    """Yield every sample once, as the harness logs it and with its choices and the model's; each metric has a line."""
    seen: dict[str, set[str]] = {}
    for number, content in read_json_lines(file, allow_nan=True):
        where = f"line {number} of {str(file)!r}"
        line = _checked(content, where)
        try:
            metrics = seen.setdefault(line["sample_id"], set())
            if line["evaluation_id"] != evaluation:
                raise UserError(
                    f"{where} is of evaluation {one_line(line['evaluation_id'], 120)!r}, and the results beside it are "
                    f"of {one_line(evaluation, 120)!r}; keep the files of one conversion together"
                )
            if line["evaluation_result_id"] in metrics:
                raise UserError(f"{where} has sample {one_line(line['sample_id'], 80)!r} a second time; {_NEXT}")
            if not metrics and line["metadata"].get("filter", "none") == "none":
                yield _sample(line, where)
            metrics.add(line["evaluation_result_id"])
        except _SHAPE_ERRORS as error:
            raise _broken(where, error) from error


def _sample(line: Mapping[str, Any], where: str) -> dict[str, Any]:
    metadata, choices = line["metadata"], line["input"]["choices"]
    return {
        **parse_json(metadata["lm_eval_metrics"], f"lm_eval_metrics of {where}", allow_nan=True),
        "id": str(line["sample_id"]),
        "target": line["input"]["reference"][0].strip(),  # as the converter does with choices
        "choices": None if choices is None else [str(each) for each in choices],
        "picked": line["output"]["raw"][0],
        "filtered_resps": [],
        "doc_hash": metadata.get("doc_hash"),
        "prompt_hash": metadata.get("prompt_hash"),
    }


def _read_answers(result: Result) -> list[Answer]:
    (logged,) = result.samples
    samples = list(_read_samples(logged.path, logged.part))
    by_position = all(each["id"].isdecimal() for each in samples)
    # a text that two choices share does not say which of them was picked: then no pick of this target is kept
    is_told = all(len(set(each["choices"] or ())) == len(each["choices"] or ()) for each in samples)
    metric = logged.counted or result.metric
    answers = []
    for content in samples:
        sample = LoggedSample(logged, content)
        answer = counted(one_line(content["id"]), by_position, sample, metric)
        answers.append(answer if logged.counted else _chosen(answer, sample, is_told=is_told))
    if not logged.counted:
        check_score(logged.path, metric, [each.value(metric) for each in answers], result.score)
    return answers


def _chosen(answer: Answer, sample: LoggedSample, *, is_told: bool) -> Answer:
    choices = sample.content["choices"]
    try:
        gold = gold_of(sample.content["target"], choices)
        picked = choices.index(sample.content["picked"]) if is_told else None
        if not 0 <= gold < len(choices):
            raise ValueError(f"gold {gold} of {len(choices)} choices")
    except _SHAPE_ERRORS as error:
        raise _broken(f"sample {answer.item_id!r} in {str(sample.logged.path)!r}", error) from error
    chosen = answer._replace(gold=gold, picked=picked, output=None)
    check_sample(chosen, sample)
    return chosen


_FORMAT = ResultsFormat("every_eval_ever", "*.json", _NEXT, _read_log, _read_answers)
