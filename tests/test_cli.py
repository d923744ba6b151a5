"""The command line as a user meets it: help, messages, exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from transfergrid.cli import main


def _grid(*arguments: str, folder: Path) -> Result:
    runner = CliRunner()
    with runner.isolated_filesystem(temp_dir=folder):
        return runner.invoke(main, list(arguments))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "grid.yaml"
    path.write_text("tasks: [hellaswag]\nlanguages: [de, en]\ndata: {max_test_items: 2}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_has_help_with_an_example(command: str, tmp_path: Path) -> None:
    result = _grid(command, "--help", folder=tmp_path)
    assert result.exit_code == 0
    assert f"grid {command}" in result.output.replace("Usage: main", "Usage: grid")
    assert "Example" in result.output


def test_help_names_the_steps_of_a_run_in_order(tmp_path: Path) -> None:
    output = _grid("--help", folder=tmp_path).output
    steps = ["grid init", "grid plan", "grid data", "grid train-adapters", "grid eval", "grid analyze"]
    assert [output.index(step) for step in steps] == sorted(output.index(step) for step in steps)
    assert all(step.removeprefix("grid ") in main.commands for step in steps)


def test_init_writes_a_configuration_that_data_reads(tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    assert _grid("init", "--config", str(path), folder=tmp_path).exit_code == 0
    result = _grid("data", "--config", str(path), "--run", str(tmp_path / "run"), folder=tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "data" / "truthfulqa" / "zh" / "test.jsonl").is_file()


def test_init_prints_the_reference(tmp_path: Path) -> None:
    assert _grid("init", "--reference", folder=tmp_path).output.startswith("# Configuration reference")


def test_data_prints_a_table_and_where_it_went(config: Path, tmp_path: Path) -> None:
    result = _grid("data", "--config", str(config), "--run", str(tmp_path / "run"), folder=tmp_path)
    assert "hellaswag" in result.output
    assert f"written to {tmp_path / 'run' / 'data'}" in result.output.replace("\n", "")


@pytest.mark.parametrize("command", ["plan", "data", "train-adapters", "eval"])
def test_a_missing_configuration_is_one_sentence_without_traceback(command: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "transfergrid.cli", command], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "grid: no configuration at 'grid.yaml'; 'grid init' writes one\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "arc"), "arc"),
        (("--language", "gr"), "gr"),
        (("--seed", "5"), "5"),
        (("--model", "none"), "none"),
    ],
)
def test_narrowing_to_something_the_grid_lacks_is_refused(
    arguments: tuple[str, ...], message: str, config: Path, tmp_path: Path
) -> None:
    result = _grid("eval", "--config", str(config), "--run", str(tmp_path / "run"), *arguments, folder=tmp_path)
    assert result.exit_code == 1
    assert message in result.output
    assert "expected" in result.output
    assert "Traceback" not in result.output


def test_a_fault_in_the_configuration_is_shown_by_every_command(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("lora: {rank: 8}\nsedes: [1]\n", encoding="utf-8")
    result = _grid("plan", "--config", str(path), folder=tmp_path)
    assert result.exit_code == 1
    assert "2 fault(s)" in result.output


def test_an_interrupt_ends_with_one_sentence(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transfergrid.benchmarks.materialise as module

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "materialise", interrupt)
    result = _grid("data", "--config", str(config), "--run", str(tmp_path / "run"), folder=tmp_path)
    assert result.exit_code == 130
    assert "interrupted; the same command goes on where it stopped" in result.output


def _refused(*arguments: str, folder: Path) -> str:
    """Return the message of a command that has to end with one sentence and exit status 1."""
    result = _grid(*arguments, folder=folder)
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    return result.output


def test_init_into_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("", encoding="utf-8")
    message = _refused("init", "--config", str(tmp_path / "small.yaml" / "x.yaml"), folder=tmp_path)
    assert "small.yaml/x.yaml' cannot be written: a file stands where its folder should be; " in message
    assert "give a --config in a folder that you may write to" in message


def test_a_run_folder_that_cannot_be_made_is_one_sentence(config: Path, tmp_path: Path) -> None:
    message = _refused("data", "--config", str(config), "--run", "/proc/foo", folder=tmp_path)
    assert "folder '/proc/foo' cannot be written: " in message
    assert "use another --run" in message
