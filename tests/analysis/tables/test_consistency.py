import numpy as np
import polars as pl
import pytest
from scipy import stats

from tests.analysis.synthetic import MODELS, cells, transfer_rows
from transfergrid.analysis.tables.consistency import consistency_tables, tau_b_matrix
from transfergrid.grid import Regime

LANGUAGES = ("de", "en", "es", "fr", "it")
GRID = cells(("arc_challenge", "global_mmlu", "hellaswag", "truthfulqa"), LANGUAGES)
MANY = ("Llama-3.2-1B", "Llama-3.1-8B", "Qwen2.5-0.5B", "gemma-3-4b")


def random_rows(models: tuple[str, ...] = MANY) -> pl.DataFrame:
    return transfer_rows(models, GRID, np.random.default_rng(0).integers(-3, 4, (len(models), 20, 20)))


@pytest.mark.parametrize("seed", range(5))
def test_tau_b_equals_scipy_with_ties_and_gaps(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 5, (4, 9)).astype(float)
    values[generator.random(values.shape) < 0.1] = np.nan
    found = tau_b_matrix(values)
    for first in range(4):
        for second in range(4):
            common = ~np.isnan(values[first]) & ~np.isnan(values[second])
            expected = stats.kendalltau(values[first][common], values[second][common]).statistic
            assert found[first, second] == pytest.approx(expected)


def test_the_index_is_the_mean_tau_over_pairs_of_models() -> None:
    rows = random_rows()
    found = consistency_tables(rows).by_source.filter(unit="model")
    recipients = {"MT-CL": 4, "CT-ML": 3, "CT-CL": 12}
    assert found.group_by("regime").len().sort("regime").rows() == [("CT-CL", 20), ("CT-ML", 20), ("MT-CL", 20)]
    for row in found.iter_rows(named=True):
        part = rows.filter(regime=row["regime"], source_task=row["source_task"], source_language=row["source_language"])
        vectors = [
            part.filter(model=model).sort("target_task", "target_language")["delta_pp"].to_numpy() for model in MANY
        ]
        taus = [stats.kendalltau(vectors[i], vectors[j]).statistic for i in range(4) for j in range(i)]
        assert row["mean_tau_b"] == pytest.approx(np.nanmean(taus))
        assert (row["n_units"], row["n_recipients"]) == (4, recipients[row["regime"]])


def test_the_summary_has_median_and_quartiles_over_sources() -> None:
    found = consistency_tables(random_rows())
    values = found.by_source.filter(unit="model", regime="MT-CL")["mean_tau_b"].drop_nulls().to_numpy()
    row = found.summary.filter(unit="model", regime="MT-CL").row(0, named=True)
    assert row["n_sources"] == len(values)
    assert [row[name] for name in ("lower_quartile", "median", "upper_quartile")] == pytest.approx(
        np.quantile(values, [0.25, 0.5, 0.75])
    )


def test_families_are_averaged_before_they_are_compared() -> None:
    rows = random_rows()
    row = (
        consistency_tables(rows)
        .by_source.filter(unit="family", regime="MT-CL", source_task="hellaswag", source_language="de")
        .row(0, named=True)
    )
    part = rows.filter(regime="MT-CL", source_task="hellaswag", source_language="de")
    means = part.group_by("family", "target_language").agg(pl.col("delta_pp").mean()).sort("family", "target_language")
    vectors = [each["delta_pp"].to_numpy() for each in means.partition_by("family")]
    taus = [stats.kendalltau(vectors[i], vectors[j]).statistic for i in range(3) for j in range(i)]
    assert row["mean_tau_b"] == pytest.approx(np.nanmean(taus))
    assert row["n_units"] == 3


def test_models_that_agree_have_index_one() -> None:
    rows = transfer_rows(MODELS, GRID, np.broadcast_to(np.arange(400).reshape(20, 20), (2, 20, 20)))
    assert set(consistency_tables(rows).summary.filter(unit="model")["median"]) == {1.0}


def test_one_model_has_no_index_and_says_why() -> None:
    found = consistency_tables(random_rows(MANY[:1]))
    assert set(found.by_source["reason"]) == {"1 to compare; at least 2 are needed"}
    assert found.summary["median"].null_count() == found.summary.height
    assert set(found.summary["reason"]) == {"1 to compare; at least 2 are needed"}


def test_two_recipients_are_too_few() -> None:
    rows = transfer_rows(MODELS, cells(("arc_challenge",)), np.random.default_rng(0).normal(size=(2, 3, 3)))
    found = consistency_tables(rows).by_source.filter(unit="model")
    assert set(found["regime"]) == {Regime.MT_CL.value}
    assert set(found["reason"]) == {"2 recipients; at least 3 are needed"}


def test_constant_deltas_have_no_index_and_say_why() -> None:
    found = consistency_tables(transfer_rows(MODELS, GRID, np.zeros((2, 20, 20)))).by_source
    assert set(found.filter(unit="model")["reason"]) == {"every pair has constant deltas or too few common recipients"}


def test_pairs_that_are_left_out_are_counted() -> None:
    deltas = np.random.default_rng(0).normal(size=(3, 20, 20))
    deltas[0] = 1
    found = consistency_tables(transfer_rows(MANY[:3], GRID, deltas)).by_source.filter(unit="model")
    assert set(found["n_pairs"]) == {1}
    assert set(found["reason"]) == {"2 of 3 pairs left out: constant deltas or too few common recipients"}


def test_nothing_to_compare_gives_empty_tables() -> None:
    found = consistency_tables(transfer_rows(MODELS, cells(("arc_challenge",), ("de",))))
    assert found.by_source.is_empty()
    assert found.summary.is_empty()
