import json
from pathlib import Path

import pytest

from tests.analysis.report.runs import random_deltas
from tests.analysis.synthetic import MODELS, cells, item_rows, published_table, write_run
from tests.engine.sweeps import FakeMaker, add_adapters, small_config
from transfergrid.analysis.imports.donors import import_donors
from transfergrid.analysis.report.origins import ManifestPart, read_run_manifest
from transfergrid.config.settings import GridConfig
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.work.request import EvalRequest
from transfergrid.store.data_manifest import read_manifest
from transfergrid.store.folder import RunFolder

RECORD = {
    "model": "tiny",
    "seed": 17,
    "cell": "arc_challenge-de",
    "config": {"lora": {"rank": 32}, "training": {"epochs": 3}},
    "resolved": {"dtype": "float32", "device": "cpu", "model_folder": "/somewhere"},
    "base": {"path": "bundled:tiny", "revision": "abc"},
    "data": {"n_train": 27},
    "best_epoch": 2,
    "best_validation_loss": 1.25,
    "versions": {"torch": "2.13.0"},
    "git": None,
    "content_hash": "f" * 64,
}


def by_title(parts: list[ManifestPart]) -> dict[str, ManifestPart]:
    return {part.title: part for part in parts}


@pytest.fixture(scope="module")
def scored(tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    config = small_config(tiny_llama)
    run = RunFolder(tmp_path_factory.mktemp("manifest") / "run")
    add_adapters(config, run, tiny_adapters[0])
    evaluate(config, run, EvalRequest(), maker=FakeMaker())
    folder = run.adapter("tiny", 17, config.grid.cells[0])
    (folder / "training.json").write_text(json.dumps(RECORD), encoding="utf-8")
    (folder.parent / "global_mmlu-de" / "training.json").write_text("{", encoding="utf-8")
    return run


def test_data_and_scores_are_as_the_run_recorded_them(scored: RunFolder) -> None:
    parts = by_title(read_run_manifest(scored, GridConfig()))
    data = read_manifest(scored.data)
    assert data is not None
    assert dict(parts["Data"].facts)["request hash"] == data.request_hash
    assert dict(parts["Data"].rows) == data.hashes
    ((model, n_files, decided),) = parts["Scores"].rows
    assert (model, n_files) == ("tiny", "5")
    for part in ("model.revision", "tokenizer.files", "prompts.format", "limits.max_length", "engine.name fake"):
        assert part in decided
    assert {name for name, _ in parts["Score files"].rows} == {path.name for path in scored.scores.glob("*.parquet")}
    assert "languages:" in parts["Configuration"].text


def test_adapters_show_their_record_and_unreadable_ones_are_counted(scored: RunFolder) -> None:
    part = by_title(read_run_manifest(scored))["Adapters"]
    assert part.rows == (("tiny", "17", "arc_challenge-de", "27", "2", "1.2500", "f" * 16),)
    facts = dict(part.facts)
    assert facts["adapters"] == "1, 1 unreadable"
    assert facts["lora"] == "rank 32 (1 adapter)"
    assert facts["versions"] == "torch 2.13.0 (1 adapter)"
    assert "/somewhere" not in facts["resolved"]


def test_an_imported_table_is_named_with_its_hash(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    published_table(MODELS, cells(), random_deltas(2, 6, 6)).write_csv(tmp_path / "table.csv")
    import_donors(tmp_path / "table.csv", run)
    part = by_title(read_run_manifest(run))["Imported tables"]
    ((name, rows, digest),) = part.rows
    assert (name[:7], rows, len(digest)) == ("donors.", "72", 64)
    assert dict(part.facts)["origin"] == "table.csv"


def test_scores_from_elsewhere_have_no_record_and_say_so(tmp_path: Path) -> None:
    parts = by_title(read_run_manifest(write_run(tmp_path, item_rows())))
    assert dict(parts["Scores"].facts)["files"] == "1, 1 without a record of how they were scored"
    assert dict(parts["Data"].facts) == {"items": "not recorded in this run"}
    assert "none was given" in dict(parts["Configuration"].facts)["configuration"]
    assert "Adapters" not in parts
