from typing import Any

import polars as pl
import pytest

from transfergrid.analysis.tables.facts import (
    agreement,
    comparisons,
    distance_correlations,
    graded_transfer,
    harm_is_mostly_chance,
    is_mostly_noise,
    labelled,
    missing_reasons,
    n_significant,
    regime_row,
    seeds_only,
    variance_shares,
)
from transfergrid.analysis.tables.roles import FRAGILE, HUB, ONE_OTHER
from transfergrid.analysis.terminal.summary import noise_floor_lines


def regime(**changes: Any) -> dict[str, Any]:
    return {
        "n": 40,
        "harm_threshold_items": 4,
        "median_se_pp": 1.5,
        "win_rate_true": 0.6,
        "harm_rate_true": 0.05,
        "harm_rate": 0.3,
        "win_rate": 0.5,
        "harm_rate_by_chance": 0.2,
        "n_tested": 20,
        "harm_rate_significant": 0.1,
        "win_rate_significant": 0.25,
        "se_origin": "items",
    } | changes


def test_significant_rates_are_counts_of_the_tested_pairs() -> None:
    assert (n_significant(regime(), "win"), n_significant(regime(), "harm")) == (5, 2)
    assert n_significant(regime(harm_rate_significant=None, win_rate_significant=None), "win") == 0
    assert seeds_only(regime(se_origin="items, seeds"))


@pytest.mark.parametrize(
    ("changes", "noise", "chance"),
    [
        ({}, True, True),
        ({"win_rate_significant": 0.3}, False, True),
        ({"harm_rate_by_chance": 0.14}, True, False),
        ({"harm_rate_significant": 0.16}, False, False),
        ({"harm_rate": 0.0, "harm_rate_significant": 0.0}, False, False),
    ],
)
def test_when_noise_or_chance_explains_most_of_it(changes: dict[str, float], noise: bool, chance: bool) -> None:
    row = regime(**changes)
    assert (is_mostly_noise(row), harm_is_mostly_chance(row)) == (noise, chance)


def test_graded_transfer_is_said_beside_accuracy_with_counts() -> None:
    graded = {"n_graded": 30, "graded_mean_pp": 0.5, "graded_mean_pp_low": -0.25, "graded_mean_pp_high": 1.25}
    rates = {"graded_win_rate_significant": 0.2, "graded_loss_rate_significant": 0.1, "loss_rate_significant": 0.0}
    said = graded_transfer(regime(**graded, **rates))
    assert said is not None
    assert "+0.50 pp on average (-0.25 to +1.25) over 30 pairs; by it 6 pairs gain and 3 lose" in said
    assert said.endswith("by right and wrong 5 and 0.")
    assert graded_transfer(regime(n_graded=0)) is None


def role(name: str, unit: str, label: str | None, *, of: str = "donor", reason: str | None = None) -> dict[str, Any]:
    return {
        "role": of,
        "unit": unit,
        "regime": "MT-CL",
        "models_by": "all",
        "name": name,
        "rank": 1,
        "score_pp": 0.5,
        "label": label,
        "reason": reason,
    }


def test_labelled_units_are_listed_and_labelled_cells_counted() -> None:
    roles = pl.DataFrame(
        [
            role("fr", "language", None),
            role("de", "language", HUB),
            role("arc-de", "cell", HUB),
            role("hi", "language", None, of="recipient", reason=ONE_OTHER["recipient"]),
        ],
        infer_schema_length=None,
    )
    hubs, fragile = labelled(roles, HUB), labelled(roles, FRAGILE)
    assert (hubs.units, hubs.n_cells, hubs.unknown) == ((("de", "MT-CL", 0.5),), 1, None)
    assert (fragile.units, fragile.n_cells, fragile.unknown) == ((), 0, "one source")


def test_variance_keeps_what_is_known_apart_from_why_the_rest_is_not() -> None:
    rows = [
        ("crossed", "MT-CL", "model", 0.25, 0.5, None),
        ("crossed", "MT-CL", "source", None, None, "one level"),
        ("crossed", "CT-CL", "model", 0.5, None, None),
        ("nested", "MT-CL", "all", None, None, "too few rows"),
    ]
    table = pl.DataFrame(rows, schema=["fit", "regime", "component", "share", "share_true", "reason"], orient="row")
    assert variance_shares(table, "crossed") == ((("model", 0.25, 0.5),), ("source: one level",))
    assert variance_shares(table, "nested") == ((), ("too few rows",))


def test_agreement_is_between_models_and_distance_is_the_rank_correlation() -> None:
    consistency = pl.DataFrame(
        {"unit": ["model", "size"], "regime": 2 * ["MT-CL"], "median": [0.2, 0.9], "reason": "x"}
    )
    assert agreement(consistency) == [("MT-CL", 0.2, "x")]
    distance = pl.DataFrame(
        {"features": 2 * ["syntax_knn"], "method": ["spearman", "pearson"], "correlation": [0.1, 1]}
    )
    assert distance_correlations(distance) == [{"features": "syntax", "method": "spearman", "correlation": 0.1}]


