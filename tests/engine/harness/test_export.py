"""What is exported as files of the harness is imported to the same numbers."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from tests.benchmarks.harness_folder import write_languages
from tests.engine.sweeps import FakeMaker, add_adapters, small_config, stored_rows, sweep, write_config
from transfergrid.analysis.imports.lm_eval import import_lm_eval
from transfergrid.cli import main
from transfergrid.config.harness import HarnessTask
from transfergrid.config.settings import GridConfig
from transfergrid.engine.harness.export import _Target, export_lm_eval
from transfergrid.grid import Cell, UserError
from transfergrid.store.folder import RunFolder

_SAME = ("seed", "source", "target_task", "target_language", "item_id", "gold", "pred", "pred_norm", "choice_chars")


@pytest.fixture(params=[False, True])
def config(request: pytest.FixtureRequest, tiny_llama: Path) -> GridConfig:
    config = small_config(tiny_llama)
    prompts = config.prompts.model_copy(update={"eval_chat_template": request.param})
    return config.model_copy(update={"prompts": prompts})


def rows(table: pl.DataFrame) -> list[tuple[object, ...]]:
    return table.select(_SAME).with_columns(pl.col("seed").cast(pl.Int64)).sort(_SAME[:5]).rows()


def test_an_export_is_imported_to_the_same_rows(
    config: GridConfig, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    add_adapters(config, run, tiny_adapters[0])
    sweep(config, run, FakeMaker())
    stored = stored_rows(run)
    report = export_lm_eval(config, run, tmp_path / "out")
    assert (report.n_samples, report.n_sources, report.remarks) == (stored.height, stored["source"].n_unique(), ())
    export_lm_eval(config, run, tmp_path / "out")  # a second one replaces the first
    assert len(list((tmp_path / "out").rglob("results_*.json"))) == report.n_sources
    imported = import_lm_eval(tmp_path / "out", RunFolder(tmp_path / "other"))
    assert imported.remarks == ()
    again = pl.read_parquet(imported.path)
    assert rows(again) == rows(stored)
    sums = [table.sort(_SAME[:5])["loglikelihoods_nats"].to_list() for table in (again, stored)]
    assert sums[0] == sums[1]


def test_choices_that_are_prompts_are_exported_as_they_were_asked_and_imported_to_the_same_rows(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    settings = {"doc_to_text": "{{gold}}", "doc_to_target": "so {{question}}", "metric_list": [{"metric": "acc"}]}
    folder = write_languages(tmp_path / "tasks", "mine", ["sw"], **settings)
    task = HarnessTask(lm_eval="mine", languages={"sw": "sw"}, include_path=folder)
    config, run = small_config(tiny_llama, harness_tasks={"mine": task}, tasks=("mine",)), RunFolder(tmp_path / "run")
    add_adapters(config, run, tiny_adapters[0])
    sweep(config, run, FakeMaker())
    stored = stored_rows(run)
    export_lm_eval(config, run, tmp_path / "out")
    again = pl.read_parquet(import_lm_eval(tmp_path / "out", RunFolder(tmp_path / "other")).path)
    assert rows(again) == rows(stored)
    assert stored["loglikelihoods_nats"].list.len().unique().to_list() == [3]
    assert stored["choice_chars"][0].to_list() == [len("so sw test 0?")] * 3


def test_items_that_are_not_those_that_were_scored_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    config, run = small_config(tiny_llama), RunFolder(tmp_path / "run")
    with pytest.raises(UserError, match=r"no scores in '.*run'; 'grid eval' makes some"):
        export_lm_eval(config, run, tmp_path / "out")
    sweep(config, run, FakeMaker())
    other = config.model_copy(update={"prompts": config.prompts.model_copy(update={"eval_format": "train"})})
    with pytest.raises(UserError, match="was scored with other choices than the configuration gives; export with"):
        export_lm_eval(other, run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("language", "metric", "reason"),
    [
        ("de", "brier", "target 'own-de' is scored by 'brier', which the harness' results files .* do not have"),
        (
            "zh_hant",
            "acc",
            "target 'own-zh_hant' has the language 'zh_hant', which 'grid import lm-eval' would not read",
        ),
    ],
)
def test_a_target_that_the_files_cannot_name_is_refused(
    language: str, metric: str, reason: str, tiny_llama: Path, tmp_path: Path
) -> None:
    scored = pl.DataFrame({"primary_metric": [metric]})
    with pytest.raises(UserError, match=reason):
        _Target.read(small_config(tiny_llama), RunFolder(tmp_path), Cell("own", language), scored)


def test_the_command_says_what_it_wrote(tiny_llama: Path, tmp_path: Path) -> None:
    config, run = small_config(tiny_llama), RunFolder(tmp_path / "run")
    sweep(config, run, FakeMaker())
    write_config(tiny_llama, tmp_path / "grid.yaml")
    asked = [
        "export",
        "lm-eval",
        str(tmp_path / "out"),
        "--config",
        str(tmp_path / "grid.yaml"),
        "--run",
        str(run.root),
    ]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    assert "of 1 source in" in done.output
