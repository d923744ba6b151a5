"""``grid doctor``: checks what training and scoring need on this machine."""

from __future__ import annotations

import platform
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.table import Table
from rich.text import Text

from transfergrid.commands.options import run_option
from transfergrid.commands.output import make_console, print_report
from transfergrid.commands.quiet import quiet_libraries
from transfergrid.engine.models.device import (
    GIB,
    VLLM_PACKAGES,
    available_memory_bytes,
    cuda_devices,
    engine_device_type,
    has_native_bfloat16,
)
from transfergrid.grid import UserError
from transfergrid.store.provenance import installed_version

if TYPE_CHECKING:
    import polars as pl

HUB_HOST = ("huggingface.co", 443)
_HUB_TIMEOUT_S = 3.0
_MIN_DISK_GIB = 10
_MIN_MEMORY_GIB = 6

State = Literal["ok", "limited", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    found: str
    state: State
    meaning: str
    """What it allows, or what to do."""


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """All findings, in the order they were looked at."""

    findings: tuple[Finding, ...]

    @property
    def can_score(self) -> bool:
        """Whether nothing that scoring needs is missing."""
        return all(finding.state != "missing" for finding in self.findings)

    def __rich__(self) -> Table:
        """Render as a table, one row per finding."""
        table = Table(title="This machine")
        for name in ("what", "found", "state", "what that means"):
            table.add_column(name, overflow="fold")
        colours = {"ok": "green", "limited": "yellow", "missing": "red"}
        for finding in self.findings:
            state = f"[{colours[finding.state]}]{finding.state}[/]"
            table.add_row(Text(finding.subject), Text(finding.found), state, Text(finding.meaning))
        return table

    def rows(self) -> pl.DataFrame:
        """Return one row per finding."""
        import polars as pl

        return pl.DataFrame(self.as_json())

    def as_json(self) -> list[dict[str, str]]:
        """Return one object per finding."""
        return [asdict(finding) for finding in self.findings]


def examine(folder: Path) -> DoctorReport:
    """Look at Python, libraries, processor or GPU, memory, disk and the hub.

    Args:
        folder: Where runs are going to be kept; its disk is looked at.
    """
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        lambda: _library("torch", "runs the models"),
        _vllm,
        *(lambda name=name: _library(name, "training and tokenisation") for name in ("transformers", "trl", "peft")),
        _device,
        _memory,
        lambda: _disk(folder),
        _hub,
    )
    return DoctorReport(tuple(check() for check in checks))


def _python() -> Finding:
    return Finding("Python", platform.python_version(), "ok", "3.11 or newer is needed")


def _vllm() -> Finding:
    for distribution in VLLM_PACKAGES:
        if version := installed_version(distribution):
            kind = "CPU build" if distribution.endswith("cpu") else "CUDA build"
            return Finding("vLLM", f"{version} ({kind})", "ok", "the scoring engine")
    return Finding("vLLM", "not installed", "missing", "run 'make install', or 'make GPU=1 install' for a GPU")


def _library(name: str, meaning: str) -> Finding:
    version = installed_version(name)
    if version is None:
        return Finding(name, "not installed", "missing", "run 'make install'")
    return Finding(name, version, "ok", meaning)


def _device() -> Finding:
    if installed_version("torch") is None:
        return Finding("device", "unknown without torch", "missing", "run 'make install'")
    import torch

    if engine_device_type() == "cuda":
        name = ", ".join(dict.fromkeys(device.name for device in cuda_devices()))
        native = has_native_bfloat16("cuda")
        return Finding("GPU", name, "ok" if native else "limited", _dtype_meaning(native))
    native = has_native_bfloat16("cpu")
    name = f"none; {torch.get_num_threads()} CPU threads, {torch.backends.cpu.get_cpu_capability()}"
    return Finding("GPU", name, "limited", f"small models only; {_dtype_meaning(native)}")


def _dtype_meaning(native: bool) -> str:
    if native:
        return "bfloat16 is native: dtype 'auto' is bfloat16"
    return "no native bfloat16: dtype 'auto' is float32"


def _memory() -> Finding:
    free = available_memory_bytes() / GIB
    state: State = "ok" if free >= _MIN_MEMORY_GIB else "limited"
    return Finding("memory", f"{free:.1f} GiB free", state, f"{_MIN_MEMORY_GIB} GiB hold the bundled model with ease")


def _disk(folder: Path) -> Finding:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free / GIB
    state: State = "ok" if free >= _MIN_DISK_GIB else "limited"
    return Finding("disk", f"{free:.1f} GiB free", state, "'grid plan' says what a run needs")


def _hub() -> Finding:
    try:
        socket.create_connection(HUB_HOST, timeout=_HUB_TIMEOUT_S).close()
    except OSError as error:
        meaning = "bundled and local models and items work; hub ids need the network"
        return Finding("model hub", f"not reached ({type(error).__name__})", "limited", meaning)
    return Finding("model hub", "reached", "ok", "hub models and data sets can be fetched")


@click.command()
@run_option
@click.option("--selftest", is_flag=True, help="Also score bundled items in every way and compare with transformers.")
@click.option("--items", default=8, show_default=True, type=click.IntRange(min=1), help="Items of the selftest.")
def doctor(run_dir: Path, selftest: bool, items: int) -> None:
    """Check what training and scoring need on this machine.

    \b
    Examples:
      grid doctor
      grid doctor --selftest
    """
    console, report = make_console(), examine(run_dir)
    print_report(console, report)
    if not report.can_score:
        sys.exit(1)
    if selftest:
        from transfergrid.engine.evaluation.selftest import run_selftest

        quiet_libraries()
        result = run_selftest(items)
        print_report(console, result)
        if not result.is_passed:
            raise UserError(
                "the planned way did not pass the selftest; score with --engine public, which needs none of our "
                "workers, and report this with the tables above"
            )
        if wrong := next((way for way in result.ways if not way.is_right), None):
            raise UserError(
                f"the {wrong.name} way did not pass the selftest; the others did, and may be used: report this with "
                "the tables above"
            )
