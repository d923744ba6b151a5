"""What training taught: how answers are written, or which of them is right; facts and the sentences about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import polars as pl

from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import VARIANT_KIND, Regime
from transfergrid.wording import count, level

_GROUPS = (
    ("the cell it was trained on", (Regime.MT_ML,)),
    ("other languages of its task", (Regime.MT_CL,)),
    ("other tasks", (Regime.CT_ML, Regime.CT_CL)),
)
_MEANS = ("register_nats_per_char", "others_nats_per_char", "graded_pp")
_LEAST = 0.005
"""A change of a log-likelihood per character below this is shown as 0.00 and counts as none."""


class Learnt(NamedTuple):
    """Mean changes over the pairs whose targets share the same with their source."""

    where: str
    n_pairs: int
    right: float
    """Change of the right choice's log-likelihood in nats per character."""
    wrong: float
    """The same of the other choices."""
    graded_pp: float
    n_better: int
    """Pairs with graded transfer above 0 for sure."""
    n_worse: int


def taught(single_source: pl.DataFrame, transfer: pl.DataFrame, settings: AnalysisConfig) -> dict[str, str]:
    """Return what was learnt, in words, by variant of the recipe, "" for the main one; none without graded transfer."""
    rows = transfer.filter(source_kind=VARIANT_KIND)
    variants = rows.partition_by("variant", as_dict=True) if rows.height else {}
    parts = {"": single_source, **{str(name): part for (name,), part in sorted(variants.items())}}
    told = {name: " ".join(learnt_sentences(learnt(part, settings), settings)) for name, part in parts.items()}
    return {name: text for name, text in told.items() if text}


def learnt(transfer: pl.DataFrame, settings: AnalysisConfig) -> list[Learnt]:
    """Return what was learnt, from a source's own cell to other tasks; groups without graded transfer are left out."""
    known = transfer.drop_nulls(_MEANS)
    sure = pl.col("graded_q") <= settings.fdr
    found = []
    for where, regimes in _GROUPS:
        part = known.filter(pl.col("regime").is_in([regime.value for regime in regimes]))
        if part.height:
            right, wrong, graded = part.select(pl.col(_MEANS).mean()).row(0)
            signs = part.filter(sure)["graded_pp"]
            counts = int((signs > 0).sum()), int((signs < 0).sum())
            found.append(Learnt(where, part.height, right, wrong, graded, *counts))
    return found


def learnt_sentences(facts: Sequence[Learnt], settings: AnalysisConfig) -> list[str]:
    """Return what was learnt in words, the nearest targets first; none without graded transfer."""
    if not facts:
        return []
    own = facts[0]
    return [
        f"On {own.where}, right answers became {own.right:+.2f} nats per character more likely and wrong ones "
        f"{own.wrong:+.2f}.",
        *(f"On {fact.where} it was {fact.right:+.2f} and {fact.wrong:+.2f}." for fact in facts[1:]),
        _kind(own),
        *_content(facts, settings),
    ]


def _kind(own: Learnt) -> str:
    """Say which part of the gain is the way answers are written."""
    register = "how answers are written (format and register), which makes no answer better"
    if own.right < _LEAST:
        return "So nothing of how right answers are written was learnt."
    if own.wrong < _LEAST:
        return "Wrong answers gained nothing, so what was learnt tells right answers from wrong ones."
    if own.wrong >= own.right:
        return f"Wrong answers gained as much, so what was learnt is {register}."
    return f"So {own.wrong / own.right:.0%} of the gain is {register}; the rest tells right answers from wrong ones."


def _content(facts: Sequence[Learnt], settings: AnalysisConfig) -> Iterator[str]:
    """Say whether right answers gained on wrong ones, and where for sure."""
    means = "; ".join(f"{fact.graded_pp:+.2f} pp on {fact.where}" for fact in facts)
    yield f"Probability that moved to the right answer (graded transfer): {means}."
    for word, numbers in (("to", [fact.n_better for fact in facts]), ("away from", [fact.n_worse for fact in facts])):
        if sum(numbers):
            listed = ", ".join(
                f"{number} on {fact.where}" for number, fact in zip(numbers, facts, strict=True) if number
            )
            n_pairs = count(sum(fact.n_pairs for fact in facts), "pair")
            rate = f"false discovery rate {level(settings.fdr)}"
            yield f"It moved {word} it for sure in {sum(numbers)} of {n_pairs} ({listed}; {rate})."
    if not any(fact.n_better or fact.n_worse for fact in facts):
        yield "In no single pair is that sure."
