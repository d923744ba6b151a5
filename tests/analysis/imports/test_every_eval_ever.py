"""Files that the package every-eval-ever wrote: the same rows as from the harness' files that it converted."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from transfergrid.analysis.imports.every_eval_ever import import_every_eval_ever
from transfergrid.analysis.imports.lm_eval import import_lm_eval
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.cli import main
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder

FILES = Path(__file__).parent / "every_eval_ever"
_LOST = ("pred_norm", "loglikelihoods_nats", "choice_chars", "run_key")
"""Columns that the schema has nothing for, or another text."""
_ORDER = ("source", "target_task", "item_id")


def rows(path: Path) -> pl.DataFrame:
    return pl.read_parquet(path).sort(_ORDER)


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_samples(path: Path, change: Callable[[Any], object]) -> None:
    """Change every line beside a results file, with the checksum of the new lines."""
    samples = path.with_name(f"{path.stem}_samples.jsonl")
    lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        change(line)
    write_samples(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def write_samples(path: Path, content: bytes) -> None:
    """Replace the samples beside a results file, which holds their checksum."""
    path.with_name(f"{path.stem}_samples.jsonl").write_bytes(content)
    checksum = hashlib.sha256(content).hexdigest()
    edit(path, lambda log: log["detailed_evaluation_results"].update(checksum=checksum))


def copy_converted(folder: Path) -> Path:
    """Copy the converted files into a folder."""
    return Path(shutil.copytree(FILES / "converted", folder / "converted"))


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    return copy_converted(tmp_path)


@pytest.fixture
def log(converted: Path) -> Path:
    """One of its results files, of the base on arc_challenge."""
    files = (converted / "arc_challenge_de").rglob("*.json")
    return next(path for path in files if "peft" not in path.read_text(encoding="utf-8"))


def test_an_export_comes_back_through_the_package_to_the_same_rows(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a")
    report = import_every_eval_ever(FILES / "converted", run)
    assert (report.n_rows, report.n_sources, report.n_targets, report.remarks) == (10, 1, 3, ())
    other = RunFolder(tmp_path / "b")
    direct = rows(import_lm_eval(FILES / "harness", other).path)
    chosen, again = (table.filter(pl.col("target_task") != "wiki") for table in (direct, rows(report.path)))
    assert again.drop(_LOST).equals(chosen.drop(_LOST))
    assert set(again["pred"] == again["gold"]) == {True, False}
    assert set(again["primary_metric"]) == {"acc", "acc_norm"}
    assert again.select("pred_norm", "loglikelihoods_nats").null_count().row(0) == (8, 8)
    same = ["source", "target", "n_items", "base_score", "adapter_score", "delta_pp", "se_pp", "n_both", "base_acc"]
    tables = [read_transfer(each).by_seed for each in (run, other)]
    assert tables[0].select(same[:1] + same[2:]).equals(tables[1].select(same[:1] + same[2:]))
    assert tables[0]["n_ties"].null_count() == tables[0]["base_acc_norm"].null_count() == tables[0].height


def test_whole_texts_keep_their_values_and_are_named_by_their_place(tmp_path: Path) -> None:
    texts, direct = (
        rows(read(FILES / name, RunFolder(tmp_path / name)).path).filter(target_task="wiki")
        for read, name in ((import_every_eval_ever, "converted"), (import_lm_eval, "harness"))
    )
    assert texts["value"].to_list() == direct["value"].to_list()
    assert texts["primary_metric"].to_list() == ["lm_eval"] * 2
    assert (texts["item_id"].to_list(), direct["item_id"].to_list()) == (["0", "1"], ["q0", "q1"])
    results = [[json.loads(text)["results"] for text in table["output"]] for table in (texts, direct)]
    assert results[0] == results[1]


def test_a_second_conversion_of_the_same_results_replaces_the_first(converted: Path, log: Path, tmp_path: Path) -> None:
    name = log.stem.replace(log.stem[0], "0" if log.stem[0] != "0" else "1", 1)
    samples = shutil.copy(log.with_name(f"{log.stem}_samples.jsonl"), log.with_name(f"{name}_samples.jsonl"))
    copy = Path(shutil.copy(log, log.with_name(f"{name}.json")))
    edit(copy, lambda each: each["detailed_evaluation_results"].update(file_path=str(samples)))
    report = import_every_eval_ever(converted, RunFolder(tmp_path / "run"))
    assert (report.n_rows, len(report.remarks)) == (10, 1)


def test_a_choice_whose_text_stands_twice_is_not_taken_for_the_pick(converted: Path, log: Path, tmp_path: Path) -> None:
    edit_samples(log, lambda line: line["input"].update(choices=[line["output"]["raw"][0]] * 4))
    found = rows(import_every_eval_ever(converted, RunFolder(tmp_path / "run")).path)
    changed = found.filter(pl.col("target_task") == "arc_challenge", pl.col("source") == "base")
    assert (changed["pred"].null_count(), changed["gold"].null_count(), changed["value"].null_count()) == (2, 0, 0)


def test_a_group_that_was_given_the_samples_of_one_of_its_tasks_counts_without_them(
    converted: Path, tmp_path: Path
) -> None:
    shutil.rmtree(converted / "wiki_sw")
    for path in (converted / "global_mmlu_de").rglob("*.json"):
        edit(path, lambda log: log["evaluation_results"][0]["score_details"]["uncertainty"].update(num_samples=30))
    report = import_every_eval_ever(converted, RunFolder(tmp_path / "run"))
    assert (report.what, report.n_targets) == ("aggregates", 2)
    assert "samples are missing for global_mmlu-de" in " ".join(report.remarks)


def drop_samples(path: Path) -> None:
    path.with_name(f"{path.stem}_samples.jsonl").unlink()


def cut_samples(path: Path) -> None:
    samples = path.with_name(f"{path.stem}_samples.jsonl")
    samples.write_bytes(samples.read_bytes()[:-200])


def repeat_a_sample(path: Path) -> None:
    edit_samples(path, lambda line: line.update(sample_id="1"))


def set_score(path: Path, value: float) -> None:
    edit(path, lambda log: [each["score_details"].update(score=value) for each in log["evaluation_results"]])


def set_arguments(path: Path, text: str) -> None:
    edit(path, lambda log: log["model_info"]["additional_details"].update(model_args=text))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda path: edit(path, lambda log: log.update(schema_version="0.4.0")),
            r"has schema version '0\.4\.0' of Ev",
        ),
        (lambda path: path.write_text("[]"), "is no file of Every Eval Ever: it has no 'schema_version'; give"),
        (lambda path: path.write_text("{"), "cannot be read as JSON: Expecting property name"),
        (
            lambda path: edit(path, lambda log: log.pop("model_info")),
            "is no conversion of .* output: KeyError.'model_info'",
        ),
        (drop_samples, "the samples of '.*json' are not beside it: FileNotFoundError.*; convert again into one folder"),
        (cut_samples, "is not as it was written: its SHA-256 is not that in its results"),
        (
            lambda path: edit_samples(path, lambda line: line.update(evaluation_id="another")),
            "line 1 of '.*' is of evaluation 'another', and the results beside it are of 'arc_challenge_de/example/",
        ),
        (repeat_a_sample, "line 3 of '.*' has sample '1' a second time"),
        (
            lambda path: set_score(path, 70.0),
            r"acc of task 'arc_challenge_de' in '.*' is 70\.0; expected a number from 0 to 1",
        ),
        (
            lambda path: set_score(path, 0.25),
            "the 2 samples in '.*' make acc_norm .*; the results file beside it says 0.25",
        ),
        (
            lambda path: set_arguments(path, "{'pretrained'"),
            "is no conversion of .* output: SyntaxError",
        ),
        (
            lambda path: edit_samples(path, lambda line: line["input"].update(reference=["9"])),
            "sample 'arc-.*' in '.*' is no conversion of .*gold 9 of 4 choices",
        ),
        (
            lambda path: edit_samples(path, lambda line: line["metadata"].update(lm_eval_metrics='{"acc": 1}')),
            "has no usable acc_norm: KeyError",
        ),
        (
            lambda path: edit_samples(
                path,
                lambda line: line["output"].update(
                    raw=[line["input"]["choices"][int(line["input"]["reference"][0]) - 1]]
                ),
            ),
            "says acc 1; its log-likelihoods and choices make it 0",
        ),
    ],
)
def test_files_that_do_not_hold_are_refused(
    damage: Callable[[Path], object], reason: str, converted: Path, log: Path, tmp_path: Path
) -> None:
    damage(log)
    with pytest.raises(UserError, match=reason):
        import_every_eval_ever(converted, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_command_says_what_came_in_and_what_a_folder_lacks(tmp_path: Path) -> None:
    asked = ["import", "every-eval-ever", "--run", str(tmp_path / "run")]
    done = CliRunner().invoke(main, [*asked, str(FILES / "converted")])
    assert (done.exit_code, "10 item rows of 1 model, 1 source and 3 targets" in " ".join(done.output.split())) == (
        0,
        True,
    )
    (tmp_path / "empty").mkdir()
    empty = CliRunner().invoke(main, [*asked, str(tmp_path / "empty")])
    assert (empty.exit_code, "no '*.json' below" in empty.output) == (1, True)
