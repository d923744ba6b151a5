"""Reads samples that lm-evaluation-harness logged into item rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from transfergrid.analysis.imports.lm_eval_results import Result, Samples
from transfergrid.grid import UserError
from transfergrid.store.scores import source_columns

_ID_FIELDS = ("id", "sample_id", "truth_id", "item_id")


class _Sample(NamedTuple):
    file: Path
    part: str
    content: Mapping[str, Any]


def item_rows(result: Result) -> Iterator[dict[str, object]]:
    """Yield one row of the results store per logged sample of a result.

    Raises:
        UserError: If a samples file cannot be read or a sample is not multiple choice.
    """
    samples = [sample for logged in result.samples for sample in _read(logged)]
    for item_id, sample in zip(_item_ids(samples), samples, strict=True):
        yield {
            "model": result.model,
            "seed": result.seed,
            **source_columns(result.source),
            "target_task": result.target.task,
            "target_language": result.target.language,
            "item_id": item_id,
            "primary_metric": result.metric,
            "run_key": f"lm-eval {result.time}",
            "n_truncated_tokens": 0,
            **_answer(item_id, sample),
        }


def _read(logged: Samples) -> Iterator[_Sample]:
    try:
        with logged.path.open(encoding="utf-8") as handle:
            for line in handle:
                if line.strip():
                    content = json.loads(line)
                    yield _Sample(logged.path, logged.part, {"doc": {}, **content, "doc_id": content["doc_id"]})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{str(logged.path)!r} is not a samples file of lm-evaluation-harness: {error!r}") from error


def _item_ids(samples: Sequence[_Sample]) -> list[str]:
    """Return the documents' own ids where every one has a unique one, else their positions in their part."""
    for name in _ID_FIELDS:
        ids = [str(sample.content["doc"].get(name, "")) for sample in samples]
        if all(ids) and len(set(ids)) == len(ids):
            return ids
    return ["/".join(filter(None, (sample.part, str(sample.content["doc_id"])))) for sample in samples]


def _gold(target: object, choices: Sequence[str]) -> int:
    """Return the right choice's index; the harness logs the index, or the choice's own text such as a letter."""
    text = str(target)
    return choices.index(text) if text in choices and not text.isdigit() else int(text)


def _answer(item_id: str, sample: _Sample) -> dict[str, object]:
    content = sample.content
    try:
        values = [float(response[0]) for response in content["filtered_resps"]]
        arguments = content["arguments"]
        listed = list(arguments.values()) if isinstance(arguments, dict) else arguments
        # the task's target delimiter is one blank; acc_norm counts the choice without it
        choices = [(each["arg_1"] if isinstance(each, dict) else each[1]).removeprefix(" ") for each in listed]
        gold = _gold(content["target"], choices)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"sample {item_id!r} in {str(sample.file)!r} is not multiple choice: {error!r}") from error
    chars = [len(choice) for choice in choices]
    if len(chars) != len(values) or not all(chars) or not 0 <= gold < len(values) or not all(map(isfinite, values)):
        raise UserError(
            f"sample {item_id!r} in {str(sample.file)!r} has {len(values)} log-likelihoods, choices of {chars} "
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
