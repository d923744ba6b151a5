"""The selftest: every way against transformers, what counts as right, and what a failed way says."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from tests.engine.fake_scorer import FakeScorer
from transfergrid.engine.evaluation import selftest
from transfergrid.engine.evaluation.selftest import SelftestReport, WayResult, largest_difference, run_selftest
from transfergrid.engine.interfaces import TokenisedItem
from transfergrid.engine.workers.version import require_tested, selftest_record

RIGHT = WayResult(name="planned", dtype="float32", base_difference=1e-4, adapter_difference=2e-4, effect=3.0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"base_difference": 0.02}, False),
        ({"adapter_difference": math.inf}, False),
        ({"adapter_difference": 0.02, "dtype": "bfloat16"}, True),
        ({"effect": 0.0}, False),
        ({"failure": "ValueError: no"}, False),
    ],
)
def test_a_way_is_right_within_its_number_format_and_with_the_adapter_on(
    changes: dict[str, object], expected: bool
) -> None:
    way = WayResult(**{**{name: getattr(RIGHT, name) for name in RIGHT.__slots__}, **changes})  # type: ignore[arg-type]
    assert way.is_right is expected


def test_the_report_shows_differences_and_why_a_way_did_not_run() -> None:
    failed = WayResult(name="public", dtype="float32", failure="AssertionError: half precision only")
    report = SelftestReport(version="0.32.0", device="cuda", n_items=8, ways=(RIGHT, failed))
    assert report.is_passed  # the public way is a check, not what is checked
    console = Console(file=io.StringIO(), width=160, no_color=True)
    console.print(report)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2.0e-04" in text
    assert "bit-equal" in text
    assert "public float32 did not run: AssertionError: half precision only" in text
    assert report.rows()["is_right"].to_list() == [True, False]


def test_a_value_that_is_no_number_is_infinitely_far() -> None:
    assert largest_difference([1.0, math.nan], [1.0, 2.0]) == math.inf
    assert largest_difference([1.0, -2.0], [1.5, -2.0]) == 0.5


@pytest.fixture
def made_up(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeScorer]:
    """All ways score by a made-up function."""
    scorers = {"planned": FakeScorer(), "public": FakeScorer()}
    monkeypatch.setenv("TRANSFERGRID_CACHE", str(tmp_path))
    monkeypatch.setattr(selftest, "resolve_model", lambda _: tiny_llama)
    monkeypatch.setattr(selftest, "ReferenceScorer", lambda _: FakeScorer())
    monkeypatch.setattr(selftest, "start_vllm", lambda *_, **__: scorers["planned"])
    monkeypatch.setattr(selftest, "start_public", lambda *_, **__: scorers["public"])
    monkeypatch.setattr(selftest, "resolve_dtype", lambda *_: "float32")
    monkeypatch.setattr(selftest, "engine_device_type", lambda: "cuda")
    return scorers


@pytest.mark.engine
def test_every_way_gives_what_transformers_gives(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "resolve_dtype", lambda *_: "float32")
    items = [TokenisedItem(item_id="a", context=(1, 2), continuations=((3,), (4, 5)))]  # shorter than the probe
    report = selftest.compare_ways(tiny_llama, items)
    assert [(way.name, way.failure, way.is_right) for way in report.ways] == [
        ("planned", None, True),
        ("public", None, True),
    ]


def test_a_passed_selftest_lets_an_untested_device_run(made_up: dict[str, FakeScorer]) -> None:
    report = run_selftest(3)
    assert (report.n_items, report.is_passed) == (3, True)
    assert [way.name for way in report.ways] == ["planned", "public"]
    assert all(scorer.is_closed for scorer in made_up.values())
    require_tested(report.version, "cuda")


def test_a_planned_way_that_scores_otherwise_leaves_no_record(made_up: dict[str, FakeScorer]) -> None:
    made_up["planned"].function = lambda item, choice, adapter: -1.0
    report = run_selftest(2)
    assert not report.is_passed
    assert not selftest_record(report.version, "cuda").exists()
