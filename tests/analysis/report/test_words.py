import polars as pl
import pytest

from tests.analysis.report.runs import FAST, TOO_LONG, random_deltas, write_holed_run
from tests.analysis.synthetic import MODELS, TASKS, cells, transfer_rows
from transfergrid.analysis.report.words import count, findings, headline, key_figures, percent, pp
from transfergrid.analysis.tables import AnalysisTables, build_tables, tables_from
from transfergrid.analysis.transfer import Transfer


def from_rows(rows: pl.DataFrame) -> AnalysisTables:
    by_seed = rows.with_columns(seed=pl.lit(17, dtype=pl.Int64)).clear()
    return tables_from(Transfer(by_seed, rows, ()), FAST)


def text_of(tables: AnalysisTables) -> str:
    return " ".join(f"{each.lead} {each.text}" for each in findings(tables, FAST)).replace("\u00a0", " ")


@pytest.fixture(scope="module")
def holed(tmp_path_factory: pytest.TempPathFactory) -> AnalysisTables:
    return build_tables(write_holed_run(tmp_path_factory.mktemp("runs") / "holed"))


def test_the_summary_says_what_was_measured_how_surely_and_at_what_risk(holed: AnalysisTables) -> None:
    text = text_of(holed)
    row = holed.regimes.filter(regime="all transfer", by="all").row(0, named=True)
    for part in (
        "here 2 tasks (arc_challenge, global_mmlu) in 3 languages (de, en, fr)",
        "For 6 cells, a small add-on to the base model",
        f"Over 29 pairs the mean delta is {row['mean_pp']:+.2f} pp",
        "drawing items, sources, targets again 100 times (seed 0)",
        "a target has 32 questions, so one question is 3.1 pp",
        f"{row['n_tested']} pairs gained and",
        "A pair counts as harmed when it loses 1 pp or more",
        "The threshold is 1 question of a target.",
        f"chance alone would make {100 * row['harm_rate_by_chance']:.1f}% look harmed",
        "same task, other language (MT-CL)",
        "Among languages (MT-CL),",
        "Shares of the variance of same-task deltas (MT-CL): ",
        "Not known: 1 to compare; at least 2 are needed",
        f"1 row of the grid could not be compared (1: no item scored: {TOO_LONG})",
    ):
        assert part in text, part


def test_the_numbers_of_significant_pairs_are_counts(holed: AnalysisTables) -> None:
    row = holed.regimes.filter(regime="all transfer", by="all").row(0, named=True)
    n_gained = round(row["win_rate_significant"] * row["n_tested"])
    assert n_gained >= 1
    assert f"{n_gained} of {row['n_tested']} pairs gained" in text_of(holed)


def test_the_headline_says_when_the_interval_holds_zero() -> None:
    rows = transfer_rows(MODELS, cells(), random_deltas(2, 6, 6))
    flat, high = (
        from_rows(rows.with_columns(delta_pp=pl.col("delta_pp") - pl.col("delta_pp").mean())),
        from_rows(rows.with_columns(delta_pp=pl.col("delta_pp") + 20)),
    )
    assert "so perhaps not at all" in headline(flat, FAST)
    assert "perhaps" not in headline(high, FAST)
    assert "0 lies inside" in text_of(flat)
    assert "0 lies outside" in text_of(high)


def test_without_standard_errors_nothing_is_called_significant() -> None:
    tables = from_rows(transfer_rows(MODELS, cells(), random_deltas(2, 6, 6), se_pp=None))
    assert "no single pair can be tested" in text_of(tables)
    assert key_figures(tables, FAST)[3].value == "no test"
    assert "Harm that noise does not explain" not in text_of(tables)


def test_one_cell_has_no_transfer_to_report() -> None:
    tables = from_rows(transfer_rows(MODELS[:1], cells(TASKS[:1], ("de",)), random_deltas(1, 1, 1)))
    assert "there is no transfer to report" in headline(tables, FAST)
    assert key_figures(tables, FAST) == []
    assert [each.lead for each in findings(tables, FAST)] == ["What was measured."]


def test_a_run_without_any_delta_is_nothing_and_not_zero() -> None:
    rows = transfer_rows(MODELS, cells()).with_columns(
        delta_pp=pl.lit(None, dtype=pl.Float64), reason=pl.lit("no scores in the store")
    )
    tables = from_rows(rows)
    assert headline(tables, FAST) == "Nothing was scored, so there is no transfer to report."
    assert "+0.00" not in text_of(tables)


def test_one_language_has_no_same_task_transfer() -> None:
    tables = from_rows(transfer_rows(MODELS, cells(TASKS, ("de",)), random_deltas(2, 2, 2)))
    text = text_of(tables)
    assert "other task, same language (CT-ML)" in text
    assert "(MT-CL) +" not in text
    assert "Among languages" not in text


def test_numbers_as_text() -> None:
    assert pp(-1.234) == "\u22121.23\u00a0pp"
    assert percent(0.1234) == "12.3%"
    assert (count(1, "model"), count(1200, "pair")) == ("1 model", "1,200 pairs")


def test_a_model_without_any_score_is_not_counted_as_measured() -> None:
    rows = transfer_rows(MODELS, cells(), random_deltas(2, 6, 6)).with_columns(
        delta_pp=pl.when(pl.col("model") == MODELS[0]).then("delta_pp"),
        reason=pl.when(pl.col("model") != MODELS[0]).then(pl.lit("no scores in the store")),
    )
    assert f"for 1 model ({MODELS[0]})" in text_of(from_rows(rows))
