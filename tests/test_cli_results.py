"""``grid analyze``, ``recommend`` and ``import`` as a user meets them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from tests.analysis.imports.test_lm_eval import scores, write_results
from tests.analysis.synthetic import MODELS, USUAL_TABLES, cells, item_rows, published_table, write_run
from transfergrid.analysis.analyze import shown_names
from transfergrid.cli import main

FAST = "models: [Llama-3.2-1B-Instruct, Qwen2.5-7B-Instruct]\ntasks: [arc_challenge, global_mmlu]\nlanguages: [de, en, fr]\nseeds: [17, 42]\nanalysis: {bootstrap_resamples: 100, permutations: 99}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without grid.yaml, its run in runs/main."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "main", item_rows(n_items=6))
    return tmp_path


def _grid(*arguments: str, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(main, list(arguments))


def _write_config(folder: Path, text: str = FAST) -> Path:
    path = folder / "grid.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_analyze_prints_the_summary_and_writes_every_table(folder: Path) -> None:
    _write_config(folder)
    result = _grid("analyze")
    assert result.exit_code == 0, result.output
    assert "all transfer" in result.stdout
    assert "Every table: runs/main/tables/NAME.parquet and .csv" in result.stdout
    assert len(list((folder / "runs/main/tables").iterdir())) == 2 * len(USUAL_TABLES)


@pytest.mark.parametrize("name", ["regimes", "matrix", "hierarchy", "transfer_by_seed"])
@pytest.mark.parametrize("width", [80, 100])
def test_a_table_by_name_fits_the_terminal(name: str, width: int, folder: Path) -> None:
    _write_config(folder)
    result = _grid("analyze", name, COLUMNS=str(width))
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= width
    assert "\x1b" not in result.stdout


def test_json_and_csv_are_for_programs(folder: Path) -> None:
    _write_config(folder)
    rows = json.loads(_grid("analyze", "regimes", "--json").stdout)
    lines = list(csv.DictReader(io.StringIO(_grid("analyze", "regimes", "--csv").stdout)))
    assert len(rows) == len(lines)
    assert rows[0]["n"] == int(lines[0]["n"]) == 60
    assert set(json.loads(_grid("analyze", "--json").stdout)) == USUAL_TABLES
    assert _grid("analyze", "regimes", "--json").stdout == _grid("analyze", "regimes", "--json").stdout


def test_without_grid_yaml_the_defaults_serve(folder: Path) -> None:
    result = _grid("analyze")
    assert result.exit_code == 0, result.output
    assert "Benjamini-Hochberg q <= 0.05" in " ".join(result.stdout.split())


def test_grid_yaml_is_used_where_it_is_there(folder: Path) -> None:
    _write_config(folder, FAST.replace("analysis: {", "analysis: {harm_threshold_pp: -5.0, "))
    assert "harm: delta <= -5 pp" in _grid("analyze").stdout


@pytest.mark.parametrize("command", [("analyze",), ("recommend", "--task", "arc_challenge", "--language", "de")])
def test_a_configuration_that_was_named_must_be_there(command: tuple[str, ...], folder: Path) -> None:
    result = _grid(*command, "--config", "other.yaml")
    assert result.exit_code == 1
    assert result.stderr.strip() == "grid: no configuration at 'other.yaml'; 'grid init' writes one"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("analyze", "regime"), "unknown table 'regime'"),
        (("analyze", "--run", "nowhere"), "'nowhere' has no adapter scores and no imported table"),
        (("recommend", "--task", "arc_challenge", "--language", "hi"), "no data for target 'arc_challenge-hi'"),
        (("recommend", "--task", "ARC", "--language", "hi"), "task name 'ARC' is not usable"),
        (("recommend", "--task", "arc_challenge", "--language", "de", "--model", "x"), "model 'x' is not in the run"),
        (("import", "donors", "nowhere.csv"), "no table at 'nowhere.csv'"),
        (("import", "lm-eval", "nowhere"), "no 'results_*.json' below 'nowhere'"),
    ],
)
def test_faults_are_one_sentence(arguments: tuple[str, ...], message: str, folder: Path) -> None:
    result = _grid(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"grid: {message}")
    assert result.stderr.count("\n") == 1


def test_model_names_with_brackets_are_shown_as_they_are(folder: Path) -> None:
    models, deltas = ["x[/bold]-1B", "x[red]-1B"], np.random.default_rng(0).normal(0, 2, (2, 6, 6))
    published_table(models, cells(), deltas).write_csv(folder / "table.csv")
    assert _grid("import", "donors", "table.csv", "--run", "other").exit_code == 0
    _write_config(folder, "analysis: {bootstrap_resamples: 100, permutations: 99}\n")
    for name in ((), *((name,) for name in shown_names())):
        result = _grid("analyze", *name, "--run", "other")
        assert result.exit_code == 0, (name, result.output)
    shown = _grid("analyze", "transfer", "--run", "other", COLUMNS="120").stdout
    assert all(model in shown for model in models)


def test_a_damaged_part_is_one_sentence_without_traceback(folder: Path) -> None:
    (folder / "runs/main/scores/broken.parquet").write_bytes(b"PAR1 and no more")
    done = subprocess.run(
        [sys.executable, "-m", "transfergrid.cli", "analyze"],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.returncode == 1
    assert "broken.parquet' cannot be read as Parquet" in done.stderr
    assert "Traceback" not in done.stderr


def test_recommend_proposes_mixtures_and_says_what_is_assumed(folder: Path) -> None:
    _write_config(folder)
    target = ("recommend", "--task", "arc_challenge", "--language", "de", "--mix", "2")
    shown = _grid(*target)
    assert shown.exit_code == 0, shown.output
    assert "mixtures of 2: that their sources' deltas add up is an assumption" in " ".join(shown.output.split())
    rows = json.loads(_grid(*target, "--json").output)
    assert all(row["n_sources"] <= 2 and row["p_harm"] <= 0.2 for row in rows)
    both = _grid(*target, "--avoid")
    assert both.exit_code == 1
    assert "--avoid lists single sources and --mix 2 proposes mixtures; give one of them" in both.output


def test_recommend_ranks_sources_and_says_what_harms(folder: Path) -> None:
    _write_config(folder)
    target = ("recommend", "--task", "arc_challenge", "--language", "de")
    result = _grid(*target, COLUMNS="80")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Sources for arc_challenge-de (2 models), best first")
    rows = json.loads(_grid(*target, "--json").stdout)
    assert len(rows) == 6
    assert len(_grid(*target, "--csv").stdout.splitlines()) == 7
    avoided = json.loads(_grid(*target, "--avoid", "--json").stdout)
    assert all(row["p_harm"] > 0.5 for row in avoided)
    assert {row["source_language"] for row in avoided} <= {row["source_language"] for row in rows}
    assert _grid(*target, "--model", MODELS[1]).stdout.startswith(f"Sources for arc_challenge-de ({MODELS[1]})")


def test_an_imported_table_alone_is_analysed_without_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    deltas = np.random.default_rng(0).normal(0.5, 2, (2, 6, 6))
    published_table(MODELS, cells(), deltas).write_csv("results.csv")
    imported = _grid("import", "donors", "results.csv", "--run", "runs/published")
    assert imported.exit_code == 0, imported.output
    assert imported.stdout.startswith("72 aggregates of 2 models, 6 sources and 6 targets")
    found = json.loads(_grid("analyze", "regimes", "--json", "--run", "runs/published").stdout)[0]
    wanted = pl.read_parquet("runs/published/imported/donors.*.parquet").filter(
        (pl.col("source_task") != pl.col("target_task")) | (pl.col("source_language") != pl.col("target_language"))
    )
    assert found["mean_pp"] == pytest.approx(wanted["delta_pp"].mean())


def test_results_of_the_harness_come_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "out" / "base", {"arc_de": scores(0.2, 0.30)})
    write_results(tmp_path / "out" / "a", {"arc_de": scores(0.9, 0.32)}, "x/s17/arc_challenge-en")
    result = _grid("import", "lm-eval", "out", "--run", "runs/harness")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("1 aggregates of 1 model, 1 source and 1 target")


def test_missing_cells_are_named_in_the_summary(folder: Path) -> None:
    _write_config(folder, FAST.replace("[de, en, fr]", "[de, en, fr, it]"))
    text = " ".join(_grid("analyze").stdout.split())
    assert re.search(r"Missing: \d+ rows: no scores in the store", text)


@pytest.mark.parametrize("command", [("import", "donors"), ("import", "lm-eval")])
def test_every_import_has_help_with_an_example(command: tuple[str, ...]) -> None:
    result = _grid(*command, "--help")
    assert result.exit_code == 0
    assert f"grid {' '.join(command)} " in result.output
    assert "Example" in result.output


def test_an_import_into_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    published_table(MODELS, cells(), np.zeros((len(MODELS), 6, 6))).write_csv(table)
    result = _grid("import", "donors", str(table), "--run", "/proc/foo")
    assert result.exit_code == 1
    assert re.search(r"grid: '/proc/foo/imported/donors\.[0-9a-f]{16}\.parquet' cannot be written: ", result.output)


@pytest.mark.parametrize("command", [["analyze"], ["recommend", "--task", "arc_challenge", "--language", "de"]])
def test_json_and_csv_at_once_are_refused(command: list[str], folder: Path) -> None:
    result = _grid(*command, "--json", "--csv")
    assert result.exit_code == 1
    assert result.output == "grid: --json and --csv are two forms of one output; give one of them\n"
