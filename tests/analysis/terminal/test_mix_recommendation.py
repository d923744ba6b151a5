"""Mixtures that are proposed: by adding up, or as measured mixtures say."""

from __future__ import annotations

import io
import re
from itertools import combinations

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from tests.analysis.synthetic import cells, transfer_rows
from transfergrid.analysis.mixing.additivity import ASSUMED, Additivity, fit_additivity, rank_mixes
from transfergrid.analysis.records import Transfer
from transfergrid.analysis.terminal.mix_recommendation import HARM_LIMIT, MixRecommendation, recommend_mix
from transfergrid.analysis.terminal.recommendation import recommend_from
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Cell, UserError, regime_of_several

GRID = cells(("arc_challenge", "global_mmlu", "hellaswag"), ("de", "en", "es", "fr"))
TARGET = Cell("hellaswag", "fr")
MODEL = "m0"


def single(seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    """Rows of one model around known deltas of shape [sources, targets]."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(1, 2, (12, 1)) + generator.normal(0, 1, (1, 12))
    return transfer_rows((MODEL,), GRID, truth + 0.1 * generator.normal(size=(12, 12)), se_pp=0.1), truth


def mixtures(truth: np.ndarray, slope: float, n: int, noise: float = 0.0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Measured pairs whose delta is a share of the sum of the parts' true deltas, and what they are of."""
    generator = np.random.default_rng(1)
    rows, sources = [], []
    for one, two in list(combinations(range(12), 2))[:n]:
        parts = (GRID[one], GRID[two])
        name = f"mix-{one}-{two}"
        sources.append((name, "mixture", " ".join(cell.name for cell in parts), None))
        for place, target in enumerate(GRID):
            delta = slope * (truth[one, place] + truth[two, place]) + noise * generator.normal()
            regime = regime_of_several(parts, target)
            rows.append((MODEL, name, "mixture", target.task, target.language, regime, delta, 0.1))
    names = ["model", "source", "source_kind", "target_task", "target_language", "regime", "delta_pp", "se_pp"]
    kinds = pl.DataFrame(sources, schema=["source", "source_kind", "source_cells", "method"], orient="row")
    return pl.DataFrame(rows, schema=names, orient="row"), kinds


def propose(rows: pl.DataFrame, *others: pl.DataFrame, most: int = 3) -> MixRecommendation:
    transfer = Transfer(pl.DataFrame(), rows, (), (), *others)
    return recommend_mix(transfer, AnalysisConfig(), target=TARGET, most=most)


def text(found: MixRecommendation) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(found)
    return " ".join(console.export_text().split())


def test_without_measured_mixtures_the_best_sources_are_added_up_and_that_is_said() -> None:
    rows, _ = single()
    alone = recommend_from(Transfer(pl.DataFrame(), rows, ()), AnalysisConfig(), target=TARGET).table
    best = alone.head(3).select(pl.concat_str("source_task", "source_language", separator="-"), "estimate_pp")
    first = propose(rows).table.row(0, named=True)
    assert set(first["sources"].split(" + ")) == set(best.to_series().to_list())
    assert first["estimate_pp"] == pytest.approx(best["estimate_pp"].sum())
    assert first["measured_pp"] is None
    found = propose(rows, most=2)
    assert found.table["n_sources"].max() == 2
    assert "mixtures of 2: that their sources' deltas add up is an assumption" in text(found)


def test_measured_mixtures_say_what_share_of_the_sum_to_expect_and_how_far_off_that_is() -> None:
    rows, truth = single()
    found = propose(rows, *mixtures(truth, 0.5, 20, noise=0.3), most=2)
    shown = text(found)
    assert "mixtures of 2: 0.5" in shown
    assert re.search(r"fitted to 20 mixtures of this run; error on mixtures held out 0\.[23]", shown)
    pair = found.table.filter(pl.col("n_sources") == 2).row(0, named=True)
    alone = propose(rows, most=2).table.filter(pl.col("sources") == pair["sources"]).row(0, named=True)
    assert pair["estimate_pp"] < 0.7 * alone["estimate_pp"]


def test_a_measured_mixture_of_the_target_is_taken_as_measured() -> None:
    rows, truth = single()
    others, kinds = mixtures(truth, 1.0, 1)
    others = others.with_columns(delta_pp=pl.lit(40.0), se_pp=pl.lit(1e-4))
    first = propose(rows, others, kinds).table.row(0, named=True)
    assert first["sources"] == "arc_challenge-de + arc_challenge-en"
    assert (first["measured_pp"], first["estimate_pp"]) == (40.0, pytest.approx(40, abs=0.01))


def test_what_may_harm_is_not_proposed() -> None:
    rows = transfer_rows((MODEL,), GRID, np.full((1, 12, 12), -3.0), se_pp=0.1)
    found = propose(rows)
    assert found.table.is_empty()
    assert f"no mixture and no single source has a probability of harm of at most {HARM_LIMIT:.0%}" in text(found)
    with pytest.raises(UserError, match=r"no source of 'hellaswag-fr' has an estimate with an interval"):
        one = Cell("arc_challenge", "de")
        two = transfer_rows((MODEL,), [one, TARGET], np.ones((1, 2, 2)), se_pp=None)
        recommend_mix(Transfer(pl.DataFrame(), two, ()), AnalysisConfig(), target=TARGET, most=2)


def test_the_error_of_the_fit_is_that_of_a_plain_loop_over_held_out_mixtures() -> None:
    generator = np.random.default_rng(2)
    codes = np.repeat(np.arange(5), 4)
    sums = generator.normal(size=20)
    observed = 0.7 * sums + 0.2 * generator.normal(size=20)
    errors = []
    for place, code in enumerate(codes):
        kept = codes != code
        slope = np.linalg.lstsq(sums[kept, None], observed[kept], rcond=None)[0][0]
        errors.append(observed[place] - slope * sums[place])
    found = fit_additivity(sums, observed, codes)
    assert found.error_pp == pytest.approx(np.sqrt(np.mean(np.square(errors))))
    assert found.slope == pytest.approx(np.linalg.lstsq(sums[:, None], observed, rcond=None)[0][0])
    assert found.added_error_pp == pytest.approx(np.sqrt(np.mean((observed - sums) ** 2)))
    assert fit_additivity(sums[:8], observed[:8], codes[:8]) == ASSUMED


def test_every_set_is_ranked_once_with_its_variance() -> None:
    fits = {2: Additivity(0.5, 2.0, 3.0, 9)}
    found = rank_mixes(
        np.array([3.0, 1.0, -1.0]), np.array([1.0, 1.0, 4.0]), fits, {frozenset({0, 1}): (6.0, 4.5)}, most=2
    )
    assert found.members == [(0, 1), (0,), (1,), (0, 2), (1, 2), (2,)]
    # by hand: (0, 1) is expected at 2 with variance 0.25 x 2 + 4 = 4.5 and measured at 6 with the same variance
    assert found.estimate.tolist() == [4.0, 3.0, 1.0, 1.0, 0.0, -1.0]
    assert found.variance.tolist() == [2.25, 1.0, 1.0, 5.25, 5.25, 4.0]
