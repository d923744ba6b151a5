"""``grid doctor``: what is there, what is missing, and what to do."""

from __future__ import annotations

import importlib.metadata
import io
from pathlib import Path

import pytest
from rich.console import Console

from transfergrid.commands import doctor


def _findings(folder: Path) -> dict[str, doctor.Finding]:
    return {finding.subject: finding for finding in doctor.examine(folder).findings}


def test_this_environment_can_score(tmp_path: Path) -> None:
    report = doctor.examine(tmp_path / "not" / "there")
    assert report.can_score
    assert {"Python", "torch", "vLLM", "trl", "GPU", "memory", "disk", "model hub"} <= {
        finding.subject for finding in report.findings
    }


def test_a_missing_engine_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name.startswith("vllm"):
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert _findings(tmp_path)["vLLM"].meaning == "run 'make install', or 'make GPU=1 install' for a GPU"
    assert not doctor.examine(tmp_path).can_score


def test_an_unreachable_hub_is_a_limit_not_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(doctor.socket, "create_connection", refuse)
    hub = _findings(tmp_path)["model hub"]
    assert (hub.state, hub.found) == ("limited", "not reached (ConnectionRefusedError)")


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_its_terminal(tmp_path: Path, width: int) -> None:
    console = Console(width=width, file=io.StringIO(), no_color=True)
    console.print(doctor.examine(tmp_path))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
