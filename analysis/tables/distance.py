"""Does transfer fall with linguistic distance? URIEL distances against MT-CL deltas, with a Mantel test."""

from __future__ import annotations

from itertools import permutations
from math import factorial
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import stats
from scipy.spatial import distance

from transfergrid.analysis.arrays import FloatArray
from transfergrid.analysis.statistics.significance import t_test_p
from transfergrid.analysis.tables.table import PAIR_COLUMNS, REASON, Column, Table, TableInputs, schema_of
from transfergrid.analysis.transfer.languages import FEATURE_SETS, UnknownLanguageError, uriel_vector
from transfergrid.config.settings import AnalysisConfig
from transfergrid.grid import Regime

MIN_LANGUAGES = 3

_SUMMARY_COLUMNS = (
    Column("features", pl.String, "", "URIEL features behind the distance."),
    Column("method", pl.String, "", "`spearman` or `pearson`."),
    Column("n_languages", pl.Int64, "languages", "Languages in the pairs."),
    Column("n_pairs", pl.Int64, "pairs", "Ordered language pairs with a delta and a distance."),
    Column("correlation", pl.Float64, "-1..1", "Correlation of distance and mean MT-CL delta."),
    Column("naive_p", pl.Float64, "0..1", "Two-sided p as if the pairs were independent, which they are not."),
    Column("mantel_p", pl.Float64, "0..1", "Two-sided p by permuting languages (Mantel)."),
    Column("n_permutations", pl.Int64, "permutations", "Permutations behind `mantel_p`."),
    REASON,
)


class DistanceTables(NamedTuple):
    """Distances of ordered language pairs beside their mean delta, and the correlations."""

    pairs: pl.DataFrame
    summary: pl.DataFrame


def correlation_p(correlation: float, n: int) -> float:
    """Return the two-sided p of a correlation of n independent pairs (t with n - 2 degrees of freedom)."""
    if n < 3:
        return float("nan")
    if abs(correlation) >= 1:
        return 0.0
    statistic = correlation * np.sqrt((n - 2) / (1 - correlation**2))
    return float(t_test_p(np.array([statistic]), np.array([n - 2.0]))[0])


class Mantel(NamedTuple):
    """A correlation of two matrices and its permutation p."""

    correlation: float
    p: float
    n_permutations: int


def mantel(distances: FloatArray, values: FloatArray, *, n_permutations: int, seed: int) -> Mantel:
    """Return Pearson's correlation of two matrices off the diagonal, with a two-sided permutation p.

    Languages of ``distances`` are permuted, rows and columns together, which keeps the dependence of pairs that
    share a language. All permutations are used where there are no more than asked for.

    Args:
        distances: Shape [L, L].
        values: Shape [L, L]; NaN off the diagonal: left out, with the cells that fall on it.
        n_permutations: Number of random permutations.
        seed: Seed of the permutations.

    Source:
        Mantel 1967; p = (1 + hits) / (1 + permutations), exact share where all are used.
    """
    size = len(distances)
    there = ~np.isnan(values) & ~np.eye(size, dtype=bool)
    rows, columns = np.nonzero(there)
    wanted = values[rows, columns]
    observed = _pearson(distances[rows, columns][None, :], wanted)[0]
    exact = size <= 12 and factorial(size) <= n_permutations
    if exact:
        orders = np.array(list(permutations(range(size))))
    else:
        generator = np.random.default_rng(seed)
        orders = generator.permuted(np.tile(np.arange(size), (n_permutations, 1)), axis=1)
    permuted = _pearson(distances[orders[:, rows], orders[:, columns]], wanted)
    hits = int((np.abs(permuted) >= abs(observed) - 1e-12).sum())
    p = hits / len(orders) if exact else (1 + hits) / (1 + len(orders))
    return Mantel(float(observed), p, len(orders))


def _pearson(first: FloatArray, second: FloatArray) -> FloatArray:
    """Correlate every row of ``first``, shape [P, N], with ``second``, shape [N]; NaN where one does not vary."""
    centred = first - first.mean(axis=1, keepdims=True)
    other = second - second.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        found: FloatArray = centred @ other / (np.linalg.norm(centred, axis=1) * np.linalg.norm(other))
    return found


