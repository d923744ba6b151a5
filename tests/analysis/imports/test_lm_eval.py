import json
from pathlib import Path

import polars as pl
import pytest

from transfergrid.analysis.imports.lm_eval import import_lm_eval
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import read_imported

TIME = "2026-01-02T03-04-05.000001"
MODEL = "meta/Tiny-1B"


def scores(acc: float, norm: float | None = None) -> dict[str, float]:
    """Scores of a task as the harness writes them."""
    found = {"acc,none": acc, "acc_stderr,none": 0.03}
    return found if norm is None else {**found, "acc_norm,none": norm, "acc_norm_stderr,none": 0.04}


def write_results(
    folder: Path, results: dict[str, object], adapter: str | None = None, time: str = TIME, **more: object
) -> Path:
    """Write a results file; ``more`` are sections beside results and config."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = {"pretrained": MODEL} | ({} if adapter is None else {"peft": adapter})
    path = folder / f"results_{time}.json"
    path.write_text(json.dumps({"results": results, "config": {"model": "hf", "model_args": arguments}, **more}))
    return path


def sample(doc_id: int, values: list[float], texts: list[str], gold: int) -> dict[str, object]:
    return {
        "doc_id": doc_id,
        "doc": {"id": f"doc-{doc_id}"},
        "target": str(gold),
        "arguments": {f"gen_args_{place}": {"arg_0": "Q", "arg_1": f" {text}"} for place, text in enumerate(texts)},
        "filtered_resps": [[str(value), "False"] for value in values],
    }


def imported_items(run: RunFolder) -> pl.DataFrame:
    (path,) = (run.imported / "scores").glob("*.parquet")
    return pl.read_parquet(path)


def write_samples(folder: Path, task: str, samples: list[dict[str, object]], time: str = TIME) -> None:
    lines = "\n".join(json.dumps(each) for each in samples)
    (folder / f"samples_{task}_{time}.jsonl").write_text(lines + "\n")


def test_samples_files_without_a_sample_are_refused(tmp_path: Path) -> None:
    write_results(tmp_path / "out", {"arc_de": scores(0.2, 0.30)})
    write_samples(tmp_path / "out", "arc_de", [])
    with pytest.raises(UserError, match=r"the samples files below '.*' are empty; run the tasks again"):
        import_lm_eval(tmp_path / "out", RunFolder(tmp_path / "run"))


def test_aggregates_become_deltas_averaged_over_seeds(tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    write_results(out / "base", {"arc_de": scores(0.2, 0.30), "truthfulqa_de_mc1": scores(0.40), "mmlu": scores(0.5)})
    write_results(out / "a", {"arc_de": scores(0.9, 0.32), "truthfulqa_de_mc1": scores(0.38)}, "x/s17/arc_challenge-en")
    write_results(out / "b", {"arc_de": scores(0.9, 0.36), "truthfulqa_de_mc1": scores(0.40)}, "x/s42/arc_challenge-en")
    report = import_lm_eval(out, run)
    assert report.remarks == ("skipped tasks without a language: mmlu",)
    found = read_imported(run)
    arc = found.filter(target_task="arc_challenge").row(0, named=True)
    assert (arc["model"], arc["n_seeds"], arc["primary_metric"]) == ("Tiny-1B", 2, "acc_norm")
    assert arc["delta_pp"] == pytest.approx(4.0)
    assert arc["se_pp"] == pytest.approx(2.0)
    assert arc["se_origin"] == "seeds"
    assert found.filter(target_task="truthfulqa")["delta_pp"].to_list() == pytest.approx([-1.0])


def test_one_seed_has_the_unpaired_standard_error_and_no_test(tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    write_results(out / "base", {"arc_de": scores(0.2, 0.30)})
    write_results(out / "a", {"arc_de": scores(0.9, 0.32)}, "x/s17/arc_challenge-en")
    import_lm_eval(out, run)
    row = read_transfer(run).rows.row(0, named=True)
    assert row["se_pp"] == pytest.approx(100 * (2 * 0.04**2) ** 0.5)
    assert (row["p_value"], row["p_method"]) == (None, None)


def test_samples_become_item_rows_with_both_predictions(tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    write_results(out / "base", {"arc_de": scores(0.5, 0.5)})
    write_results(out / "a", {"arc_de": scores(1.0, 0.5)}, "x/s17/arc_challenge-en")
    # sums: 0 wins; per character -6/2 = -3 loses to -8/4 = -2
    write_samples(out / "base", "arc_de", [sample(0, [-9, -8], ["ab", "cdef"], 0), sample(1, [-1, -2], ["a", "b"], 0)])
    write_samples(out / "a", "arc_de", [sample(0, [-6, -8], ["ab", "cdef"], 0), sample(1, [-1, -2], ["a", "b"], 0)])
    report = import_lm_eval(out, run)
    assert (report.what, report.n_rows) == ("item rows", 4)
    rows = imported_items(run)
    adapter = rows.filter(seed=17, item_id="doc-0").row(0, named=True)
    assert (adapter["pred"], adapter["pred_norm"], adapter["choice_chars"]) == (0, 1, [2, 4])
    found = read_transfer(run).by_seed.row(0, named=True)
    # acc_norm: both pick choice 1 on item 0
    assert (found["delta_pp"], found["delta_acc_pp"], found["n_items"]) == (0.0, 50.0, 2)


def test_a_later_result_replaces_an_earlier_one(tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    write_results(out / "base", {"arc_de": scores(0.2, 0.30)})
    for time, norm in (("2026-02-01", 0.5), ("2026-03-01", 0.4)):
        write_results(out / "a", {"arc_de": scores(0.9, norm)}, "x/s17/arc_challenge-en", time)
    report = import_lm_eval(out, run)
    assert report.remarks == ("1 results were replaced by later ones of the same source and target",)
    assert read_imported(run)["delta_pp"].to_list() == pytest.approx([10.0])


def test_ids_that_repeat_give_way_to_positions(tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    write_results(out, {"arc_de": scores(1.0)})
    samples = [sample(place, [-1, -2], ["a", "b"], 0) for place in range(2)]
    for each in samples:
        each["doc"] = {"id": "same"}
    write_samples(out, "arc_de", samples)
    import_lm_eval(out, run)
    assert imported_items(run)["item_id"].to_list() == ["0", "1"]


def test_models_with_and_without_samples_come_in_together(tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    write_results(out / "base", {"arc_de": scores(0.2, 0.30)})
    write_results(out / "a", {"arc_de": scores(0.9, 0.32)}, "x/s17/arc_challenge-en")
    path = write_results(out / "other", {"arc_de": scores(1.0)})
    path.write_text(path.read_text().replace("Tiny-1B", "Other-2B"))
    write_samples(out / "other", "arc_de", [sample(0, [-1, -2], ["a", "b"], 0)])
    report = import_lm_eval(out, run)
    assert report.models == ("Other-2B", "Tiny-1B")
    assert report.what == "item rows and aggregates"


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match="no 'results_"):
        import_lm_eval(tmp_path, run)
    broken = tmp_path / "broken" / "results_1.json"
    broken.parent.mkdir()
    broken.write_text("{}")
    with pytest.raises(UserError, match=r"results_1.json' is not a results file of lm-evaluation-harness"):
        import_lm_eval(broken.parent, run)
    write_results(tmp_path / "skipped", {"mmlu": scores(0.5)})
    with pytest.raises(UserError, match=r"is of a task with a language; skipped \['mmlu'\]"):
        import_lm_eval(tmp_path / "skipped", run)


def test_baselines_and_adapters_are_both_needed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    write_results(tmp_path / "a", {"arc_de": scores(0.9)}, "x/s17/arc_challenge-en")
    with pytest.raises(UserError, match="model 'Tiny-1B' has no baseline on 'arc_challenge-de'"):
        import_lm_eval(tmp_path / "a", run)
    write_results(tmp_path / "b", {"arc_de": scores(0.9)})
    with pytest.raises(UserError, match="the results are of base models only"):
        import_lm_eval(tmp_path / "b", run)


def test_samples_that_are_not_multiple_choice_are_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    write_results(tmp_path, {"arc_de": scores(1.0)})
    write_samples(tmp_path, "arc_de", [{**sample(0, [-1, -2], ["a", "b"], 0), "target": "a text"}])
    with pytest.raises(UserError, match=r"sample 'doc-0' in .* is not multiple choice"):
        import_lm_eval(tmp_path, run)
    write_samples(tmp_path, "arc_de", [sample(0, [-1, -2], ["a", "b"], 5)])
    with pytest.raises(UserError, match=r"sample 'doc-0' in .* has 2 log-likelihoods, .* and gold 5"):
        import_lm_eval(tmp_path, run)
    write_samples(tmp_path, "arc_de", [sample(0, [-1, float("-inf")], ["a", "b"], 0)])
    with pytest.raises(UserError, match="expected one finite number per choice"):
        import_lm_eval(tmp_path, run)


def test_a_samples_file_that_is_cut_is_named(tmp_path: Path) -> None:
    write_results(tmp_path, {"arc_de": scores(1.0)})
    (tmp_path / f"samples_arc_de_{TIME}.jsonl").write_text('{"doc_id": 0, "doc": {"id"')
    with pytest.raises(UserError, match=r"line 1 of .*samples_arc_de_.* cannot be read as JSON: .* at line 1"):
        import_lm_eval(tmp_path, RunFolder(tmp_path / "run"))


def test_one_percentage_point_down_counts_as_harm_whatever_binary_fractions_say(tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    assert 100 * (0.14 - 0.15) > -1.0
    write_results(out / "base", {"truthfulqa_de_mc1": scores(0.15)})
    write_results(out / "a", {"truthfulqa_de_mc1": scores(0.14)}, "x/s17/arc_challenge-en")
    import_lm_eval(out, run)
    assert read_imported(run)["delta_pp"].to_list() == [-1.0]


@pytest.mark.parametrize(
    ("deltas", "expected"), [((-3 / 15, 2 / 15, 1 / 15), 0.0), ((5 / 300, 2 / 300, -16 / 300), -1.0)]
)
def test_the_mean_over_seeds_is_rounded_too(deltas: tuple[float, ...], expected: float, tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    write_results(out / "base", {"truthfulqa_de_mc1": scores(0.5)})
    for seed, delta in enumerate(deltas):
        source = f"x/s{seed}/arc_challenge-en"
        write_results(out / str(seed), {"truthfulqa_de_mc1": scores(0.5 + delta)}, source)
    import_lm_eval(out, run)
    assert read_imported(run)["delta_pp"].to_list() == [expected]


def test_results_that_are_no_numbers_are_skipped(tmp_path: Path) -> None:
    write_results(tmp_path, {"arc_de": {"acc,none": "N/A"}, "hellaswag_de": "failed"})
    with pytest.raises(UserError, match=r"skipped \['arc_de', 'hellaswag_de'\]"):
        import_lm_eval(tmp_path, RunFolder(tmp_path / "run"))


SOURCE = "x/s17/arc_challenge-en"
ONE_RIGHT = sample(0, [-1, -2], ["a", "b"], 0)


def test_an_import_replaces_what_an_earlier_one_left(tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    write_results(out / "base", {"arc_de": scores(1.0, 0.5)})
    write_results(out / "a", {"arc_de": scores(1.0, 0.5)}, SOURCE)
    assert import_lm_eval(out, run).what == "aggregates"
    for folder in ("base", "a"):
        write_samples(out / folder, "arc_de", [ONE_RIGHT])
    assert import_lm_eval(out, run).what == "item rows"
    assert read_transfer(run).rows["origin"].to_list() == ["items"]
    for path in out.rglob("samples_*"):
        path.unlink()
    import_lm_eval(out, run)
    assert read_transfer(run).rows["origin"].to_list() == ["imported"]


@pytest.mark.parametrize("logged", [False, True])
def test_acc_is_not_compared_with_acc_norm(logged: bool, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    write_results(tmp_path / "base", {"arc_de": scores(0.5)})
    write_results(tmp_path / "a", {"arc_de": scores(0.5, 0.6)}, SOURCE)
    for folder in ("base", "a") if logged else ():
        write_samples(tmp_path / folder, "arc_de", [ONE_RIGHT])
    message = (
        "target 'arc_challenge-de' of model 'Tiny-1B' has acc for source 'base' and acc_norm for 'arc_challenge-en'"
    )
    with pytest.raises(UserError, match=message):
        import_lm_eval(tmp_path, run)


def test_aggregates_over_other_numbers_of_items_are_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for folder, source, n_items in (("base", None, 40), ("a", SOURCE, 4)):
        counts = {"n-samples": {"arc_de": {"original": 40, "effective": n_items}}}
        write_results(tmp_path / folder, {"arc_de": scores(0.5)}, source, **counts)
    with pytest.raises(UserError, match=r"has 4 items of target 'arc_challenge-de' and its baseline 40; score both"):
        import_lm_eval(tmp_path, run)


def test_samples_of_fewer_items_are_paired_and_it_is_said(tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    for folder, source, n_items in (("base", None, 6), ("a", SOURCE, 2)):
        write_results(out / folder, {"arc_de": scores(1.0)}, source)
        write_samples(out / folder, "arc_de", [sample(item, [-1, -2], ["a", "b"], 0) for item in range(n_items)])
    (remark,) = import_lm_eval(out, run).remarks
    assert remark == (
        "1 result has other items than the baseline, only those of both are compared; first: "
        "arc_challenge-en on arc_challenge-de (2 items, baseline 6, both 2)"
    )
    assert read_transfer(run).rows["n_items"].to_list() == [2]
    write_samples(out / "a", "arc_de", [sample(item, [-1, -2], ["a", "b"], 0) for item in range(6)])
    assert import_lm_eval(out, run).remarks == ()
