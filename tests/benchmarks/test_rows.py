"""Where rows come from, and how their absence reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from transfergrid.benchmarks.rows import RowSource, read_jsonl, read_split
from transfergrid.benchmarks.spec import HubSpec, RowsSpec
from transfergrid.benchmarks.tasks import get_task
from transfergrid.config.settings import DataConfig
from transfergrid.grid import UserError
from transfergrid.store.data_manifest import HubPin

ROWS = [{"id": "q1", "endings": ["x", "y"], "label": "0"}, {"id": "q2", "endings": ["x", "y"], "label": "1"}]
SPEC = get_task("hellaswag").spec
DATASET = "Dr4kl3s/hellaswag_coregrid_seed42"


def _jsonl(folder: Path, split: str = "train") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / f"{split}.jsonl").write_text(text + "\n", encoding="utf-8")


def _parquet(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(ROWS).write_parquet(folder / "train.parquet")


def _saved(folder: Path) -> None:
    import datasets

    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(folder))


@pytest.mark.parametrize("write", [_jsonl, _parquet, _saved])
def test_a_local_folder_may_hold_jsonl_parquet_or_a_saved_dataset(tmp_path: Path, write: Any) -> None:
    folder = tmp_path / "hellaswag" / "de"
    write(folder)
    data = DataConfig(source="local", path=tmp_path)
    assert RowSource(data).read(SPEC, "de", "train") == ROWS


def test_a_saved_dataset_without_the_split_is_refused(tmp_path: Path) -> None:
    _saved(tmp_path)
    with pytest.raises(UserError, match=r"has no split 'test'; it has \['train'\]"):
        read_split(tmp_path, "test")


def test_a_broken_saved_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}', encoding="utf-8")
    with pytest.raises(UserError, match="cannot be read as a saved DatasetDict"):
        read_split(tmp_path, "train")


def test_a_folder_without_rows_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no test rows in .*; expected test.jsonl, test.parquet or a saved"):
        read_split(tmp_path, "test")


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a"', r"line 2 of .* cannot be read as JSON: "),
        ("[1]\n", r"line 1 of .* is not a JSON object but '\[1\]'"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_jsonl(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.jsonl' cannot be read"):
        read_jsonl(tmp_path / "none.jsonl")


def test_bundled_items_are_only_there_for_the_studys_cells() -> None:
    with pytest.raises(UserError, match=r"no bundled items for hellaswag-sw; bundled are"):
        RowSource(DataConfig()).read(SPEC, "sw", "train")


def test_a_custom_tasks_own_rows_come_first(tmp_path: Path) -> None:
    _jsonl(tmp_path / "sw")
    spec = SPEC.model_copy(update={"rows": RowsSpec(path=tmp_path)})
    assert RowSource(DataConfig()).read(spec, "sw", "train") == ROWS


def test_the_hub_is_read_at_one_pinned_revision_for_all_languages(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    calls = []

    def load(name: str, config: str, *, split: str, revision: str) -> list[dict[str, Any]]:
        calls.append((name, config, split, revision))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = RowSource(DataConfig(source="hub"), pinned={"hellaswag": HubPin(DATASET, "abc")})
    assert source.read(SPEC, "de", "train") == ROWS
    source.read(SPEC, "fr", "test")
    assert calls == [(DATASET, "de", "train", "abc"), (DATASET, "fr", "test", "abc")]
    assert source.pins == {"hellaswag": (DATASET, "abc")}


def test_a_configured_revision_beats_the_recorded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **options: [{"revision": options["revision"]}])
    source = RowSource(
        DataConfig(source="hub", revisions={"hellaswag": "mine"}), pinned={"hellaswag": HubPin(DATASET, "abc")}
    )
    assert source.read(SPEC, "de", "train") == [{"revision": "mine"}]


def test_the_task_files_revision_beats_the_recorded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **options: [{"revision": options["revision"]}])
    spec = SPEC.model_copy(update={"rows": RowsSpec(hub=HubSpec(dataset=DATASET, revision="theirs"))})
    source = RowSource(DataConfig(), pinned={"hellaswag": HubPin(DATASET, "abc")})
    assert source.read(spec, "de", "train") == [{"revision": "theirs"}]


def test_a_revision_recorded_of_another_data_set_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    class Api:
        def dataset_info(self, name: str, timeout: float) -> Any:
            return type("Info", (), {"sha": f"newest of {name}"})()

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **options: [{"revision": options["revision"]}])
    source = RowSource(DataConfig(source="hub"), pinned={"hellaswag": HubPin("another/set", "abc")})
    assert source.read(SPEC, "de", "train") == [{"revision": f"newest of {DATASET}"}]


def test_a_custom_task_with_hub_rows_is_not_sent_to_data_source(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(*_: Any, **__: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(datasets, "load_dataset", load)
    spec = SPEC.model_copy(update={"name": "mine", "rows": RowsSpec(hub=HubSpec(dataset="d", revision="r"))})
    message = (
        r"'d' of task 'mine' \(de test\) cannot be read: ConnectionError; check .*, or give rows.path in its file$"
    )
    with pytest.raises(UserError, match=message):
        RowSource(DataConfig()).read(spec, "de", "test")


def test_without_a_revision_the_newest_commit_is_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    class Api:
        def dataset_info(self, name: str, timeout: float) -> Any:
            return type("Info", (), {"sha": "newest"})()

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: ROWS)
    source = RowSource(DataConfig(source="hub"))
    source.read(SPEC, "de", "train")
    assert source.pins == {"hellaswag": (DATASET, "newest")}


def test_no_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    class Api:
        def dataset_info(self, name: str, timeout: float) -> Any:
            raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    message = (
        r"hub data set 'Dr4kl3s/.*' of task 'hellaswag' \(its newest commit\) cannot be read: ConnectionError: no route; "
        r"check the network and 'hf auth login', or set data.source to 'bundled' or 'local'"
    )
    with pytest.raises(UserError, match=message):
        RowSource(DataConfig(source="hub")).read(SPEC, "de", "train")


def test_a_failing_hub_read_names_language_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(*_: Any, **__: Any) -> None:
        raise ValueError("config 'sw' not found")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match=r"\(sw test\) cannot be read: ValueError: config 'sw' not found"):
        RowSource(DataConfig(source="hub"), pinned={"hellaswag": HubPin(DATASET, "abc")}).read(SPEC, "sw", "test")


def test_a_task_without_a_hub_data_set_is_refused() -> None:
    spec = SPEC.model_copy(update={"hub": None})
    with pytest.raises(UserError, match="task 'hellaswag' names no hub data set"):
        RowSource(DataConfig(source="hub")).read(spec, "de", "train")


def test_a_hub_configuration_may_be_named_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, **_: [{"config": config}])
    hub = HubSpec(dataset="d", config="lang_{language}", revision="r")
    spec = SPEC.model_copy(update={"rows": RowsSpec(hub=hub)})
    assert RowSource(DataConfig()).read(spec, "de", "train") == [{"config": "lang_de"}]
