from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from tests.analysis.synthetic import MODELS, cells, transfer_rows
from transfergrid.analysis.tables.distance import correlation_p, distance_tables, mantel
from transfergrid.analysis.transfer.languages import FEATURE_SETS, uriel_vector
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import LANGUAGES

SETTINGS = AnalysisConfig(permutations=999, seed=3)


def random_matrices(size: int = 7) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    distances = generator.random((size, size))
    return distances + distances.T, generator.random((size, size))


def test_correlations_and_naive_p_equal_scipys() -> None:
    rows = transfer_rows(
        MODELS, cells(("arc_challenge",), LANGUAGES), np.random.default_rng(0).normal(size=(2, 11, 11))
    )
    found = distance_tables(rows, SETTINGS)
    assert found.pairs.height == 110
    for features in ("syntax_knn", "phonology_knn", "inventory_knn"):
        distances, deltas = found.pairs[f"{features}_distance"].to_numpy(), found.pairs["mean_pp"].to_numpy()
        for method, reference in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
            row = found.summary.filter(features=features, method=method).row(0, named=True)
            expected = reference(distances, deltas)
            assert row["correlation"] == pytest.approx(expected.statistic)
            assert row["naive_p"] == pytest.approx(expected.pvalue)
            assert row["n_permutations"] == 999


def test_pairs_have_the_mean_delta_and_the_distance_of_their_languages() -> None:
    rows = transfer_rows(MODELS, cells(("arc_challenge", "hellaswag"), ("de", "en", "hi")))
    rows = rows.with_columns(delta_pp=np.random.default_rng(0).normal(size=rows.height))
    row = distance_tables(rows, SETTINGS).pairs.filter(source_language="de", target_language="hi").row(0, named=True)
    mine = rows.filter(regime="MT-CL", source_language="de", target_language="hi")
    assert row["mean_pp"] == pytest.approx(mine["delta_pp"].mean())
    assert row["n"] == 4
    german, hindi = uriel_vector("de", "syntax_knn"), uriel_vector("hi", "syntax_knn")
    expected = 1 - german @ hindi / np.sqrt((german @ german) * (hindi @ hindi))
    assert row["syntax_knn_distance"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [("en", "de", (0.0975, 0.1942, 0.2372)), ("hi", "fr", (0.3494, 0.1994, 0.2777))],
)
def test_distances_equal_lang2vecs_golden_values(first: str, second: str, expected: tuple[float, ...]) -> None:
    rows = transfer_rows(MODELS, cells(("arc_challenge",), (first, second)))
    found = distance_tables(rows, SETTINGS).pairs.filter(source_language=first).row(0, named=True)
    assert [found[f"{name}_distance"] for name in FEATURE_SETS] == pytest.approx(expected, abs=5e-5)


def test_the_mantel_test_with_all_permutations_equals_a_slow_loop() -> None:
    distances, values = random_matrices(5)
    off = ~np.eye(5, dtype=bool)
    observed = stats.pearsonr(distances[off], values[off]).statistic
    slow = [
        stats.pearsonr(distances[np.ix_(order, order)][off], values[off]).statistic for order in permutations(range(5))
    ]
    found = mantel(distances, values, n_permutations=200, seed=0)
    assert found.n_permutations == 120
    assert found.correlation == pytest.approx(observed)
    assert found.p == pytest.approx(np.mean(np.abs(slow) >= abs(observed) - 1e-12))


def test_random_permutations_are_seeded_and_never_give_zero() -> None:
    distances, _ = random_matrices(9)
    found = mantel(distances, distances, n_permutations=500, seed=1)
    assert found.correlation == pytest.approx(1)
    assert found.p == pytest.approx(1 / 501)
    unrelated = random_matrices(9)
    assert mantel(*unrelated, n_permutations=500, seed=1) == mantel(*unrelated, n_permutations=500, seed=1)


def test_the_mantel_test_keeps_its_level_where_pairs_share_languages() -> None:
    """Deltas that depend on the target only: the naive p rejects too often, Mantel's does not."""
    generator = np.random.default_rng(4)
    naive, exact = 0, 0
    for seed in range(150):
        points = generator.normal(size=(10, 2))
        distances = np.linalg.norm(points[:, None] - points[None, :], axis=2)
        values = np.broadcast_to(generator.normal(size=10), (10, 10)).copy()
        off = ~np.eye(10, dtype=bool)
        naive += stats.pearsonr(distances[off], values[off]).pvalue < 0.05
        exact += mantel(distances, values, n_permutations=199, seed=seed).p < 0.05
    assert naive > 2 * exact
    assert exact / 150 < 0.11


def test_pairs_without_a_delta_are_left_out() -> None:
    rows = transfer_rows(("m",), cells(("arc_challenge",), ("de", "en", "fr", "hi", "it")))
    rows = rows.with_columns(delta_pp=np.random.default_rng(1).normal(size=rows.height))
    gone = (rows["source_language"] == "de") & (rows["target_language"] == "hi")
    found = distance_tables(rows.filter(~gone), SETTINGS)
    row = found.summary.filter(features="syntax_knn", method="spearman").row(0, named=True)
    expected = stats.spearmanr(found.pairs["syntax_knn_distance"], found.pairs["mean_pp"])
    assert row["n_pairs"] == 19
    assert row["correlation"] == pytest.approx(expected.statistic)


def test_a_language_without_vectors_is_named_and_left_out() -> None:
    rows = transfer_rows(("m",), cells(("arc_challenge",), ("de", "en", "fr", "cnr")))
    rows = rows.with_columns(delta_pp=np.random.default_rng(1).normal(size=rows.height))
    found = distance_tables(rows, SETTINGS)
    row = found.summary.row(0, named=True)
    assert (row["n_languages"], row["reason"]) == (3, "URIEL has no vector for ['cnr']")
    assert found.pairs.filter(source_language="cnr")["syntax_knn_distance"].null_count() == 3


@pytest.mark.parametrize(
    ("languages", "deltas", "reason"),
    [
        (("de",), None, "0 languages with MT-CL deltas and vectors; at least 3 are needed"),
        (("de", "en"), None, "2 languages with MT-CL deltas and vectors; at least 3 are needed"),
        (("de", "en", "fr"), 0.0, "deltas or distances do not vary, so there is no correlation"),
    ],
)
def test_too_few_languages_and_constant_deltas_say_why(
    languages: tuple[str, ...], deltas: float | None, reason: str
) -> None:
    rows = transfer_rows(("m",), cells(("arc_challenge",), languages))
    if deltas is None:
        rows = rows.with_columns(delta_pp=np.random.default_rng(1).normal(size=rows.height))
    found = distance_tables(rows, SETTINGS).summary
    assert set(found["reason"]) == {reason}
    assert found.height == 6
    assert found["correlation"].null_count() == 6


def test_a_perfect_correlation_has_p_zero() -> None:
    assert correlation_p(1.0, 10) == 0.0
    assert np.isnan(correlation_p(0.5, 2))