def distance_tables(rows: pl.DataFrame, settings: AnalysisConfig) -> DistanceTables:
    """Correlate URIEL distances with the mean MT-CL delta of ordered language pairs.

    Returns:
        ``pairs``: one row per ordered pair with ``mean_pp`` and a distance per feature set (null: URIEL lacks a
        language). ``summary``: one row per feature set and method.
    """
    pairs = (
        rows.filter((pl.col("regime") == Regime.MT_CL.value) & pl.col("delta_pp").is_not_null())
        .group_by("source_language", "target_language")
        .agg(n=pl.len().cast(pl.Int64), mean_pp=pl.col("delta_pp").mean())
        .sort("source_language", "target_language")
    )
    languages = sorted({*pairs["source_language"], *pairs["target_language"]})
    records = []
    for features in FEATURE_SETS:
        vectors, missing = _vectors(languages, features)
        names, values = list(vectors), list(vectors.values())
        matrix = distance.cdist(values, values, "cosine") if values else np.zeros((0, 0))
        found = [
            (names[one], names[other], float(matrix[one, other])) for one, other in permutations(range(len(names)), 2)
        ]
        schema = {"source_language": pl.String, "target_language": pl.String, f"{features}_distance": pl.Float64}
        known = pl.DataFrame(found, schema=schema, orient="row")
        pairs = pairs.join(known, on=["source_language", "target_language"], how="left", maintain_order="left")
        note = f"URIEL has no vector for {missing}" if missing else None
        records += _correlate(pairs, features, _Distances(tuple(names), matrix), note, settings)
    return DistanceTables(pairs, pl.DataFrame(records, schema=schema_of(_SUMMARY_COLUMNS)))


def _vectors(languages: list[str], features: str) -> tuple[dict[str, FloatArray], list[str]]:
    vectors, missing = {}, []
    for language in languages:
        try:
            vectors[language] = uriel_vector(language, features)
        except UnknownLanguageError:
            missing.append(language)
    return vectors, missing


class _Distances(NamedTuple):
    languages: tuple[str, ...]
    matrix: FloatArray


def _correlate(
    pairs: pl.DataFrame, features: str, known: _Distances, note: str | None, settings: AnalysisConfig
) -> list[dict[str, object]]:
    column = f"{features}_distance"
    usable = pairs.filter(pl.col(column).is_not_null())
    languages = {*usable["source_language"], *usable["target_language"]}
    base = {"features": features, "n_languages": len(languages), "n_pairs": usable.height}
    failure = _cannot(usable, column, len(languages))
    if failure is not None:
        return [{**base, "method": method, "reason": failure} for method in ("spearman", "pearson")]
    records: list[dict[str, object]] = []
    for method in ("spearman", "pearson"):
        distances, values = _matrices(usable, column, known, rank=method == "spearman")
        found = mantel(distances, values, n_permutations=settings.permutations, seed=settings.seed)
        records.append(
            {
                **base,
                "method": method,
                "correlation": found.correlation,
                "naive_p": correlation_p(found.correlation, usable.height),
                "mantel_p": found.p,
                "n_permutations": found.n_permutations,
                "reason": note,
            }
        )
    return records


def _cannot(usable: pl.DataFrame, column: str, n_languages: int) -> str | None:
    if n_languages < MIN_LANGUAGES:
        return f"{n_languages} languages with MT-CL deltas and vectors; at least {MIN_LANGUAGES} are needed"
    if usable["mean_pp"].n_unique() < 2 or usable[column].n_unique() < 2:
        return "deltas or distances do not vary, so there is no correlation"
    return None


def _matrices(usable: pl.DataFrame, column: str, known: _Distances, *, rank: bool) -> tuple[FloatArray, FloatArray]:
    """Return distances and mean deltas as matrices; ranks among the usable pairs where asked."""
    place = {language: index for index, language in enumerate(known.languages)}
    rows = np.array([place[name] for name in usable["source_language"]])
    columns = np.array([place[name] for name in usable["target_language"]])
    deltas = usable["mean_pp"].to_numpy()
    values = np.full(known.matrix.shape, np.nan)
    values[rows, columns] = stats.rankdata(deltas) if rank else deltas
    return (_ranks_among(usable[column].to_numpy(), known.matrix) if rank else known.matrix), values


def _ranks_among(reference: FloatArray, values: FloatArray) -> FloatArray:
    """Return the average rank every value has or would have among the reference values."""
    ordered = np.sort(reference)
    below, up_to = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    found: FloatArray = (below + up_to + 1) / 2
    return found


def _both(inputs: TableInputs) -> DistanceTables:
    return distance_tables(inputs.rows, inputs.settings)


DISTANCE = Table(
    name="distance",
    row="features, method",
    estimand=(
        "How mean MT-CL delta falls or rises with linguistic distance, over ordered pairs of these languages, for "
        "these models and items; it is no cause."
    ),
    columns=_SUMMARY_COLUMNS,
    shown="features method n_pairs correlation naive_p mantel_p",
    build=lambda inputs: inputs.once(_both).summary,
)

DISTANCE_PAIRS = Table(
    name="distance_pairs",
    row="source language, target language",
    estimand="Mean MT-CL delta of one language pair, over the models and tasks of the run.",
    columns=(
        PAIR_COLUMNS[1],
        PAIR_COLUMNS[3],
        Column("n", pl.Int64, "rows", "Rows of the transfer table in the mean."),
        Column("mean_pp", pl.Float64, "pp", "Mean delta of those rows."),
        *(
            Column(f"{name}_distance", pl.Float64, "0..1", f"Cosine distance of the languages' URIEL vectors ({name}).")
            for name in FEATURE_SETS
        ),
    ),
    shown="source_language target_language n mean_pp syntax_knn_distance inventory_knn_distance",
    build=lambda inputs: inputs.once(_both).pairs,
)
