"""Reads samples that lm-evaluation-harness logged: one answer per item of a result, checked against its scores."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from transfergrid.analysis.imports.lm_eval_results import COUNTED, Result, Samples
from transfergrid.benchmarks.metrics import AGGREGATIONS, METRICS, get_metric
from transfergrid.grid import UserError
from transfergrid.store.json_text import read_json_lines
from transfergrid.wording import one_line

_ID_FIELDS = ("id", "sample_id", "truth_id", "item_id")
_FILTER = "none"
_SAME = 1e-6


class Answer(NamedTuple):
    """What a result says of one item."""

    item_id: str
    by_position: bool
    """Whether the id is the item's place in its task, for want of an id of its own."""
    doc_hash: str | None
    prompt_hash: str | None
    gold: int
    values: list[float]
    """Shape [C], log-likelihoods in nats."""
    choices: list[str]
    """Shape [C], without the delimiter."""
    counted: float | None = None
    """The value as the harness counted it, where there are no choices to compare; ``values`` is empty then."""
    output: str | None = None
    """What the model said, where it was counted."""
    picked: int | None = None
    """The choice with the highest log-likelihood, where that is known and the log-likelihoods are not."""

    @property
    def chars(self) -> list[int]:
        """Shape [C], characters of the choices."""
        return list(map(len, self.choices))

    def pred(self, metric: str) -> int | None:
        """Return the choice that a metric picks; None: there is none, or it is not known."""
        if not self.values:
            return self.picked if metric == "acc" else None
        return METRICS[metric].pick(self.values, self.choices)

    def value(self, metric: str) -> float:
        """Return the value by a metric."""
        if self.counted is not None:
            return self.counted
        return get_metric(metric).of_item(self.values, self.choices, self.gold)


class LoggedSample(NamedTuple):
    """One logged sample and the file that it stands in."""

    logged: Samples
    content: Mapping[str, Any]


def read_answers(result: Result) -> list[Answer]:
    """Return the answers that a result's samples hold.

    Raises:
        UserError: If a samples file cannot be read, has an item twice, a sample is not multiple choice, or samples
            contradict the scores that stand beside them.
    """
    samples = [sample for logged in result.samples for sample in _read(logged)]
    ids, by_position = _item_ids(samples)
    answers = [_answer(item_id, by_position, sample) for item_id, sample in zip(ids, samples, strict=True)]
    for logged in result.samples:
        of_file = [answer for answer, sample in zip(answers, samples, strict=True) if sample.logged is logged]
        if logged.acc is not None and logged.counted in (None, "acc"):
            check_score(logged.path, "acc", [answer.value("acc") for answer in of_file], logged.acc)
    return answers


def _read(logged: Samples) -> Iterator[LoggedSample]:
    seen: set[object] = set()
    for number, content in read_json_lines(logged.path, allow_nan=True):
        if not isinstance(content, Mapping) or not isinstance(content.get("doc_id"), int | str):
            raise UserError(
                f"{str(logged.path)!r} is not a samples file of lm-evaluation-harness: line {number} has no 'doc_id'; "
                "give the folder that its --output_path wrote"
            )
        if content.get("filter", _FILTER) != _FILTER:
            continue
        if content["doc_id"] in seen:
            raise UserError(
                f"{str(logged.path)!r} has doc_id {one_line(content['doc_id'])!r} twice (line {number}); "
                "run the task again"
            )
        seen.add(content["doc_id"])
        yield LoggedSample(logged, content)


def _item_ids(samples: Sequence[LoggedSample]) -> tuple[list[str], bool]:
    """Return the documents' own ids where every one has a unique one, else their positions in their part, and which."""
    docs = [doc if isinstance(doc := sample.content.get("doc"), Mapping) else {} for sample in samples]
    for name in _ID_FIELDS:
        ids = [one_line(doc.get(name, "")) for doc in docs]
        if all(ids) and len(set(ids)) == len(ids):
            return ids, False
    return [
        "/".join(filter(None, (sample.logged.part, one_line(sample.content["doc_id"])))) for sample in samples
    ], True


def gold_of(target: object, choices: Sequence[str]) -> int:
    """Return the right choice's index; the harness logs the index, or the choice's own text such as a letter."""
    if isinstance(target, bool) or not isinstance(target, int | str):
        raise TypeError(f"target {one_line(target, 60)}")
    text = str(target)
    return choices.index(text) if text in choices and not text.isdigit() else int(text)


