import re

import numpy as np
import polars as pl

from tests.analysis.report.runs import FAST, random_deltas
from tests.analysis.synthetic import MODELS, cells, transfer_rows
from transfergrid.analysis.records import Transfer
from transfergrid.analysis.report.answer import answer
from transfergrid.analysis.report.numbers import bold_numbers
from transfergrid.analysis.report.sentences import findings
from transfergrid.analysis.tables.build import tables_from
from transfergrid.analysis.tables.table import AnalysisTables


def tables_of(deltas: np.ndarray, se_pp: float | None = 1.0) -> AnalysisTables:
    rows = transfer_rows(MODELS, cells(), deltas, se_pp=se_pp)
    return tables_from(Transfer(rows.with_columns(seed=pl.lit(17, dtype=pl.Int64)).clear(), rows, ()), FAST)


def test_a_source_that_helps_leads_and_one_that_harms_is_to_be_avoided() -> None:
    deltas = random_deltas(2, 6, 6) / 10
    deltas[:, 0, :] += 8
    deltas[:, 4, :] -= 8
    found = answer(tables_of(deltas).recommendations, FAST)
    assert found.headline.startswith("Train on arc_challenge-de for ")
    assert found.headline.endswith("(probability of help over 99%).")
    assert all(row["best"]["source"] == "arc_challenge-de" for row in found.rows if row["target"] != "arc_challenge-de")
    worst = [row["worst"]["source"] for row in found.rows if row["worst"]]
    assert worst == ["global_mmlu-en"] * 5
    assert "Most often the best is arc_challenge-de, for 5 targets." in found.sentences
    assert any(each.startswith("Avoid most of all global_mmlu-en for ") for each in found.sentences)


def test_the_estimates_are_those_of_the_recommendation() -> None:
    from transfergrid.analysis.terminal.recommendation import recommend_from
    from transfergrid.grid import Cell

    rows = transfer_rows(MODELS, cells(), random_deltas(2, 6, 6), se_pp=1.0)
    transfer = Transfer(rows.with_columns(seed=pl.lit(17, dtype=pl.Int64)).clear(), rows, ())
    table = tables_from(transfer, FAST).recommendations
    one = recommend_from(transfer, FAST, target=Cell("global_mmlu", "fr")).table.filter(pl.col("p_help").is_not_null())
    same = table.filter(target_task="global_mmlu", target_language="fr").sort("estimate_pp", descending=True)
    assert same["estimate_pp"].to_list() == one["estimate_pp"].to_list()
    assert same["p_harm"].to_list() == one["p_harm"].to_list()


def test_where_nothing_helps_nothing_is_recommended() -> None:
    found = answer(tables_of(random_deltas(2, 6, 6) / 10 - 9).recommendations, FAST)
    assert found.headline == "No source is more likely to help any target than not."
    assert [row["best"] for row in found.rows] == [None] * 6


def test_without_noise_no_probability_is_known() -> None:
    unknown = pl.lit(None, dtype=pl.Float64)
    table = tables_of(random_deltas(2, 6, 6)).recommendations.with_columns(p_help=unknown, p_harm=unknown)
    found = answer(table.with_columns(reason=pl.lit("no interval")), FAST)
    assert found == ("What to train on is not known: no interval.", (), [])


def test_every_sentence_has_fewer_than_25_words_beside_its_brackets() -> None:
    tables = tables_of(random_deltas(2, 6, 6))
    texts = [each.text for each in findings(tables, FAST)] + list(answer(tables.recommendations, FAST).sentences)
    for text in texts:
        for sentence in re.split(r"(?<=[.;]) ", re.sub(r"\([^)]*\)", "", text)):
            assert len(sentence.split()) < 25, sentence


def test_numbers_stand_in_bold_and_names_and_markup_do_not() -> None:
    text = "Qwen2.5-7B <b> gained +1.25 pp, 44 of 1,936 pairs (95%); −2 pp for MT-CL."
    assert bold_numbers(text) == (
        "Qwen2.5-7B &lt;b&gt; gained <b>+1.25 pp</b>, <b>44</b> of <b>1,936</b> pairs (<b>95%</b>); <b>−2 pp</b> for MT-CL."
    )
