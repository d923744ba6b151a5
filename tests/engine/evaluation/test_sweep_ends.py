"""Sweeps that the system stops: a full disk at any write, a folder of another user. They end in a sentence and go on."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from tests.engine.sweeps import FakeMaker, add_adapters, small_config, stored_rows
from transfergrid.config.settings import GridConfig
from transfergrid.engine.evaluation.summary import EvaluationReport
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.work.request import EvalRequest
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import ScoreStore
from transfergrid.store.score_writer import StoreWriter

NOBODY = 65534


@pytest.fixture
def config(tiny_llama: Path) -> GridConfig:
    return small_config(tiny_llama)


@pytest.fixture
def run(config: GridConfig, tiny_adapters: tuple[Path, ...], tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    add_adapters(config, folder, tiny_adapters[0])
    return folder


def sweep(config: GridConfig, run: RunFolder) -> EvaluationReport:
    return evaluate(config, run, EvalRequest(noise_floor=True), maker=FakeMaker())


def fill_disk(monkeypatch: pytest.MonkeyPatch, root: Path, n_writes: int) -> None:
    """Let files under a folder be written so many times; after that half of a file fits, or nothing."""
    left = n_writes

    def limited(write: Callable[..., int]) -> Callable[..., int]:
        def write_some(path: Path, content: bytes | str, **options: str) -> int:
            nonlocal left
            left -= path.is_relative_to(root)
            if left >= 0:
                return write(path, content, **options)
            write(path, content[: len(content) // 2 if left % 2 else 0], **options)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return write_some

    for name in ("write_bytes", "write_text"):
        monkeypatch.setattr(Path, name, limited(getattr(Path, name)))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_disk_that_is_full_at_any_write_ends_in_a_sentence_and_the_sweep_goes_on_with_more_room(
    config: GridConfig, run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    whole = RunFolder(tmp_path / "whole")
    shutil.copytree(run.adapters, whole.adapters)
    assert sweep(config, whole).is_complete
    monkeypatch.setitem(StoreWriter.__init__.__kwdefaults__, "flush_after_s", 0.0)  # every cell is a part
    chance = random.Random(seed)
    told: list[str] = []
    while True:
        with monkeypatch.context() as patch:
            fill_disk(patch, run.root, chance.randrange(4 + len(told) // 4))
            try:
                assert sweep(config, run).is_complete
                break
            except UserError as error:
                told.append(str(error))
    assert all(text.isprintable() and "No space left on device" in text for text in told), told
    assert all("make room or give write access" in text for text in told), told
    assert len(told) > 15
    assert len({text.split(":")[0] for text in told}) > 1, "all ends at the same file"
    assert_frame_equal(stored_rows(run), stored_rows(whole), check_exact=True)
    assert ScoreStore(run.scores).scan().set_aside == ()
    assert not list(run.root.rglob("*.tmp"))
    assert [path.name for path in run.noise_floor.iterdir()] == [path.name for path in whole.noise_floor.iterdir()]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are only for one."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def ends_as_nobody(act: Callable[[], object]) -> str:
    """Return the sentence that something ends with where another user does it."""
    reading, writing = os.pipe()
    if (process := os.fork()) == 0:
        signal.alarm(60)
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            act()
            told = "nothing"
        except UserError as error:
            told = str(error)
        except BaseException:
            told = traceback.format_exc()
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(process, 0)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        return pipe.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_another_user_may_not_write_or_read_is_told_in_a_sentence_and_left_alone(
    config: GridConfig, run: RunFolder, tiny_llama: Path, open_folder: Path
) -> None:
    model = shutil.copytree(tiny_llama, open_folder / "model")
    config = small_config(model)
    theirs = RunFolder(open_folder / "run")
    shutil.copytree(run.adapters, theirs.adapters)
    assert sweep(config, theirs).is_complete
    before, part = stored_rows(theirs), next(theirs.scores.glob("*.parquet"))

    def refusal() -> str:
        told = ends_as_nobody(lambda: sweep(config, theirs))
        assert told.isprintable(), told
        return told

    assert "cannot be written: Permission denied; make room or give write access" in refusal()
    for folder in (theirs.root, *(path for path in theirs.root.rglob("*") if path.is_dir())):
        folder.chmod(0o777)
    for file in theirs.root.glob(".lock*"):
        file.chmod(0o666)
    part.chmod(0o600)
    assert f"part '{part.name}' cannot be read: Permission denied; give read access" in refusal()
    part.chmod(0o644)
    theirs.scores.chmod(0o755)
    (theirs.adapter("tiny", 17, config.grid.cells[0]) / "adapter_config.json").unlink()
    assert "scores cannot be stored in" in refusal()  # the adapter's failure cannot be noted
    assert_frame_equal(stored_rows(theirs), before, check_exact=True)
    assert not (theirs.scores / "aside").exists()
