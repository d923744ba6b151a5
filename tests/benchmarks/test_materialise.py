"""``grid data``: rows in the run folder, checked, aligned, with a manifest."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from transfergrid.benchmarks.cells import load_items
from transfergrid.benchmarks.materialise import ensure_data, materialise
from transfergrid.benchmarks.tasks import get_task
from transfergrid.config.settings import DataConfig, GridConfig
from transfergrid.grid import LANGUAGES, TASKS, UserError
from transfergrid.store.data_manifest import DataManifest, read_manifest


def _row(item_id: str, **changes: Any) -> dict[str, Any]:
    row = {"sample_id": item_id, "question": f"Why {item_id}?", "answer": "B"}
    return {**row, **{f"option_{x}": f"{x} of {item_id}" for x in "abcd"}, **changes}


def _write(root: Path, language: str, *, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> None:
    folder = root / "global_mmlu" / language
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in (("train", train), ("test", test)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def _config(root: Path, **data: Any) -> GridConfig:
    return GridConfig(
        tasks=("global_mmlu",), languages=("de", "en"), data=DataConfig(source="local", path=root, **data)
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    for language in ("de", "en"):
        _write(root, language, train=[_row("q1"), _row("q2")], test=[_row(f"q{index}") for index in range(3, 9)])
    return root


def test_rows_arrive_in_the_run_folder_with_a_manifest(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    manifest = materialise(_config(source), folder)
    assert manifest.counts == {"global_mmlu": {"train": 2, "test": 6}}
    assert read_manifest(folder) == manifest
    items = load_items(folder, get_task("global_mmlu"), "de", "test", "eval")
    assert [item.item_id for item in items] == [f"q{index}" for index in range(3, 9)]
    assert items[0].context.startswith("Why q3?\nA. a of q3\n")


@pytest.mark.parametrize("change", [{"counts": {"global_mmlu": {"train": 2}}}, {"datasets": {"hellaswag": "x/y"}}])
def test_a_manifest_that_lacks_counts_or_a_revision_is_refused(
    change: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    materialise(_config(source), folder := tmp_path / "data")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps({**manifest, **change}), encoding="utf-8")
    with pytest.raises(UserError, match=r"manifest\.json' cannot be read: it is not a manifest of items; remove it"):
        read_manifest(folder)


def test_a_manifest_is_shown_as_it_is_whatever_the_names() -> None:
    counts = {"task[/b]": {"train": 1, "test": 1}}
    manifest = DataManifest("", "folder[/x]", {}, counts, dropped={}, remarks=[], languages=["de"], hashes={})
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(manifest)
    shown = console.export_text()
    assert "Data (folder[/x]), 1 languages: de" in shown
    assert "task[/b]" in shown


def test_bundled_items_materialise_for_the_whole_grid(tmp_path: Path) -> None:
    manifest = materialise(GridConfig(), tmp_path)
    assert manifest.counts == {task: {"train": 16, "test": 32} for task in TASKS}
    assert len(manifest.hashes) == len(TASKS) * len(LANGUAGES)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ([_row("q1")], r"global_mmlu: train \(de\) and test \(de\) share the ids 'q1'"),
        ([_row("q9")], r"global_mmlu test: en lacks the ids 'q9'"),
        ([_row("q3", answer="C")], r"global_mmlu test: gold differs between de and en for the ids 'q3'"),
        ([_row("q3", answer="E")], r"global_mmlu de test: item 'q3' of global_mmlu: gold 'E' is out of range"),
        ([_row("q3", question="  ")], r"global_mmlu de test: item 'q3': column 'question' is empty"),
        ([_row("q3", option_a=" ")], r"global_mmlu de test: item 'q3': choice 0 is empty"),
        ([_row("q3", option_a="", option_c="", option_d="")], r"global_mmlu has 1 choices; expected 2 to 26"),
        ([_row("q3"), _row("q3")], r"global_mmlu de test: id 'q3' stands there twice"),
        ([], r"global_mmlu de test: no rows; expected at least one"),
    ],
)
def test_data_that_does_not_line_up_is_refused_and_nothing_written(
    source: Path, tmp_path: Path, test: list[dict[str, Any]], message: str
) -> None:
    _write(source, "de", train=[_row("q1"), _row("q2")], test=test)
    with pytest.raises(UserError, match=message):
        materialise(_config(source), tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_every_fault_is_named_at_once_and_the_rest_counted(source: Path, tmp_path: Path) -> None:
    _write(source, "de", train=[_row("q1")], test=[_row(f"q{i}", answer="?") for i in range(3, 33)])
    with pytest.raises(
        UserError, match=r"the data has 32 fault\(s\), nothing was written:\n(  - .*\n){20}  and 12 more"
    ):
        materialise(_config(source), tmp_path / "data")


def test_an_empty_prompt_is_refused(source: Path, tmp_path: Path) -> None:
    task_file = tmp_path / "mine.yaml"
    task_file.write_text(
        "name: mine\nid: sample_id\ngold: answer\nchoices: {templates: ['{{ option_a }}', '{{ option_b }}']}\n"
        f"rows: {{path: {source / 'global_mmlu'}}}\n"
        "formats: {train: {context: x}, eval: {context: '{{ note | default(\"\") }}'}}\n",
        encoding="utf-8",
    )
    config = GridConfig(tasks=("mine",), custom_tasks={"mine": task_file}, languages=("de",))
    with pytest.raises(UserError, match=r"mine de train: item 'q1': its eval prompt is empty"):
        materialise(config, tmp_path / "data")


def test_intersect_keeps_common_ids_and_counts_the_rest(source: Path, tmp_path: Path) -> None:
    _write(source, "de", train=[_row("q1"), _row("q2")], test=[_row("q3"), _row("q4"), _row("q9")])
    manifest = materialise(_config(source, align="intersect"), tmp_path / "data")
    assert manifest.counts["global_mmlu"]["test"] == 2
    assert manifest.dropped == {"global_mmlu": 5}


def test_a_limit_takes_the_same_ids_in_every_language(source: Path, tmp_path: Path) -> None:
    _write(source, "en", train=[_row("q1"), _row("q2")], test=[_row(f"q{index}") for index in (8, 7, 6, 5, 4, 3)])
    materialise(_config(source, max_test_items=3), tmp_path / "data")
    task = get_task("global_mmlu")
    ids = [[i.item_id for i in load_items(tmp_path / "data", task, lang, "test", "eval")] for lang in ("de", "en")]
    assert len(ids[0]) == 3
    assert ids[0] == ids[1]


def test_data_is_made_again_only_for_another_request_or_a_changed_file(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    first = ensure_data(_config(source), folder)
    stamp = (folder / "manifest.json").stat().st_mtime_ns
    assert ensure_data(_config(source), folder) == first
    assert (folder / "manifest.json").stat().st_mtime_ns == stamp
    assert ensure_data(_config(source, max_test_items=2), folder).counts["global_mmlu"]["test"] == 2
    (folder / "global_mmlu" / "de" / "test.jsonl").write_text("", encoding="utf-8")
    ensure_data(_config(source, max_test_items=2), folder)
    assert (folder / "global_mmlu" / "de" / "test.jsonl").stat().st_size > 0


def test_items_before_grid_data_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run 'grid data' first"):
        load_items(tmp_path, get_task("global_mmlu"), "de", "test", "eval")


def test_duplicate_choices_are_reported_not_refused(source: Path, tmp_path: Path) -> None:
    tests = [_row("q3", option_a="same", option_c="same"), *(_row(f"q{i}") for i in range(4, 9))]
    _write(source, "de", train=[_row("q1"), _row("q2")], test=tests)
    manifest = materialise(_config(source), tmp_path / "data")
    assert manifest.remarks == ["global_mmlu test de: duplicate choices in the ids 'q3'"]


def test_a_recorded_commit_is_kept_for_its_data_set_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    newest = "first"

    class Api:
        def dataset_info(self, name: str, timeout: float) -> Any:
            return type("Info", (), {"sha": f"{newest} of {name}"})()

    def load(name: str, config: str, *, split: str, revision: str) -> list[dict[str, Any]]:
        return [_row(f"{split} {name} {revision}")]

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", load)

    def read(dataset: str) -> dict[str, str]:
        hub = f"{{dataset: {dataset}, config: '{{language}}'}}"
        (tmp_path / "mine.yaml").write_text(
            f"name: mine\nid: sample_id\ngold: answer\nrows: {{hub: {hub}}}\n"
            "choices: {templates: ['{{ option_a }}', '{{ option_b }}']}\n"
            "formats: {train: {context: '{{ question }}'}, eval: {context: '{{ question }}'}}\n",
            encoding="utf-8",
        )
        config = GridConfig(tasks=("mine",), custom_tasks={"mine": tmp_path / "mine.yaml"}, languages=("de",))
        return materialise(config, tmp_path / "data").revisions

    assert read("a/x") == {"mine": "first of a/x"}
    newest = "second"
    assert read("a/x") == {"mine": "first of a/x"}
    assert read("b/y") == {"mine": "second of b/y"}
