"""One protocol for what commands return, one function that prints it."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from rich.console import Console
from rich.text import Text

from transfergrid.analysis.analyze import AnalysisReport
from transfergrid.analysis.imports.report import ImportReport
from transfergrid.analysis.report.page import Report as PageReport
from transfergrid.analysis.terminal.recommendation import Recommendation
from transfergrid.commands.doctor import DoctorReport, Finding
from transfergrid.commands.output import Report, print_report
from transfergrid.engine.evaluation.summary import EvaluationReport
from transfergrid.engine.server.launch import ServerStart
from transfergrid.engine.work.plan import Estimate
from transfergrid.store.data_manifest import DataManifest
from transfergrid.trainers.plan import TrainingPlan
from transfergrid.trainers.sweep import SweepSummary
from transfergrid.view.status import RunStatus

REPORTS = (
    AnalysisReport,
    Recommendation,
    PageReport,
    ImportReport,
    Estimate,
    EvaluationReport,
    TrainingPlan,
    SweepSummary,
    DataManifest,
    DoctorReport,
    ServerStart,
    RunStatus,
)


class Weather:
    """Two days."""

    def __rich__(self) -> Text:
        return Text("sun, then rain " * 9)

    def rows(self) -> pl.DataFrame:
        return pl.DataFrame({"day": [1, 2], "sky": ["sun", "rain"]})

    def as_json(self) -> Any:
        return {"days": self.rows().to_dicts(), "ö": None}


def printed(capsys: pytest.CaptureFixture[str], output: str | None, **options: bool) -> str:
    print_report(Console(width=60, color_system=None), Weather(), output, **options)
    return capsys.readouterr().out


def test_a_report_is_printed_as_text_json_or_csv(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(Weather(), Report)
    assert json.loads(printed(capsys, "json")) == Weather().as_json()
    assert "ö" in printed(capsys, "json")
    assert printed(capsys, "csv") == "day,sky\n1,sun\n2,rain\n"
    assert printed(capsys, None).count("\n") > 1
    assert printed(capsys, None, soft_wrap=True).count("\n") == 1


@pytest.mark.parametrize("kind", REPORTS, ids=lambda kind: kind.__name__)
def test_what_a_command_returns_is_a_report(kind: type) -> None:
    assert issubclass(kind, Report)


def test_rows_and_json_of_small_reports_tell_the_same() -> None:
    sweep = SweepSummary(("a",), ("b",), (("c", "no memory"),))
    assert sweep.as_json()[2] == {"adapter": "c", "state": "failed", "reason": "no memory"}
    assert SweepSummary((), (), ()).rows().is_empty()
    plan = TrainingPlan((("a", 3, 2, 100, 0, "to do"),))
    assert plan.as_json() == [
        {"adapter": "a", "n_items": 3, "n_steps": 2, "n_tokens": 100, "n_cut_items": 0, "state": "to do"}
    ]
    doctor = DoctorReport((Finding("disk", "9 GiB free", "limited", "little"),))
    assert doctor.rows().to_dicts() == doctor.as_json()
    data = DataManifest("h", "bundled", {}, {"arc": {"train": 3, "test": 2}}, {"arc": 1}, [], ["de"], {})
    assert data.rows().to_dicts() == [{"task": "arc", "n_train": 3, "n_test": 2, "n_left_out": 1}]
    assert json.loads(json.dumps(data.as_json()))["languages"] == ["de"]
