"""``grid data`` with tasks of the harness: items in the run folder, aligned where languages share them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.harness_folder import documents, write_languages, write_task
from transfergrid.benchmarks.cells import load_items
from transfergrid.benchmarks.materialise import has_data, materialise
from transfergrid.benchmarks.tasks import get_task
from transfergrid.config.harness import HarnessTask
from transfergrid.config.settings import GridConfig
from transfergrid.grid import UserError


def config_of(folder: Path, *languages: str, **more: Any) -> GridConfig:
    entry = {"lm_eval": "mine", "languages": list(languages), "include_path": folder}
    return GridConfig.model_validate({"tasks": [entry], **more})


def ids(config: GridConfig, data: Path, language: str, split: Any = "test") -> list[str]:
    task = get_task("mine", config.own_tasks)
    return [item.item_id for item in load_items(data, task, language, split, "eval")]


def test_items_arrive_in_the_run_folder_as_the_harness_and_the_trainer_ask_them(tmp_path: Path) -> None:
    folder = write_languages(tmp_path / "tasks", "mine", ["sw", "hi"])
    config = config_of(folder, "sw", "hi")
    manifest = materialise(config, tmp_path / "data")
    assert manifest.counts == {"mine": {"train": 4, "test": 5}}
    assert manifest.metrics == {"mine": "acc_norm"}
    assert manifest.together == {"mine": [["sw", "hi"]]}
    assert "mine_sw 1" in manifest.revisions["mine"] or "mine_sw" in manifest.revisions["mine"]
    task = get_task("mine", config.own_tasks)
    (item, *_) = load_items(tmp_path / "data", task, "hi", "test", "eval")
    assert item.messages == (("user", "Question: hi test 0?\nAnswer:"),)
    assert item.continuations == ("a", "be 0", "c")
    (item, *_) = load_items(tmp_path / "data", task, "hi", "train", "eval")
    assert (item.context, item.continuations[0], item.messages) == ("Question: hi train 0?\nAnswer:", " a", ())
    (item, *_) = load_items(tmp_path / "data", task, "hi", "train", "train")
    assert item.context == "Question: hi train 0?\nAnswer:\nA) a\nB) be 0\nC) c\nAnswer:"
    assert item.continuations == (" A", " B", " C")


def test_a_prompt_that_asks_for_letters_is_trained_on_as_it_is(tmp_path: Path) -> None:
    folder = write_languages(tmp_path / "tasks", "mine", ["sw"], doc_to_choice=["A", "B", "C"])
    config = config_of(folder, "sw")
    materialise(config, tmp_path / "data")
    (item, *_) = load_items(tmp_path / "data", get_task("mine", config.own_tasks), "sw", "train", "train")
    assert item.context == "Question: sw train 0?\nAnswer:"


def test_data_are_read_again_when_a_prompt_setting_or_the_task_file_changes(tmp_path: Path) -> None:
    folder = write_languages(tmp_path / "tasks", "mine", ["sw"])
    materialise(config_of(folder, "sw"), tmp_path / "data")
    assert has_data(config_of(folder, "sw"), tmp_path / "data")
    assert not has_data(config_of(folder, "sw", prompts={"shots": 1}), tmp_path / "data")
    write_languages(folder, "mine", ["sw"], doc_to_text="{{question}}")
    assert not has_data(config_of(folder, "sw"), tmp_path / "data")


def test_a_language_with_items_of_its_own_stands_alone_and_the_data_say_so(tmp_path: Path) -> None:
    folder = write_languages(tmp_path / "tasks", "mine", ["sw", "hi"])
    write_task(folder, "mine_de", documents("test", "de", 6), documents("train", "de", 4))
    swapped = [{**row, "gold": 2 - row["gold"]} for row in documents("test", "en", 5)]
    write_task(folder, "mine_en", swapped, documents("train", "en", 4))
    config = config_of(folder, "de", "en", "sw", "hi")
    manifest = materialise(config, tmp_path / "data")
    assert manifest.together == {"mine": [["sw", "hi"], ["de"], ["en"]]}
    assert ids(config, tmp_path / "data", "sw")[0] == "test-0"
    assert ids(config, tmp_path / "data", "de")[0] == "de/test-0"
    assert ids(config, tmp_path / "data", "en", "train")[0] == "en/train-0"
    (remark,) = manifest.remarks
    assert remark.startswith(
        "mine: the items of de, en differ from those of other languages by id or right answer; only sw, hi"
    )


def test_align_intersect_keeps_the_ids_that_languages_share(tmp_path: Path) -> None:
    folder = write_languages(tmp_path / "tasks", "mine", ["sw"])
    write_task(folder, "mine_hi", documents("test", "hi", 4), documents("train", "hi", 4))
    config = config_of(folder, "sw", "hi", data={"align": "intersect"})
    assert materialise(config, tmp_path / "data").dropped == {"mine": 1}
    assert ids(config, tmp_path / "data", "sw") == ids(config, tmp_path / "data", "hi")


def test_ids_that_count_from_zero_in_both_splits_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = {split: [{**row, "id": n} for n, row in enumerate(documents(split, "sw", 4))] for split in ("train", "test")}
    write_task(folder, "mine_sw", rows["test"], rows["train"])
    config = config_of(folder, "sw")
    materialise(config, tmp_path / "data")
    assert ids(config, tmp_path / "data", "sw") == ["0", "1", "2", "3"]
    assert ids(config, tmp_path / "data", "sw", "train") == [f"train/{n}" for n in range(4)]
    write_task(folder, "mine_sw", rows["test"], rows["test"])
    with pytest.raises(UserError, match=r"mine: train \(sw\) and test \(sw\) share the ids '0', '1'"):
        materialise(config, tmp_path / "data")


def test_documents_that_are_no_questions_are_faults_and_metrics_must_agree(tmp_path: Path) -> None:
    folder = write_languages(tmp_path / "tasks", "mine", ["sw"])
    bad = [{**row, "gold": -1} for row in documents("test", "hi", 5)]
    bad[1]["choices"] = ["a", " ", "c"]
    write_task(folder, "mine_hi", bad, metric_list=[{"metric": "acc"}])
    with pytest.raises(UserError) as refused:
        materialise(config_of(folder, "sw", "hi"), tmp_path / "data")
    assert "mine hi test: item 'test-0' of mine: gold -1 is out of range" in str(refused.value)
    assert "mine: its languages have different metrics, ['acc', 'acc_norm']; expected one" in str(refused.value)


def test_a_task_without_a_training_split_is_a_target(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    write_task(tmp_path / "tasks", "mine_sw", documents("test", "sw", 5))
    config = config_of(tmp_path / "tasks", "sw")
    assert materialise(config, tmp_path / "data").counts == {"mine": {"train": 0, "test": 5}}
    assert isinstance(config.own_tasks["mine"], HarnessTask)
