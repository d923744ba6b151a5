"""Results of the harness that must not be compared, or not without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.analysis.imports.test_lm_eval import (
    ONE_RIGHT,
    SOURCE,
    imported_items,
    sample,
    scores,
    write_results,
    write_samples,
)
from transfergrid.analysis.analyze import analyze
from transfergrid.analysis.imports.lm_eval import import_lm_eval
from transfergrid.analysis.terminal.recommendation import recommend
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.grid import Cell, UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import read_imported


def change(path: Path, *way: str, value: Any) -> None:
    """Set one value of a results file."""
    content = json.loads(path.read_text())
    *sections, last = way
    inside = content
    for name in sections:
        inside = inside.setdefault(name, {})
    inside[last] = value
    path.write_text(json.dumps(content))


def two_runs(out: Path) -> tuple[Path, Path]:
    return (
        write_results(out / "base", {"arc_de": scores(0.2, 0.30)}),
        write_results(out / "a", {"arc_de": scores(0.9, 0.32)}, SOURCE),
    )


DIFFERENCES = [
    (("chat_template_sha",), "abc", "def", "chat_template 'def', baseline 'abc'"),
    (("chat_template_sha",), None, "def", "chat_template 'def', baseline none"),
    (("n-shot", "arc_de"), 0, 5, "n-shot '5', baseline '0'"),
    (("versions", "arc_de"), 1.0, 2.0, "task version '2.0', baseline '1.0'"),
    (("task_hashes", "arc_de"), "aa", "bb", "task hashes 'bb', baseline 'aa'"),
    (("config", "model_dtype"), "torch.float16", "torch.bfloat16", "dtype 'bfloat16', baseline 'float16'"),
    (("config", "model_args", "load_in_4bit"), False, True, "quantisation .*load_in_4bit.*, baseline none"),
    (("config", "limit"), None, 10.0, "limit '10.0', baseline none"),
    (("system_instruction",), None, "Be brief.", "system_instruction '.*', baseline none"),
    (("config", "model"), "hf", "vllm", "backend 'vllm', baseline 'hf'"),
]


@pytest.mark.parametrize(("way", "base_value", "value", "said"), DIFFERENCES)
def test_a_baseline_under_other_conditions_is_refused(
    way: tuple[str, ...], base_value: Any, value: Any, said: str, tmp_path: Path
) -> None:
    base, adapter = two_runs(tmp_path / "out")
    for path, each in ((base, base_value), (adapter, value)):
        if way[0] == "chat_template_sha":
            change(path, "chat_template", value=each)
        change(path, *way, value=each)
    message = (
        "source 'arc_challenge-en' of model 'Tiny-1B' was run on 'arc_challenge-de' under other conditions than its "
        rf"baseline \({said}\), one such result: .* give --allow-mismatch"
    )
    with pytest.raises(UserError, match=message):
        import_lm_eval(tmp_path / "out", RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    change(adapter, *way, value=base_value)
    if way[0] == "chat_template_sha":
        change(adapter, "chat_template", value=base_value)
    assert import_lm_eval(tmp_path / "out", RunFolder(tmp_path / "run")).remarks == ()


def test_what_is_kept_all_the_same_is_named_in_every_table(tmp_path: Path) -> None:
    _, adapter = two_runs(tmp_path / "out")
    base = tmp_path / "out" / "base" / adapter.name
    change(base, "n-shot", "arc_de", value=0)
    change(adapter, "n-shot", "arc_de", value=5)
    run = RunFolder(tmp_path / "run")
    (remark,) = import_lm_eval(tmp_path / "out", run, allow_mismatch=True).remarks
    assert remark.endswith("(n-shot '5', baseline '0'), one such result; kept with a remark in every table")
    report = analyze(run)
    for name, table in report.tables.named():
        assert "n-shot '5', baseline '0'" in str(table["remark"].to_list()) or table.is_empty(), name
    console = Console(width=200, color_system=None)
    found = recommend(run, target=Cell("arc_challenge", "de"))
    for shown in (report, analyze(run, table="regimes"), found):
        with console.capture() as capture:
            console.print(shown)
        assert "1 delta of 1: n-shot '5', baseline '0'" in capture.get()
    change(adapter, "n-shot", "arc_de", value=0)
    import_lm_eval(tmp_path / "out", run)
    assert read_transfer(run).rows["remark"].to_list() == [None]


def test_two_models_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    out, run = tmp_path / "out", RunFolder(tmp_path / "run")
    for owner, base, adapted in (("orgA", 0.2, 0.3), ("orgB", 0.6, 0.5)):
        for name, score, adapter in (("base", base, None), ("a", adapted, SOURCE)):
            path = write_results(out / owner / name, {"arc_de": scores(score)}, adapter)
            change(path, "config", "model_args", "pretrained", value=f"{owner}/Tiny")
    (remark,) = import_lm_eval(out, run).remarks
    assert remark.startswith("2 base models are called 'Tiny' (orgA/Tiny, orgB/Tiny); they are kept apart")
    found = dict(read_imported(run).select("model", "delta_pp").iter_rows())
    assert found == {"orgA/Tiny": pytest.approx(10), "orgB/Tiny": pytest.approx(-10)}


def test_two_adapters_of_one_source_and_seed_are_refused(tmp_path: Path) -> None:
    two_runs(tmp_path)
    write_results(tmp_path / "b", {"arc_de": scores(0.9, 0.5)}, "other/s17/arc_challenge-en", time="2027")
    with pytest.raises(UserError, match=r"adapters '.*' and '.*' of model 'Tiny-1B' are both source .* under seed 17"):
        import_lm_eval(tmp_path, RunFolder(tmp_path / "run"))


def test_older_files_without_a_filter_in_the_metrics_name_have_acc_norm(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for folder, norm, adapter in (("base", 0.3, None), ("a", 0.4, SOURCE)):
        old = {"acc": 0.5, "acc_stderr": 0.1, "acc_norm": norm, "acc_norm_stderr": 0.03}
        write_results(tmp_path / folder, {"arc_de": old}, adapter)
    import_lm_eval(tmp_path, run)
    row = read_imported(run).row(0, named=True)
    assert (row["primary_metric"], row["delta_pp"]) == ("acc_norm", pytest.approx(10))
    assert row["se_pp"] == pytest.approx(100 * (2 * 0.03**2) ** 0.5)


@pytest.mark.parametrize("value", [41.5, -0.1, True, float("nan"), [1], 10**299])
def test_scores_that_are_no_share_are_refused(value: object, tmp_path: Path) -> None:
    write_results(tmp_path, {"arc_de": {"acc,none": value}})
    with pytest.raises(UserError, match=r"acc of task 'arc_de' in '.*' is .*; expected a number from 0 to 1"):
        import_lm_eval(tmp_path, RunFolder(tmp_path / "run"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"results": {}, "results": {}}', "key 'results' is there twice"),
        ("[" * 200_000 + "]" * 200_000, "nested deeper than 100 brackets"),
        ('{"results": ' + "1" * 5000 + "}", "a number of thousands of digits"),
        ('{"results": "\\ud800"}', "half a character"),
        ("[]", "is not a results file of lm-evaluation-harness: it has no section 'results'"),
        ('{"results": {}, "config": {"model_args": 5}}', "its model_args are 5"),
    ],
)
def test_files_that_are_no_results_are_one_sentence(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "results_1.json").write_text(text)
    with pytest.raises(UserError, match=reason):
        import_lm_eval(tmp_path, RunFolder(tmp_path / "run"))


@pytest.mark.parametrize("name", ["pretrained", "peft"])
def test_names_with_terminal_escapes_are_refused(name: str, tmp_path: Path) -> None:
    _, adapter = two_runs(tmp_path)
    change(adapter, "config", "model_args", name, value="a/\x1b[31mred/s17/arc_challenge-en")
    with pytest.raises(UserError, match="expected names without control characters") as caught:
        import_lm_eval(tmp_path, RunFolder(tmp_path / "run"))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("unweighted", "expected"), [(True, (0.1**2 + 0.2**2) ** 0.5 / 2), (False, 0.05)])
def test_the_error_of_an_unweighted_mean_over_tasks_is_of_that_mean(
    unweighted: bool, expected: float, tmp_path: Path
) -> None:
    """Two tasks of 10 and 90 items: 0.2 and 0.6 make 0.4 unweighted and 0.56 as one sample."""
    group, parts = "global_mmlu_de", ["global_mmlu_de_a", "global_mmlu_de_b"]
    for folder, adapter in (("base", None), ("a", SOURCE)):
        results = {
            group: {"acc,none": 0.4 if unweighted else 0.56, "acc_stderr,none": 0.05},
            parts[0]: {"acc,none": 0.2, "acc_stderr,none": 0.1},
            parts[1]: {"acc,none": 0.6, "acc_stderr,none": 0.2},
        }
        counts = {part: {"effective": n} for part, n in zip(parts, (10, 90), strict=True)}
        write_results(tmp_path / folder, results, adapter, group_subtasks={group: parts}, **{"n-samples": counts})
    run = RunFolder(tmp_path / "run")
    import_lm_eval(tmp_path, run)
    assert read_imported(run)["se_pp"][0] == pytest.approx(100 * 2**0.5 * expected)


def logged(folder: Path, samples: list[dict[str, Any]], adapter: str | None, acc: float = 1.0) -> Path:
    path = write_results(folder, {"arc_de": scores(acc, acc)}, adapter)
    write_samples(folder, "arc_de", samples)
    return path


THREE = sample(0, [-1, -2, -3], ["a", "b", "c"], 0)
WRONG = [
    ([THREE], r"item 'doc-0' of 'arc_challenge-de' has choices of \[1, 1, 1\] .* and of \[1, 1\] and gold 0 for the"),
    ([sample(0, [-1, -2], ["ab", "b"], 0)], r"has choices of \[2, 1\] characters"),
    ([sample(0, [-1, -2], ["a", "b"], 1)], r"make acc 0\.000000; the results file beside it says 1\.000000"),
    ([{**ONE_RIGHT, "acc": 0.0}], r"says acc 0; its log-likelihoods and choices make it 1"),
    ([{**ONE_RIGHT, "acc_norm": 0.0}], r"says acc_norm 0; its log-likelihoods and choices make it 1"),
    ([ONE_RIGHT, ONE_RIGHT], r"has doc_id '0' twice \(line 2\)"),
    ([{**ONE_RIGHT, "target": True}], "is not multiple choice"),
    ([{**ONE_RIGHT, "filtered_resps": [[True], [False]]}], "is not multiple choice"),
    ([{**ONE_RIGHT, "arguments": [["Q", " a"]] * 4}], "has 2 log-likelihoods"),
    ([{"doc": {}}], "line 1 has no 'doc_id'"),
    ([sample(0, [-1], ["a"], 0)], "has 1 log-likelihoods"),
]


@pytest.mark.parametrize(("samples", "message"), WRONG)
def test_samples_that_contradict_something_are_refused(
    samples: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    logged(tmp_path / "base", [ONE_RIGHT], None)
    logged(tmp_path / "a", samples, SOURCE)
    with pytest.raises(UserError, match=message):
        import_lm_eval(tmp_path, RunFolder(tmp_path / "run"))


def test_the_doubled_requests_of_mutual_information_are_left_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    arguments = [["Q", " a"], ["Q", " b"], ["", " a"], ["", " b"]]
    values = [["-1", "False"], ["-2", "False"], ["-0.1", "False"], ["-9", "False"]]
    logged(tmp_path, [{**ONE_RIGHT, "arguments": arguments, "filtered_resps": values}], None)
    import_lm_eval(tmp_path, run)
    row = imported_items(run).row(0, named=True)
    assert (row["loglikelihoods_nats"], row["pred"], row["choice_chars"]) == ([-1.0, -2.0], 0, [1, 1])


@pytest.mark.parametrize(("delimiter", "configured"), [("\n", True), (" ", False), ("", True)])
def test_the_tasks_own_delimiter_is_not_counted_in_the_length(delimiter: str, configured: bool, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    arguments = [["Q", f"{delimiter}ab"], ["Q", f"{delimiter}abcd"]]
    path = logged(tmp_path, [{**ONE_RIGHT, "arguments": arguments}], None)
    if configured:
        change(path, "configs", "arc_de", "target_delimiter", value=delimiter)
    import_lm_eval(tmp_path, run)
    assert imported_items(run)["choice_chars"].to_list() == [[2, 4]]


def test_items_without_ids_are_paired_by_the_hash_of_their_document(tmp_path: Path) -> None:
    def item(doc_id: int, doc_hash: str, right: bool) -> dict[str, Any]:
        values = [-1, -2] if right else [-2, -1]
        return {**sample(doc_id, values, ["a", "b"], 0), "doc": {}, "doc_hash": doc_hash}

    run = RunFolder(tmp_path / "run")
    logged(tmp_path / "base", [item(0, "h0", True), item(1, "h1", False)], None, acc=0.5)
    # the same two documents in the other order, one learned; and one that the baseline never saw
    logged(tmp_path / "a", [item(0, "h1", True), item(1, "h0", True), item(2, "h2", True)], SOURCE)
    (remark,) = import_lm_eval(tmp_path, run).remarks
    assert "(3 items, baseline 2, both 2)" in remark
    row = read_transfer(run).by_seed.row(0, named=True)
    assert (row["n_items"], row["n_both"], row["n_only_adapter"], row["n_only_base"]) == (2, 1, 1, 0)


@pytest.mark.parametrize(("name", "said"), [("doc_hash", "document"), ("prompt_hash", "prompt")])
def test_other_documents_or_prompts_under_one_id_are_a_mismatch(name: str, said: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    logged(tmp_path / "base", [{**ONE_RIGHT, name: "aa"}], None)
    logged(tmp_path / "a", [{**ONE_RIGHT, name: "bb"}], SOURCE)
    with pytest.raises(UserError, match=rf"other conditions than its baseline \({said} of 1 of 1 items differs\)"):
        import_lm_eval(tmp_path, run)
    import_lm_eval(tmp_path, run, allow_mismatch=True)
    assert read_transfer(run).by_seed["remark"].to_list() == [f"{said} of 1 of 1 items differs"]