def _answer(item_id: str, by_position: bool, sample: LoggedSample) -> Answer:
    content, path = sample.content, sample.logged.path
    if (metric := sample.logged.counted or ("acc" if _has_prompts_as_choices(content) else None)) is not None:
        return counted(item_id, by_position, sample, metric)
    try:
        values = [_number(response[0]) for response in content["filtered_resps"]]
        arguments = content["arguments"]
        listed = list(arguments.values()) if isinstance(arguments, Mapping) else arguments
        requests = [_pair(each) for each in listed]
        requests, values = _without_unconditional(requests, values)
        choices = _choices([text for _, text in requests], sample.logged.delimiter)
        gold = gold_of(content["target"], choices)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"sample {item_id!r} in {str(path)!r} is not multiple choice: {one_line(repr(error))}; import the results "
            "of multiple-choice tasks only"
        ) from error
    chars = [len(choice) for choice in choices]
    n = len(values)
    if n < 2 or len(chars) != n or not all(chars) or not 0 <= gold < n or not all(map(isfinite, values)):
        raise UserError(
            f"sample {item_id!r} in {str(path)!r} has {n} log-likelihoods, choices of {one_line(chars)} "
            f"characters and gold {gold}; expected one finite number per choice and gold among them"
        )
    hashes = [value if isinstance(value := content.get(name), str) else None for name in ("doc_hash", "prompt_hash")]
    answer = Answer(item_id, by_position, hashes[0], hashes[1], gold, values, choices)
    check_sample(answer, sample)
    return answer


def _pair(argument: Any) -> tuple[Any, ...]:
    return (argument["arg_0"], argument["arg_1"]) if isinstance(argument, Mapping) else tuple(argument)


def _has_prompts_as_choices(content: Mapping[str, Any]) -> bool:
    """Whether one text stands after several prompts, and the target is the text and not the index of a prompt."""
    arguments, target = content.get("arguments"), str(content.get("target"))
    try:
        pairs = [_pair(each) for each in (arguments.values() if isinstance(arguments, Mapping) else arguments or ())]
        texts, prompts = ({pair[place] for pair in pairs} for place in (1, 0))
        return len(prompts) > 1 and len(texts) == 1 and (not target.isdigit() or target in {t.strip() for t in texts})
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        return False  # said where the choices are read


def counted(item_id: str, by_position: bool, sample: LoggedSample, metric: str) -> Answer:
    """Return an answer with the value that the harness logged of it."""
    content, path = sample.content, sample.logged.path
    try:
        results = {name: (combine, content[name]) for name, combine in COUNTED.items() if name in content}
        value = AGGREGATIONS[COUNTED.get(metric, "mean")].of_item(content[metric])
        listed = [each if isinstance(each, list | tuple) else [each] for each in content["filtered_resps"]]
        values = [_number(each[0]) for each in listed]
        if not 0 <= value <= 1 or not all(map(isfinite, values)):
            raise ValueError(content[metric])
    except (KeyError, ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise UserError(
            f"sample {item_id!r} in {str(path)!r} has no usable {metric}: {one_line(repr(error), 60)}; run it again"
        ) from error
    output = json.dumps({**({"loglikelihoods_nats": values} if values else {}), "results": results})
    hashes = [each if isinstance(each := content.get(name), str) else None for name in ("doc_hash", "prompt_hash")]
    return Answer(item_id, by_position, hashes[0], hashes[1], 0, [], [], value, output)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"log-likelihood {one_line(value, 60)}")
    return float(value)


def _without_unconditional(
    requests: list[tuple[Any, ...]], values: list[float]
) -> tuple[list[tuple[Any, ...]], list[float]]:
    """Leave out what acc_mutual_info doubles the requests with: each choice once more after an empty context."""
    half = len(requests) // 2
    texts = [text for _, text in requests]
    is_doubled = half > 0 and texts[:half] == texts[half:] and all(context == "" for context, _ in requests[half:])
    return (requests[:half], values[:half]) if is_doubled and requests[0][0] != "" else (requests, values)


def _choices(texts: Sequence[str], delimiter: str) -> list[str]:
    """Return the choices without the delimiter; under a chat template the harness writes none."""
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a continuation that is no text")
    has_delimiter = all(text.startswith(delimiter) for text in texts)
    return [text.removeprefix(delimiter) if has_delimiter else text for text in texts]


def check_sample(answer: Answer, sample: LoggedSample) -> None:
    """Refuse a sample whose acc or acc_norm is not what its choices and log-likelihoods make it."""
    for metric in ("acc", "acc_norm"):
        logged, pred = sample.content.get(metric), answer.pred(metric)
        computed = float(pred == answer.gold)
        if pred is not None and isinstance(logged, int | float) and logged in (0, 1) and logged != computed:
            raise UserError(
                f"sample {answer.item_id!r} in {str(sample.logged.path)!r} says {metric} {logged:g}; its "
                f"log-likelihoods and choices make it {computed:g}; run the task again with the harness as released"
            )


def check_score(path: Path, metric: str, values: Sequence[float], stated: float) -> None:
    """Refuse samples whose mean is not the score that the results file beside them states."""
    computed = sum(values) / len(values) if values else stated
    if abs(computed - stated) > _SAME:
        raise UserError(
            f"the {len(values)} samples in {str(path)!r} make {metric} {computed:.6f}; the results file beside it says "
            f"{stated:.6f}; keep the files of one run together"
        )
