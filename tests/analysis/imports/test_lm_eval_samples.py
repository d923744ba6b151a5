"""Groups of tasks such as ``global_mmlu_de``, laid out as lm-evaluation-harness 0.4.13 writes them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.analysis.imports.test_lm_eval import imported_items, sample, scores, write_results, write_samples
from transfergrid.analysis.imports.lm_eval import import_lm_eval
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import read_imported

SUBJECTS = ("business", "humanities", "medical", "other", "stem", "social_sciences")
SOURCE = "x/s17/arc_challenge-en"
LETTERS = ["A", "B", "C", "D"]


def letter_sample(doc_id: int, picked: int, gold: str, sample_id: str | None) -> dict[str, object]:
    """A question whose choices and gold are letters; ``picked`` is the model's answer."""
    values = [-1.0 if place == picked else -2.0 for place in range(4)]
    doc = {"question": "Q", "answer": gold} | ({} if sample_id is None else {"sample_id": sample_id})
    return {**sample(doc_id, values, LETTERS, 0), "target": gold, "doc": doc}


def write_group(
    folder: Path, language: str, source: str | None, right: tuple[int, ...], *, with_ids: bool = True
) -> None:
    """One question per subject; ``right`` are the subjects answered rightly. Gold is C."""
    group = f"global_mmlu_{language}"
    parts = [f"{group}_{subject}" for subject in SUBJECTS]
    results: dict[str, object] = {part: scores(float(place in right)) for place, part in enumerate(parts)}
    write_results(
        folder,
        {group: scores(len(right) / 6), **results},
        source,
        group_subtasks={group: parts},
        **{"n-samples": {part: {"original": 1, "effective": 1} for part in parts}},
    )
    for place, (part, subject) in enumerate(zip(parts, SUBJECTS, strict=True)):
        name = f"{subject}/test/{place}" if with_ids else None
        write_samples(folder, part, [letter_sample(0, 2 if place in right else 1, "C", name)])


def test_the_samples_of_a_group_are_those_of_its_subtasks(tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    write_group(out / "base", "de", None, (0, 1))
    write_group(out / "a", "de", SOURCE, (1, 2, 3, 4))
    report = import_lm_eval(out, run)
    assert (report.what, report.n_rows, report.n_targets, report.remarks) == ("item rows", 12, 1, ())
    row = read_transfer(run).by_seed.row(0, named=True)
    assert (row["target_task"], row["target_language"], row["n_items"]) == ("global_mmlu", "de", 6)
    assert (row["n_both"], row["n_only_base"], row["n_only_adapter"]) == (1, 1, 3)
    items = imported_items(run)
    assert set(items["gold"]) == {2}
    assert "social_sciences/test/5" in items["item_id"]


def test_positions_are_counted_per_subtask_and_agree_over_languages(tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    for language in ("de", "fr"):
        write_group(out / f"{language}-base", language, None, (0,), with_ids=False)
        write_group(out / f"{language}-a", language, SOURCE, (0, 1), with_ids=False)
    import_lm_eval(out, run)
    items = imported_items(run)
    by_language = items.group_by("target_language").agg(pl.col("item_id").unique().sort())["item_id"].to_list()
    assert by_language[0] == by_language[1] == sorted(f"{subject}/0" for subject in SUBJECTS)


def test_a_group_of_groups_is_read_to_its_leaves(tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    tree = {
        "global_mmlu_full_de": ["global_mmlu_full_de_stem"],
        "global_mmlu_full_de_stem": ["global_mmlu_full_de_anatomy"],
    }
    results: dict[str, object] = dict.fromkeys([*tree, "global_mmlu_full_de_anatomy"], scores(1.0))
    for folder, source in (("base", None), ("a", SOURCE)):
        write_results(out / folder, results, source, group_subtasks=tree)
        write_samples(out / folder, "global_mmlu_full_de_anatomy", [letter_sample(0, 2, "C", "anatomy/test/0")])
    report = import_lm_eval(out, run)
    assert (report.what, report.n_rows, report.remarks) == ("item rows", 2, ())


def test_a_missing_subtask_makes_aggregates_of_the_model_and_is_named(tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    write_group(out / "base", "de", None, (0, 1))
    write_group(out / "a", "de", SOURCE, (1, 2, 3, 4))
    next((out / "a").glob("samples_global_mmlu_de_stem_*")).unlink()
    report = import_lm_eval(out, run)
    assert report.what == "aggregates"
    assert report.remarks == (
        "model 'Tiny-1B' came in as aggregates, without pairing by item, since samples are missing for "
        "global_mmlu-de (first: task 'global_mmlu_de_stem'); log the samples of every task",
    )
    assert read_imported(run)["delta_pp"].to_list() == pytest.approx([100 * 2 / 6])


def test_a_gold_that_is_no_choice_is_refused(tmp_path: Path) -> None:
    write_results(tmp_path, {"arc_de": scores(1.0)})
    write_samples(tmp_path, "arc_de", [letter_sample(0, 2, "E", "q1")])
    with pytest.raises(UserError, match=r"sample 'q1' in .*samples_arc_de_.* is not multiple choice"):
        import_lm_eval(tmp_path, RunFolder(tmp_path / "run"))
