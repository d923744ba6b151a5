"""Which source cells help a target, by a shrunken estimate with its interval and its risk.

The deltas of all (source, target) pairs, averaged over the chosen models, are noisy. `pair_noise` measures the noise
and which part of it the sources of a target share; `shrinkage` draws every delta towards what its source and target do
elsewhere; the noisier the delta, the further.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
from rich.console import Group as RichGroup
from rich.console import RenderableType
from rich.text import Text

from transfergrid.analysis.records import ALL_TRANSFER, Transfer, in_regime
from transfergrid.analysis.tables.recommendation import (
    HIGH_HARM,
    LIKELY_HELP,
    RECOMMENDATIONS,
    choose_rows,
    estimate_pairs,
    noisy_pairs,
    with_graded_estimates,
    with_unestimated,
)
from transfergrid.analysis.tables.table import TableReport
from transfergrid.analysis.terminal.plain_table import plain_table
from transfergrid.analysis.transfer.remarks import remark_lines, with_remark
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.config.settings import AnalysisConfig, GridConfig
from transfergrid.grid import Cell
from transfergrid.store.folder import RunFolder
from transfergrid.wording import level


@dataclass(frozen=True, slots=True)
class Recommendation(TableReport):
    """Sources for one target, best first (worst first when they are to be avoided)."""

    target: Cell
    models: tuple[str, ...]
    table: pl.DataFrame
    """One row per source cell: estimate, interval, probabilities of harm and help, observed mean, reason."""
    avoid: bool
    settings: AnalysisConfig
    note: str
    """How the noise was measured and what the probabilities are about."""

    def __rich__(self) -> RenderableType:
        """Show the first rows and what the columns mean."""
        return _render(self)


def recommend(
    run: RunFolder,
    config: GridConfig | None = None,
    *,
    target: Cell,
    model: str | None = None,
    avoid: bool = False,
) -> Recommendation:
    """Rank source cells for a target.

    Args:
        run: The run's folder.
        config: Settings of the analysis and the models' traits.
        target: The cell to find sources for.
        model: Use this model only; None: all models, and the probabilities are about a model like them.
        avoid: List the sources that probably harm, worst first.

    Raises:
        UserError: If the run has no transfer row, or the target or model is not in it.
    """
    settings = config.analysis if config is not None else AnalysisConfig()
    return recommend_from(read_transfer(run, config), settings, target=target, model=model, avoid=avoid)


def recommend_from(
    transfer: Transfer, settings: AnalysisConfig, *, target: Cell, model: str | None = None, avoid: bool = False
) -> Recommendation:
    """Rank source cells for a target from a transfer table; see `recommend`."""
    rows = choose_rows(transfer.rows, target, model)
    there = rows.filter(pl.col("delta_pp").is_not_null())
    models = tuple(there["model"].unique().sort())
    transferred = there.filter(in_regime(ALL_TRANSFER))
    pairs = noisy_pairs(transferred, transfer.items)
    estimates = with_graded_estimates(estimate_pairs(pairs, settings), transferred, transfer.graded_items, settings)
    table = with_unestimated(estimates, rows, target)
    if avoid:
        table = table.filter(pl.col("p_harm") > HIGH_HARM).sort("p_harm", "estimate_pp", descending=[True, False])
    note = "\n".join([pairs.note, *remark_lines(rows)])
    return Recommendation(target, models, with_remark(table, remark_lines(rows)), avoid, settings, note)


def _render(found: Recommendation, n_rows: int = 12) -> RenderableType:
    order = "probably harmful, worst first" if found.avoid else "best first"
    whose = found.models[0] if len(found.models) == 1 else f"{len(found.models)} models"
    title = Text(f"Sources for {found.target.name} ({whose}), {order}")
    table = plain_table(title)
    for name in (
        "source",
        "regime",
        "estimate",
        f"{level(found.settings.confidence)} interval",
        "P(harm)",
        "P(help)",
        "graded" if _has_graded(found) else "observed",
    ):
        table.add_column(name, justify="left" if name in ("source", "regime") else "right", no_wrap=True)
    for row in found.table.head(n_rows).iter_rows(named=True):
        table.add_row(*map(Text, _cells(row, is_graded=_has_graded(found))))
    notes = [
        *_verdict(found),
        found.note,
        f"in pp; harm: delta <= {found.settings.harm_threshold_pp:g} pp; "
        "estimates are drawn towards what source and target do elsewhere",
        RECOMMENDATIONS.approximate,
    ]
    if _has_graded(found):
        notes.append("graded: the same of the gold choice's probability, with P(help); harm is judged by accuracy")
    if found.table.height > n_rows:
        notes.append(f"{found.table.height - n_rows} more rows: --json or --csv")
    reasons = found.table.head(n_rows)["reason"].drop_nulls().unique().sort().to_list()
    return RichGroup(table, Text("\n".join([*notes, *reasons])))


def _verdict(found: Recommendation) -> list[str]:
    """Return a warning if nothing in the table can be recommended, which the table alone does not show."""
    if found.avoid:
        return [f"no source has a probability of harm above {level(HIGH_HARM)}"] if found.table.is_empty() else []
    chances = found.table["p_help"].drop_nulls()
    if chances.is_empty():
        return ["no source can be recommended: none has an estimate with a probability"]
    return [] if (chances > LIKELY_HELP).any() else ["none of them is more likely to help than not"]


def _has_graded(found: Recommendation) -> bool:
    return found.table["graded_estimate_pp"].count() > 0


def _number(row: dict[str, object], name: str, pattern: str = "+.2f") -> str:
    value = row[name]
    return "-" if value is None else f"{value:{pattern}}"


def _cells(row: dict[str, object], *, is_graded: bool) -> list[str]:
    graded = f"{_number(row, 'graded_estimate_pp')} {_number(row, 'graded_p_help', '3.0%')}".replace("- -", "-")
    interval = "-" if row["low_pp"] is None else f"{row['low_pp']:+.2f} .. {row['high_pp']:+.2f}"
    return [
        f"{row['source_task']}-{row['source_language']}",
        str(row["regime"] or "-"),
        _number(row, "estimate_pp"),
        interval,
        _number(row, "p_harm", ".0%"),
        _number(row, "p_help", ".0%"),
        graded if is_graded else _number(row, "observed_pp"),
    ]
