"""What a grid can show: the smallest delta of a regime, a pair and a recommendation, and what one point would need."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from transfergrid.analysis.records import ALL_TRANSFER, IS_SINGLE, TARGET
from transfergrid.analysis.statistics.power import (
    ASSUMED_ACCURACY,
    Noise,
    adaptive_pair_delta,
    expected_change,
    items_needed,
    pair_delta,
    recommendation_delta,
    regime_delta,
    seeds_needed,
)
from transfergrid.analysis.tables.table import REASON, Column, Table, TableInputs, TableReport, schema_of
from transfergrid.analysis.transfer.table import REDRAWN_TEST, read_transfer
from transfergrid.config.settings import AnalysisConfig, GridConfig
from transfergrid.grid import BASELINE_NAME, TRANSFER_REGIMES, Grid, UserError
from transfergrid.store.adaptive import FIRST_LOOK, expected_items
from transfergrid.store.data_manifest import read_manifest
from transfergrid.store.folder import RunFolder
from transfergrid.store.scores import scan_scores, score_parts

GOAL_PP = 1.0
"""The delta whose price is given."""
GRADED_GAIN = (3, 7)
"""Graded transfer needs so many times fewer items for the same effect, at least and at most, in simulations."""
PAIR, RECOMMENDATION = "pair", "recommendation"
MEASURED = "measured"
CURVE_ITEMS, CURVE_SEEDS = (25, 50, 100, 200, 400, 800, 1600, 3200), (1, 3, 5)
"""Where the picture of power has its points."""
_LEAST_CHANGE = 0.005
"""Share of changed items that is assumed at least: of a base that is nearly always right, or wrong."""
TOO_SMALL = "no figure: fewer than two sources or targets, or two tasks"
NOT_BY_ITEMS = "no number of items is enough: sources and targets differ too much"
_COLUMNS = (
    Column("statement", pl.String, "", "What is said: the mean of a regime, one `pair`, one `recommendation`."),
    Column("noise", pl.String, "", "`measured` in this run, from its `baselines` alone, or `assumed`."),
    Column("change_rate", pl.Float64, "0..1", "Items whose answer changes from right to wrong or back."),
    Column("n_items", pl.Int64, "items", "Items of a target, the median."),
    Column("n_seeds", pl.Int64, "seeds", "Training seeds."),
    Column("smallest_delta_pp", pl.Float64, "pp", "Smallest true delta that is shown in four of five runs."),
    Column("items_for_1pp", pl.Int64, "items", "Items of a target at which 1 pp is shown so."),
    Column("seeds_for_1pp", pl.Int64, "seeds", "Seeds at which 1 pp is shown with the items of now; null: above 100."),
    Column("graded_delta_pp", pl.Float64, "pp", "Smallest delta by graded transfer, if it needs 3 times fewer items."),
    Column("graded_items_for_1pp", pl.String, "items", "Items by graded transfer, 7 to 3 times fewer."),
    Column("adaptive_delta_pp", pl.Float64, "pp", "Smallest delta if pairs may stop early; a pair: of one seed only."),
    Column("adaptive_items", pl.Float64, "items", "Items that a pair is then expected to get."),
    REASON,
)


@dataclass(frozen=True, slots=True)
class PowerReport(TableReport):
    """The power of a grid, before or after a run."""

    table: pl.DataFrame

    def __rich__(self) -> RenderableType:
        """Render as one table and what it rests on."""
        first = self.table.row(0, named=True)
        table = RichTable(title=f"What {first['n_items']:,} items and {first['n_seeds']} seed(s) can show")
        heads = (
            "statement",
            "shows pp",
            "items for 1 pp",
            "seeds for 1 pp",
            "graded, pp",
            "items",
            "adaptive, pp",
            "items",
        )
        for place, head in enumerate(heads):
            table.add_column(head, justify="right" if place else "left")
        for row in self.table.iter_rows(named=True):
            names = ("smallest_delta_pp", "items_for_1pp", "seeds_for_1pp", "graded_delta_pp", "graded_items_for_1pp")
            values = (row[name] for name in (*names, "adaptive_delta_pp", "adaptive_items"))
            table.add_row(Text(row["statement"]), *map(_shown, values))
        lines = [
            f"Noise: {first['noise']}, {first['change_rate']:.1%} of the answers change from right to wrong or back. "
            "Shown: in four of five runs. A pair: significant after Benjamini-Hochberg over all pairs of one model. A "
            "recommendation: its probability of help is above the level. Spread of true effects: assumed, see "
            "docs/statistics.md.",
            "Graded: if it needs 3 times (items: 7 to 3 times) fewer items, as in simulations, see docs/statistics.md. "
            f"Adaptive: regimes and recommendations rest on the first {FIRST_LOOK} items.",
        ]
        reasons = self.table["reason"].drop_nulls().unique(maintain_order=True).to_list()
        return Group(table, *(Text(line) for line in (*lines, *reasons)))


def _shown(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def power_table(noise: Noise, grid: Grid, settings: AnalysisConfig, *, origin: str) -> pl.DataFrame:
    """Return one row per statement.

    Args:
        noise: Of a pair.
        grid: Sources and targets.
        settings: Level and false discovery rate.
        origin: Where the noise comes from.
    """
    first = noise._replace(n_items=min(noise.n_items, FIRST_LOOK))
    rows = []
    for statement, delta_at in _statements(grid, settings).items():
        if statement != PAIR:
            adaptive: float | None = delta_at(first)
        elif noise.n_seeds == 1:
            adaptive = adaptive_pair_delta(noise, len(grid.pairs), settings.fdr)
        else:
            adaptive = None
        rows.append(_row(statement, delta_at, noise, adaptive=adaptive))
    shared = {
        "noise": origin,
        "change_rate": noise.change_rate,
        "n_items": round(noise.n_items),
        "n_seeds": noise.n_seeds,
        "adaptive_items": expected_items(round(noise.n_items)),
    }
    return pl.DataFrame([shared | row for row in rows], schema=schema_of(_COLUMNS))


def _statements(grid: Grid, settings: AnalysisConfig) -> dict[str, Callable[[Noise], float]]:
    """Return what can be said, each with the smallest delta that shows it."""
    level = settings.confidence
    found: dict[str, Callable[[Noise], float]] = {
        ALL_TRANSFER if regime is None else regime.value: partial(
            regime_delta, grid=grid, regime=regime, confidence=level
        )
        for regime in (None, *TRANSFER_REGIMES)
    }
    if grid.pairs:
        found[PAIR] = partial(pair_delta, n_pairs=len(grid.pairs), fdr=settings.fdr)
        found[RECOMMENDATION] = partial(
            recommendation_delta, n_tasks=len(grid.tasks), n_cells=len(grid.cells), confidence=level
        )
    return found


def power_curves(rows: pl.DataFrame, by_seed: pl.DataFrame, settings: AnalysisConfig) -> pl.DataFrame:
    """Return the smallest delta of every statement by items of a target and training seeds; empty: not known.

    Args:
        rows: The transfer table of single cells.
        by_seed: The same by seed.
        settings: Level and false discovery rate.
    """
    schema = {"statement": pl.String, "n_items": pl.Int64, "n_seeds": pl.Int64, "delta_pp": pl.Float64}
    noise = _noise_of(rows, by_seed)
    if noise is None:
        return pl.DataFrame(schema=schema)
    curves = [
        (statement, n, seeds, delta_at(noise._replace(n_items=n, n_seeds=seeds)))
        for statement, delta_at in _statements(grid_of(rows), settings).items()
        for seeds in CURVE_SEEDS
        for n in CURVE_ITEMS
    ]
    return pl.DataFrame(curves, schema=schema, orient="row").filter(pl.col("delta_pp").is_finite())


def _row(statement: str, delta_at: Callable[[Noise], float], noise: Noise, *, adaptive: float | None) -> dict[str, Any]:
    delta = delta_at(noise)
    if math.isnan(delta):
        return {"statement": statement, "reason": TOO_SMALL}
    n_items = items_needed(delta_at, noise, GOAL_PP)
    fewer = [] if n_items is None else [f"{math.ceil(n_items / gain):,}" for gain in reversed(GRADED_GAIN)]
    return {
        "statement": statement,
        "smallest_delta_pp": delta,
        "items_for_1pp": n_items,
        "seeds_for_1pp": seeds_needed(delta_at, noise, GOAL_PP),
        "graded_delta_pp": delta_at(noise._replace(n_items=noise.n_items * GRADED_GAIN[0])),
        "graded_items_for_1pp": "-".join(fewer) or None,
        "adaptive_delta_pp": adaptive,
        "reason": NOT_BY_ITEMS if n_items is None else None,
    }


def measured_noise(by_seed: pl.DataFrame) -> Noise | None:
    """Return the noise of pairs of single cells: mean change, median items; None: no row says it."""
    by_seed = by_seed.filter(IS_SINGLE)
    n, net = pl.col("n_items"), pl.col("delta_pp") / 100 * pl.col("n_items")
    squares = (pl.col("se_pp") / 100) ** 2 * n * (n - 1) + net**2 / n
    found = by_seed.select(n_items=n, change=squares / n).drop_nulls()
    if found.is_empty() or not (change := float(found["change"].mean() or 0.0)):  # type: ignore[arg-type]
        return None
    n_items = found["n_items"]
    if "tested_n_items" in by_seed.columns and (tested := by_seed["tested_n_items"].drop_nulls()).len():
        n_items = tested  # of pairs that an adaptive evaluation did not stop
    return Noise(float(np.median(n_items.to_numpy())), change, by_seed["seed"].n_unique())


def plan_power(config: GridConfig, run: RunFolder) -> PowerReport:
    """Return the power of what is configured, from what the run folder has: its pairs, its baselines, or no scores.

    Raises:
        UserError: If it is not known how many items there will be, or files of the run are unusable.
    """
    noise = measured_noise(read_transfer(run, config).by_seed) if score_parts(run) else None
    origin = MEASURED
    if noise is None:
        noise, origin = _before_any_pair(config, run)
    own = config.data.test_items_per_seed
    noise = noise._replace(n_seeds=len(config.seeds), redrawn=own is not None, n_items=own or noise.n_items)
    return PowerReport(power_table(noise, config.grid, config.analysis, origin=origin))


def _before_any_pair(config: GridConfig, run: RunFolder) -> tuple[Noise, str]:
    by_target = scan_scores(score_parts(run)).filter(pl.col("source") == BASELINE_NAME).group_by("model", *TARGET)
    baselines = by_target.agg(accuracy=pl.col("value").mean(), n=pl.len()).collect().drop_nulls()
    if baselines.height:
        change = float(np.mean([expected_change(accuracy) for accuracy in baselines["accuracy"]]))
        return Noise(float(np.median(baselines["n"].to_numpy())), max(change, _LEAST_CHANGE)), "baselines"
    manifest = read_manifest(run.data)
    counts = [] if manifest is None else [task["test"] for task in manifest.counts.values()]
    n_items = float(np.median(counts)) if counts else config.data.test_items_per_seed or config.data.max_test_items
    if n_items is None:
        raise UserError("how many items a target will have is not known yet; run 'grid data' or 'grid plan' first")
    return Noise(n_items, expected_change(ASSUMED_ACCURACY)), "assumed"


def _noise_of(rows: pl.DataFrame, by_seed: pl.DataFrame) -> Noise | None:
    noise = measured_noise(by_seed)
    return noise and noise._replace(redrawn=bool((rows["p_method"] == REDRAWN_TEST).any()))


def grid_of(rows: pl.DataFrame) -> Grid:
    """Return the grid that transfer rows are of, tasks with the languages that they have."""
    targets = rows.select(TARGET).unique().sort(TARGET).group_by("target_task", maintain_order=True)
    languages = {task: tuple(names) for task, names in targets.agg("target_language").iter_rows()}
    every = tuple(rows["target_language"].unique().sort())
    return Grid(tuple(languages), every, languages, frozenset(languages.keys() - {*rows["source_task"]}))


def _of_run(inputs: TableInputs) -> pl.DataFrame:
    noise = _noise_of(inputs.rows, inputs.transfer.by_seed)
    if noise is None:
        return pl.DataFrame()
    return power_table(noise, grid_of(inputs.rows), inputs.settings, origin=MEASURED)


POWER = Table(
    name="power",
    row="statement",
    estimand=(
        "The smallest true delta that a grid of this size shows in four of five runs, over items, sources and targets "
        "like these, for one model and an assumed spread of true effects."
    ),
    columns=_COLUMNS,
    shown="statement n_items smallest_delta_pp items_for_1pp graded_items_for_1pp adaptive_delta_pp",
    build=_of_run,
)
