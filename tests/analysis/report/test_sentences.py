import io
import re

import numpy as np
import polars as pl
import pytest
from rich.console import Console, RenderableType

from tests.analysis.report.runs import FAST, TOO_LONG, random_deltas, write_holed_run
from tests.analysis.synthetic import MODELS, TASKS, cells, transfer_rows
from transfergrid.analysis.records import Transfer
from transfergrid.analysis.report.headline import headline, key_figures
from transfergrid.analysis.report.numbers import percent, pp
from transfergrid.analysis.report.sentences import findings
from transfergrid.analysis.tables.build import build_tables, tables_from
from transfergrid.analysis.tables.table import AnalysisTables
from transfergrid.analysis.terminal.summary import summary
from transfergrid.wording import count, level


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
        "The interval is about items, sources, targets like these.",
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


def test_a_table_of_seeds_only_claims_no_chance_and_no_harm_beyond_noise() -> None:
    rows = transfer_rows(MODELS, cells(), random_deltas(2, 6, 6)).with_columns(q_value=pl.lit(0.01))
    items, seeds = from_rows(rows), from_rows(rows.with_columns(se_origin=pl.lit("seeds")))
    assert "chance alone would make" in text_of(items)
    assert "Harm that noise does not explain" in text_of(items)
    assert key_figures(items, FAST)[3].note.endswith("60 tests")
    text = text_of(seeds)
    for gone in ("chance alone would make", "Harm that noise does not explain"):
        assert gone not in text
    assert (
        "look harmed by chance alone is not known. The reason: imported standard errors are across training seeds"
        in text
    )
    assert "So the t tests of imported tables contain training noise only and find too much" in text
    assert key_figures(seeds, FAST)[3].note.endswith("60 tests of training noise only")
    shown = " ".join(f"{_rendered(summary(seeds, FAST))}".split())
    assert "how many would count as harm by chance is not known" in shown
    assert "t tests of imported tables contain training noise only" in shown


def test_when_all_scores_are_negative_the_best_only_harms_least() -> None:
    shift = np.array([0.0, 0, 0, -8, -8, -8])  # arc_challenge harms less than global_mmlu
    rows = transfer_rows(MODELS, cells(), random_deltas(2, 6, 6) / 10 - 2 + shift[:, None])
    text = text_of(from_rows(rows))
    assert "harms the others least" in text
    assert "is harmed least" in text
    assert "helps the others most" not in text
    assert "is helped most" not in text
    assert "Clearly helping" not in text
    assert "Clearly harming less than the average of their kind, but not helping: arc_challenge (CT-CL)" in text
    up = text_of(from_rows(rows.with_columns(delta_pp=pl.col("delta_pp") + 30)))
    assert "helps the others most." in up
    assert "Clearly helping more than the average of their kind: arc_challenge (CT-CL)" in up
    assert "Clearly harming less" not in up


def test_scores_that_tie_have_no_winner() -> None:
    text = text_of(from_rows(transfer_rows(MODELS, cells())))
    assert (
        "Among languages (MT-CL), 3 of 3 tie at +0.00 pp as the best donors. Among languages (MT-CL), 3 of 3 tie"
        in text
    )
    assert "helps the others most" not in text
    assert "harms the others least" not in text


def test_with_one_source_it_is_said_that_nobody_can_be_called_fragile() -> None:
    rows = transfer_rows(MODELS, cells(), random_deltas(2, 6, 6))
    tables = from_rows(rows.filter(source_task="arc_challenge", source_language="de"))
    text = text_of(tables)
    assert "harmed more often than the average of their kind: not known, since there is one source." in text
    assert "There is one source, so the order of recipients rests on single pairs and is not settled." in text
    assert re.search(r"\w+ \(.\d\.\d\d pp, interval .\d\.\d\d to .\d\.\d\d\) is helped most", text)
    shown = " ".join(_rendered(summary(tables, FAST)).split())
    assert "Fragile recipients (recipient score surely below the mean of its kind): not known" in shown


@pytest.mark.parametrize(("share", "text"), [(0.95, "95%"), (0.975, "97.5%"), (0.995, "99.5%"), (0.001, "0.1%")])
def test_levels_are_not_rounded_to_whole_percent(share: float, text: str) -> None:
    assert level(share) == text
    settings = FAST.model_copy(update={"confidence": share, "fdr": share})
    rows = transfer_rows(MODELS, cells(), random_deltas(2, 6, 6)).with_columns(q_value=pl.lit(0.01))
    tables = from_rows(rows)
    assert f"({text} interval" in headline(tables, settings)
    assert key_figures(tables, settings)[3].note.startswith(f"false discovery rate {text},")
    assert f"with at most {text} false alarms" in " ".join(each.text for each in findings(tables, settings))
    assert f"{text} interval" in _rendered(summary(tables, settings))


def _rendered(view: RenderableType) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(view)
    return console.export_text()


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
