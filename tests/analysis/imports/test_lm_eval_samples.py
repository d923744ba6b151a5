"""Groups of tasks such as ``global_mmlu_de``, laid out as lm-evaluation-harness 0.4.13 writes them."""

from __future__ import annotations

import math
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


def counted_sample(doc_id: int, kind: str, value: float) -> dict[str, object]:
    """A document as the harness logs it; ``value`` is 1 where it is right, or a log-likelihood."""
    logged = {"doc_id": doc_id, "doc": {"id": f"doc-{doc_id}"}, "target": " text"}
    if kind == "rolling":
        arguments, answers = [{"arg_0": "text"}], [str(value)]
        logged |= {"word_perplexity": [value, 2], "byte_perplexity": [value, 8], "bits_per_byte": [value, 8]}
    elif kind == "prompts":
        arguments = [{"arg_0": prompt, "arg_1": " text"} for prompt in ("A", "B")]
        answers, logged["acc"] = [["-1.0", "False"], ["-2.0", "False"]], value
    else:
        arguments, answers = [{"arg_0": "A", "arg_1": " text"}], [["-1.5", str(bool(value))]]
        logged |= {"acc": int(value), "perplexity": -1.5}
    return {**logged, "arguments": dict(enumerate(arguments)), "filtered_resps": answers}


@pytest.mark.parametrize(
    ("kind", "metric", "base", "adapter"),
    [("rolling", "lm_eval", -16.0, -8.0), ("prompts", "acc", 0.0, 1.0), ("text", "lm_eval_acc", 1.0, 0.0)],
)
def test_what_is_no_choice_among_texts_has_the_value_that_the_harness_logged(
    tmp_path: Path, kind: str, metric: str, base: float, adapter: float
) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    configs = {"configs": {"xnli_de": {"output_type": "loglikelihood"}}} if kind == "text" else {}
    for folder, source, value in ((out / "base", None, base), (out / "a", SOURCE, adapter)):
        score = {"byte_perplexity,none": 2.0} if kind == "rolling" else scores(value)
        write_results(folder, {"xnli_de": score}, source, **configs)
        write_samples(folder, "xnli_de", [counted_sample(doc_id, kind, value) for doc_id in range(2)])
    import_lm_eval(out, run)
    items = imported_items(run)
    expected = [math.exp(each / 8) if kind == "rolling" else each for each in (base, adapter)]
    assert items.sort("seed", nulls_last=False)["value"].to_list()[::2] == pytest.approx(expected)
    assert set(items["primary_metric"]) == {metric}
    assert items["pred"].null_count() == items["loglikelihoods_nats"].null_count() == 4
    assert read_transfer(run).by_seed["delta_pp"].item() == pytest.approx(100 * (expected[1] - expected[0]))
    broken = {**counted_sample(0, kind, base), "acc": "x", "byte_perplexity": [1.0, 0]}
    write_samples(out / "a", "xnli_de", [broken])
    with pytest.raises(UserError, match=r"sample 'doc-0' in .* has no usable (acc|byte_perplexity)"):
        import_lm_eval(out, run)
    write_samples(out / "a", "xnli_de", [{**broken, "acc": 3, "byte_perplexity": [1.0, 8]}])
    with pytest.raises(UserError, match=r"has the (acc|byte_perplexity) .*expected one of a finite log-likelihood"):
        import_lm_eval(out, run)


def test_a_perplexity_without_samples_is_left_out_of_the_aggregates(tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    for folder, source in ((out / "base", None), (out / "a", SOURCE)):
        write_results(folder, {"xnli_de": scores(0.5), "wiki_de": {"byte_perplexity,none": 2.0}}, source)
        write_samples(folder, "wiki_de", [counted_sample(0, "rolling", -8.0)])
    report = import_lm_eval(out, run)
    assert any("without their samples: wiki-de" in remark for remark in report.remarks)
    assert read_imported(run)["target_task"].to_list() == ["xnli"]
