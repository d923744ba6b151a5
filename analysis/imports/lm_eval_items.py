"""Item rows of the harness' logged samples: adapter and baseline paired on the same documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from transfergrid.analysis.imports.lm_eval_results import Result
from transfergrid.analysis.imports.lm_eval_samples import Answer
from transfergrid.grid import UserError
from transfergrid.store.scores import SCORE_SCHEMA, source_columns


@dataclass(slots=True)
class Items:
    """Item rows of some results."""

    rows: pl.DataFrame
    """In SCORE_SCHEMA."""
    mismatches: dict[tuple[str, int, str, str], list[str]] = field(default_factory=dict)
    """Differences of an adapter's documents or prompts from those of the baseline."""


def item_rows(results: Sequence[Result], read_answers: Callable[[Result], list[Answer]]) -> Items:
    """Return one row of the results store per logged sample.

    Where documents have no ids of their own, the baseline's positions name them and an adapter's are found by the
    document's hash, if it is logged.

    Raises:
        UserError: If samples are unusable, or an item has other choices for an adapter than for the baseline.
    """
    rows: list[dict[str, object]] = []
    mismatches: dict[tuple[str, int, str, str], list[str]] = {}
    bases: dict[tuple[str, str], dict[str, Answer]] = {}
    for result in sorted(results, key=lambda each: not each.source.is_base):
        answers, target = read_answers(result), (result.model, result.target.name)
        if result.source.is_base:
            bases[target] = {answer.item_id: answer for answer in answers}
        elif target in bases:
            answers = _by_document(answers, bases[target])
            mismatches[result.key] = list(_mismatches(result, answers, bases[target]))
        rows += [_row(result, answer) for answer in answers]
    return Items(pl.DataFrame(rows, schema=SCORE_SCHEMA, orient="row"), mismatches)


def _by_document(answers: Sequence[Answer], base: dict[str, Answer]) -> list[Answer]:
    """Name an adapter's answers as the baseline's of the same document; one that the baseline lacks by its hash."""
    hashes = Counter(answer.doc_hash for answer in base.values())
    own = Counter(answer.doc_hash for answer in answers)
    if not all(answer.by_position for answer in (*answers, *base.values())) or None in hashes or None in own:
        return list(answers)
    if max((*hashes.values(), *own.values()), default=1) > 1:  # one document twice: positions are the only names
        return list(answers)
    names = {answer.doc_hash: name for name, answer in base.items()}
    return [answer._replace(item_id=names.get(answer.doc_hash, f"hash {answer.doc_hash}")) for answer in answers]


def _mismatches(result: Result, answers: Sequence[Answer], base: dict[str, Answer]) -> Iterator[str]:
    pairs = [(answer, base[answer.item_id]) for answer in answers if answer.item_id in base]
    for answer, other in pairs:
        if (answer.chars, answer.gold) != (other.chars, other.gold):
            raise UserError(
                f"item {answer.item_id!r} of {result.target.name!r} has choices of {answer.chars} characters and gold "
                f"{answer.gold} for source {result.source.name!r} of model {result.model!r}, and of {other.chars} and "
                f"gold {other.gold} for the baseline; run both on the same version of the data"
            )
    for name in ("doc_hash", "prompt_hash"):
        known = [(getattr(a, name), getattr(b, name)) for a, b in pairs]
        n_other = sum(None not in pair and pair[0] != pair[1] for pair in known)
        if n_other:
            yield f"{name.removesuffix('_hash').replace('doc', 'document')} of {n_other} of {len(pairs)} items differs"


def _row(result: Result, answer: Answer) -> dict[str, object]:
    return {
        "model": result.model,
        "seed": result.seed,
        **source_columns(result.source),
        "target_task": result.target.task,
        "target_language": result.target.language,
        "item_id": answer.item_id,
        "gold": answer.gold,
        "pred": answer.pred("acc"),
        "pred_norm": answer.pred("acc_norm"),
        "value": answer.value(result.metric),
        "output": answer.output,
        "loglikelihoods_nats": answer.values or None,
        "choice_chars": answer.chars,
        "n_truncated_tokens": 0,
        "primary_metric": result.metric,
        "unscored_reason": None,
        "run_key": f"lm-eval {result.time}",
    }


def count_remarks(table: pl.DataFrame) -> Iterator[str]:
    """Yield a remark where an adapter was scored on other items than its baseline."""
    target = ["model", "target_task", "target_language"]
    is_base = pl.col("source_task").is_null()
    base = table.filter(is_base).select(*target, "item_id", in_base=True).unique()
    adapters = table.filter(~is_base).join(base, on=[*target, "item_id"], how="left", validate="m:1")
    n_base = base.group_by(target).agg(n_base=pl.len())
    counts = adapters.group_by(*target, "source_task", "source_language", "seed").agg(
        n=pl.len(), n_paired=pl.col("in_base").is_not_null().sum()
    )
    other = counts.join(n_base, on=target).filter(
        (pl.col("n_paired") < pl.col("n")) | (pl.col("n_paired") < pl.col("n_base"))
    )
    if other.height:
        row = other.sort(pl.all()).row(0, named=True)
        yield (
            f"{_results(other.height)} other items than the baseline, only those of both are compared; first: "
            f"{row['source_task']}-{row['source_language']} on {row['target_task']}-{row['target_language']} "
            f"({row['n']} items, baseline {row['n_base']}, both {row['n_paired']})"
        )


def _results(n: int) -> str:
    return "1 result has" if n == 1 else f"{n} results have"
