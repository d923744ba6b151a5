"""What training taught, in words, from made-up rows."""

from __future__ import annotations

import polars as pl
import pytest

from tests.analysis.synthetic import cells, transfer_rows
from transfergrid.analysis.graded.learnt import learnt, learnt_sentences, taught
from transfergrid.config.settings import AnalysisConfig

SETTINGS = AnalysisConfig()


def rows_of(right: float, wrong: float, graded_pp: float = 1.0, graded_q: float = 0.5) -> pl.DataFrame:
    """A grid of 6 x 6: on its own cell as given, half of it on other languages, nothing on other tasks."""
    share = pl.col("regime").replace_strict({"MT-ML": 1.0, "MT-CL": 0.5}, default=0.0)
    return transfer_rows(["m"], cells()).with_columns(
        register_nats_per_char=right * share,
        others_nats_per_char=wrong * share,
        graded_pp=graded_pp * share,
        graded_q=pl.when(share == 1).then(pl.lit(graded_q)).otherwise(pl.lit(1.0)),
    )


def said(rows: pl.DataFrame) -> str:
    return " ".join(learnt_sentences(learnt(rows, SETTINGS), SETTINGS))


def test_what_was_learnt_is_said_from_the_own_cell_to_other_tasks() -> None:
    facts = learnt(rows_of(0.5, 0.125), SETTINGS)
    assert [(fact.n_pairs, fact.right, fact.wrong) for fact in facts] == [
        (6, 0.5, 0.125),
        (12, 0.25, 0.0625),
        (18, 0, 0),
    ]
    text = said(rows_of(0.5, 0.125))
    assert "On the cell it was trained on, right answers became +0.50 nats per character more likely" in text
    assert "On other languages of its task it was +0.25 and +0.06." in text
    assert "+1.00 pp on the cell it was trained on; +0.50 pp on other languages of its task; +0.00 pp" in text


@pytest.mark.parametrize(
    ("right", "wrong", "words"),
    [
        (0.4, 0.1, "So 25% of the gain is how answers are written (format and register)"),
        (0.4, 0.4, "Wrong answers gained as much, so what was learnt is how answers are written"),
        (0.4, -0.1, "Wrong answers gained nothing, so what was learnt tells right answers from wrong ones."),
        (-0.1, -0.2, "So nothing of how right answers are written was learnt."),
    ],
)
def test_how_much_of_the_gain_wrong_answers_share_says_what_kind_it_is(right: float, wrong: float, words: str) -> None:
    assert words in said(rows_of(right, wrong))


@pytest.mark.parametrize(
    ("graded_pp", "graded_q", "words"),
    [
        (2.0, 0.01, "It moved to it for sure in 6 of 36 pairs (6 on the cell it was trained on; false discovery"),
        (-2.0, 0.01, "It moved away from it for sure in 6 of 36 pairs"),
        (2.0, 0.2, "In no single pair is that sure."),
    ],
)
def test_pairs_that_are_sure_are_counted_by_direction(graded_pp: float, graded_q: float, words: str) -> None:
    text = said(rows_of(0.4, 0.1, graded_pp, graded_q))
    assert words in text
    assert ("In no single pair" in text) == (graded_q > SETTINGS.fdr)


def test_rows_without_graded_transfer_say_nothing() -> None:
    assert said(transfer_rows(["m"], cells())) == ""
    one_task = rows_of(0.5, 0.125).filter(pl.col("source_task") == pl.col("target_task"))
    assert "other tasks" not in said(one_task)


def test_variants_of_the_recipe_are_told_of_one_by_one() -> None:
    main, other = rows_of(0.4, 0.4), rows_of(0.4, 0.1)
    variant = other.with_columns(source_kind=pl.lit("variant"), variant=pl.lit("matched"))
    both = pl.concat([main, variant], how="diagonal")
    assert taught(main, both, SETTINGS) == {"": said(main), "matched": said(other)}
    assert taught(main, main, SETTINGS) == {"": said(main)}
    assert taught(main.clear(), main.clear(), SETTINGS) == {}
