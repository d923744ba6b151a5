"""``grid data`` and ``grid plan`` beside another process, and with damaged files of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from transfergrid.cli import main
from transfergrid.store.lock import hold_run_folder

CONFIG = "tasks: [truthfulqa]\nlanguages: [de, en]\n"


def grid(folder: Path, command: str) -> tuple[int, str]:
    (folder / "grid.yaml").write_text(CONFIG, encoding="utf-8")
    arguments = [command, "--config", str(folder / "grid.yaml"), "--run", str(folder / "run")]
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize("command", ["data", "plan"])
def test_items_are_not_rewritten_beside_a_running_evaluation(command: str, tmp_path: Path) -> None:
    with hold_run_folder(tmp_path / "run", "grid eval"):
        status, output = grid(tmp_path, command)
    assert (status, "is in use by 'grid eval', process " in output) == (1, True)
    assert not (tmp_path / "run" / "data").exists()
    assert grid(tmp_path, "data")[0] == 0


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (".lock", "is not a file, and the run folder cannot be held; remove it"),
        (".lock-holder.json", "is not a file, and the run folder cannot be held; remove it"),
        ("data/manifest.json", "cannot be read: Is a directory; remove it and run 'grid data' again"),
    ],
)
def test_a_folder_in_place_of_a_file_is_one_sentence(file: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run" / file).mkdir(parents=True)
    status, output = grid(tmp_path, "data")
    assert (status, message in output, "Traceback" in output) == (1, True, False), output


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": 1}', b"\xff", b"[" * 200_000, b'{"languages": 3}', b"null"])
def test_a_damaged_manifest_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "run" / "data").mkdir(parents=True)
    (tmp_path / "run" / "data" / "manifest.json").write_bytes(content)
    status, output = grid(tmp_path, "data")
    assert (status, "remove it and run 'grid data' again" in output) == (1, True), output


def test_a_run_folder_with_an_endless_name_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(CONFIG, encoding="utf-8")
    arguments = ["data", "--config", str(tmp_path / "grid.yaml"), "--run", str(tmp_path / ("r" * 300))]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, "cannot be written: File name too long" in result.output) == (1, True), result.output
