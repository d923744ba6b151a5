"""The questions behind the surest pair."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tests.analysis.report.runs import DE, EN, FAST, page_of, write_holed_run
from transfergrid.analysis.report.proof import SHOWN, Proof, find_proof
from transfergrid.analysis.tables.build import build_tables
from transfergrid.store.folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run in which DE answers all 32 questions of EN right and the base none; with its texts."""
    run = write_holed_run(tmp_path / "run")
    folder = run.data / EN.task / EN.language
    folder.mkdir(parents=True)
    options = {f"option_{letter}": f"<i>{letter}</i>" for letter in "abc"}
    rows = [{"id": f"q{item:03d}", "instruction": f"Why {item}?", **options, "answer": "A"} for item in range(32)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return run


def proof_of(run: RunFolder, rows: pl.DataFrame | None = None) -> Proof:
    return find_proof(run, None, build_tables(run).single_source if rows is None else rows, FAST)


def test_the_questions_of_the_surest_pair_are_shown_with_both_answers(run: RunFolder) -> None:
    found = proof_of(run)
    assert found.sentences[0].startswith(f"The surest pair is {DE.name} on {EN.name}: +100.00")
    assert "Of 32 questions 32 were gained and 0 lost." in found.sentences[0]
    assert len(found.questions) == SHOWN
    assert found.questions[0].text == "Question: Why 0?\nAnswer:"
    assert found.questions[0].choices == [
        ("<i>a</i>", "right, the adapter's"),
        ("<i>b</i>", "the base's"),
        ("<i>c</i>", ""),
    ]
    page = page_of(run)
    assert "<bdi>&lt;i&gt;a&lt;/i&gt;</bdi> <b>(right, the adapter&#39;s)</b>" in page


def test_a_pair_that_is_sure_by_graded_transfer_only_shows_what_moved_most(run: RunFolder) -> None:
    graded = pl.when(pl.col("q_value") == pl.col("q_value").min()).then(0.001)
    found = proof_of(run, build_tables(run).single_source.with_columns(graded_pp=-5.0, graded_q=graded, q_value=1.0))
    assert f"The surest pair is {DE.name} on {EN.name}: graded −5.00" in found.sentences[0]
    assert len(found.questions) == SHOWN


def test_without_texts_or_a_significant_pair_the_page_says_so(run: RunFolder) -> None:
    (run.data / EN.task / EN.language / "test.jsonl").unlink()
    assert "Their texts are missing: " in proof_of(run).sentences[1]
    rows = build_tables(run).single_source.with_columns(q_value=1.0, graded_q=1.0)
    assert proof_of(run, rows) == Proof(("No single pair is significant, so no question stands for an effect.",), [])
    assert 'id="proof"' in page_of(run)
