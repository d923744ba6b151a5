"""What ``grid eval`` costs on a finished run: ``python -m transfergrid.perf.resume [--rank R] [--run FOLDER]``.

A 44 x 44 run on the bundled model and items is made with small adapters and made-up log-likelihoods. Then ``grid eval``
finds it finished, once with an empty index of the store and once more. The time is that of the command in a process
that has imported everything; files and bytes are those of the command, counted by strace where it is installed.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

SEED = 17
_BEGIN = "/nowhere/the-command-begins"
"""Path that the measured process tries to open before the command, to be found in strace's output."""

# runs with the code of any version: the first command imports what the second needs
_MEASURED = f"""
import contextlib, io, json, os, sys, time
import torch, transformers
from transfergrid.cli import main
arguments = ["eval", "--config", sys.argv[1], "--run", sys.argv[2]]
shown = io.StringIO()
with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(io.StringIO()):
    narrow = ["--source", "base", "--target", "arc_challenge-de"]
    main([*arguments, *narrow], standalone_mode=False)
    with contextlib.suppress(OSError):
        if sys.argv[3] == "none":
            os.unlink(sys.argv[2] + "/scores/index.json")
    with contextlib.suppress(OSError):
        open({_BEGIN!r})
    started = time.perf_counter()
    main([*arguments, "--json"], standalone_mode=False)
    wall_s = time.perf_counter() - started
report = json.loads(shown.getvalue()[shown.getvalue().index("{{"):])
assert report["is_complete"] and not report["n_items"], "the run is not finished"
print(json.dumps([wall_s, report["n_finished"]]))
"""


class Reads(NamedTuple):
    """What a command read."""

    n_opened: int
    """Files that it opened."""
    n_of_run: int
    """Times that it opened a file of the run folder."""
    n_bytes: int
    """Bytes that it read, without mapped files."""


class MadeUpScorer:
    """Gives every choice a log-likelihood without a model."""

    def prepare(self, items: Sequence[Any], *, halve_steps: bool = False) -> Any:
        """Keep the items."""
        from transfergrid.engine.scorers.prepared import WholeItems

        return WholeItems.of(items)

    def score(self, prepared: Any, adapter: Any = None, *, greedy: bool = False) -> Iterator[Any]:
        """Yield every item."""
        from transfergrid.engine.interfaces import ItemLoglikelihoods

        for index, item in enumerate(prepared.items):
            yield ItemLoglikelihoods(index, tuple(-1.0 - i for i in range(len(item.continuations))))

    def prefetch(self, adapter: Any) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def make_finished_run(folder: Path, rank: int) -> Path:
    """Write adapters and scores of a 44 x 44 run; return the configuration's file."""
    from transfergrid.config.file import load_config
    from transfergrid.config.settings import BUNDLED_MODEL
    from transfergrid.engine.adapters.folder import CONFIG_FILE
    from transfergrid.engine.adapters.null import make_null_adapter
    from transfergrid.engine.evaluation.sweep import evaluate
    from transfergrid.engine.models.resolve import resolve_model
    from transfergrid.engine.scorers.multi_lora import MultiLora
    from transfergrid.engine.work.request import EvalRequest
    from transfergrid.store.files import write_text
    from transfergrid.store.folder import RunFolder

    class Unloaded(MultiLora):
        def open(self, *arguments: Any, **sizes: Any) -> Any:
            return MadeUpScorer()

    path, run = folder / "grid.yaml", RunFolder(folder / "run")
    write_text(path, f"models: ['{BUNDLED_MODEL}']\nseeds: [{SEED}]\nengine: {{dtype: float32}}\n")
    config = load_config(path)
    model = config.models[0]
    template = make_null_adapter(resolve_model(model.path), folder / "adapter", rank=rank)
    settings = json.loads((template / CONFIG_FILE).read_text(encoding="utf-8"))
    for cell in config.grid.cells:
        own = run.adapter(model.name, SEED, cell)
        shutil.copytree(template, own)
        write_text(own / CONFIG_FILE, json.dumps({**settings, "note": cell.name}))
    evaluate(config, run, EvalRequest(), maker=Unloaded(config.engine))
    return path


def measure(config: Path, index: str, *, with_strace: bool) -> tuple[float, int, Reads | None]:
    """Return seconds and cells of the command in a fresh process; what it read if it is watched, which slows it.

    Args:
        config: The configuration, beside the run folder.
        index: ``none``: the store's index is removed before the command.
        with_strace: Watch it.
    """
    log = config.with_name("strace.log")
    watch = ["strace", "-f", "-o", str(log), "-e", "trace=openat,read,pread64,preadv,readv"] if with_strace else []
    command = [*watch, sys.executable, "-c", _MEASURED, str(config), str(config.with_name("run")), index]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall_s, n_cells = json.loads(done.stdout.splitlines()[-1])
    return wall_s, n_cells, _count(log, config.with_name("run")) if with_strace else None


def _count(log: Path, run: Path) -> Reads:
    text = log.read_text(encoding="utf-8", errors="replace").partition(_BEGIN)[2]
    opened = re.findall(r'openat\(\w+, "([^"]+)"[^=]*\) = \d+', text)
    n_bytes = sum(map(int, re.findall(r"(?:read|pread64|preadv|readv)(?:\(| resumed>).*\) += (\d+)", text)))
    return Reads(len(opened), sum(path.startswith(str(run)) for path in opened), n_bytes)


def main() -> None:
    """Make the run and print one row a pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=1, help="rank of the adapters (default: %(default)s)")
    parser.add_argument("--run", type=Path, help="folder that such a run was made in, or is made in and kept")
    options = parser.parse_args()
    table = Table(title="grid eval on a finished run")
    for name in ("store's index", "cells", "wall_s", "files opened", "of the run", "MB read"):
        table.add_column(name, justify="right")
    with ExitStack() as stack:
        folder = options.run or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="resume-")))
        config = folder.resolve() / "grid.yaml"
        if not config.exists():
            config = make_finished_run(folder.resolve(), options.rank)
        for kind in ("none", "there"):
            ways = (False, True) if shutil.which("strace") else (False,)
            figures = [measure(config, kind, with_strace=way) for way in ways]
            wall_s, n_cells, _ = figures[0]
            reads = figures[-1][2]
            shown = ["-"] * 3 if reads is None else [f"{reads.n_opened:,}", f"{reads.n_of_run:,}"]
            shown += [] if reads is None else [f"{reads.n_bytes / 1e6:,.1f}"]
            table.add_row(kind, f"{n_cells:,}", f"{wall_s:.2f}", *shown)
    Console().print(table)


if __name__ == "__main__":
    main()