def test_reasons_are_counted_most_frequent_first() -> None:
    table = pl.DataFrame({"reason": ["b", "a", None, "c", "c"]})
    assert missing_reasons(table, 2) == [("c", 2), ("a", 1)]


def test_the_noise_floor_counts_every_target_once() -> None:
    columns = ["model", "target_task", "target_language", "n_flips_noise_floor", "n_items"]
    rows = [
        ("m", "arc", "de", 1, 12),
        ("m", "arc", "de", 1, 12),
        ("m", "arc", "fr", 3, 12),
        ("m", "arc", "hi", None, 9),
    ]
    assert noise_floor_lines(pl.DataFrame(rows, schema=columns, orient="row")) == [
        "Noise floor: 4 of 24 answers of the base change with the order of the arithmetic, at most 3 in one target."
    ]
    assert noise_floor_lines(pl.DataFrame(rows[-1:], schema=columns, orient="row")) == []


def test_a_regime_is_its_row_over_all_groups() -> None:
    table = pl.DataFrame({"regime": 2 * ["MT-CL"], "by": ["model", "all"], "n": [1, 2]})
    assert regime_row(table, "MT-CL")["n"] == 2


def pooled(**changes: Any) -> pl.DataFrame:
    """One row of means, of the tables of mixtures, merges and variants at once."""
    ends = {
        f"minus_{name}_pp{end}": 0.0 for name in ("mean", "sum", "together", "main") for end in ("", "_low", "_high")
    }
    names = {
        "model": "m",
        "regime": "all transfer",
        "method": "ties",
        "variant": "r8",
        "of": "cell",
        "target_task": None,
    }
    costs = {"n_weights": 1_000, "main_n_weights": 4_000, "train_s": 30.0, "main_train_s": 41.0}
    return pl.DataFrame(
        [names | ends | costs | {"delta_pp": 1.0} | changes], schema_overrides={"target_task": pl.String}
    )


@pytest.mark.parametrize(
    ("mean", "total", "verdict"),
    [
        ((1, 2), (-1, 1), "they add up"),
        ((1, 2), (-2, -1), "more than their mean, less than their sum"),
        ((1, 2), (1, 2), "more than their sum"),
        ((-1, 1), (-2, -1), "they average"),
        ((-1, 1), (1, 2), "they average"),
        ((-1, 1), (-1, 1), "whether they add up or average cannot be told"),
        ((-2, -1), (-2, -1), "they interfere"),
        ((None, None), (-1, 1), "not known"),
    ],
)
def test_what_cells_do_together_follows_from_two_intervals(mean: tuple, total: tuple, verdict: str) -> None:
    names = ("minus_mean_pp_low", "minus_mean_pp_high", "minus_sum_pp_low", "minus_sum_pp_high")
    row = pooled(**dict(zip(names, mean + total, strict=True)))
    (line,) = comparisons(row, row.clear(), row.clear())["Do cells add up?"]
    assert line.endswith(f"against their sum: {verdict}")


def test_merges_and_variants_are_compared_in_a_line_each() -> None:
    row = pooled(minus_main_pp=-0.5, minus_main_pp_low=-0.9, minus_main_pp_high=-0.1)
    found = comparisons(row.clear(), row, row)
    assert found == {
        "Does merging equal training together?": [
            "Merged by ties, all transfer: +0.00 pp (+0.00 to +0.00) against training together, no difference that can be told"
        ],
        "What does another recipe change?": [
            "Variant r8: -0.50 pp (-0.90 to -0.10) against the main recipe in all transfer; 1,000 weights for 4,000, "
            "30 s of training for 41"
        ],
    }
    many = pl.concat([pooled(model=f"m{number}", n_weights=None) for number in range(9)], how="vertical_relaxed")
    lines = comparisons(many.clear(), many.clear(), many)["What does another recipe change?"]
    assert (len(lines), lines[-1]) == (7, "3 more stand in its table")
    assert lines[0].endswith("no difference that can be told [m0]")
    assert comparisons(row.clear(), row.clear(), row.clear()) == {}


def test_a_variant_is_told_of_its_own_cell_and_of_regimes_that_it_surely_changes() -> None:
    none = pooled().clear()
    rows = [
        pooled(regime=regime, minus_main_pp=value, minus_main_pp_low=value - 1, minus_main_pp_high=value + 1)
        for regime, value in (("all transfer", -0.5), ("MT-ML", 0.5), ("MT-CL", -3.0), ("CT-ML", 0.9), ("CT-CL", 2.0))
    ]
    lines = comparisons(none, none, pl.concat(rows))["What does another recipe change?"]
    assert [line.partition(" in ")[2].partition(",")[0].partition(";")[0] for line in lines] == [
        "all transfer",
        "MT-ML",
        "MT-CL",
        "CT-CL",
    ]
    assert sum("of training for" in line for line in lines) == 1
