"""How many predictions change when nothing but the order of the arithmetic does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from tests.engine.fake_scorer import FakeScorer, hashed_loglikelihood
from tests.engine.sweeps import FakeMaker
from transfergrid.config.selection import Narrowing
from transfergrid.config.settings import GridConfig
from transfergrid.engine.adapters.check import AdapterError
from transfergrid.engine.evaluation import noise_floor
from transfergrid.engine.evaluation.events import Event, Notice
from transfergrid.engine.evaluation.noise_floor import measure_noise_floor
from transfergrid.engine.evaluation.summary import EvaluationReport
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.interfaces import Adapter, TokenisedItem
from transfergrid.engine.scorers.prepared import WholeItems
from transfergrid.engine.work.base_model import resolve_base
from transfergrid.engine.work.request import EvalRequest
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import read_noise_floor
from transfergrid.store.noise_floor import read_noise_floor_file, write_noise_floor


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def sweep_base(config: GridConfig, run: RunFolder, maker: FakeMaker, targets: tuple[str, ...] = ()) -> EvaluationReport:
    narrowing = Narrowing(sources=("base",), targets=targets)
    return evaluate(config, run, EvalRequest(narrowing=narrowing, noise_floor=True), maker=maker)


def as_base(item: TokenisedItem, choice: int, adapter: Adapter | None) -> float:
    return hashed_loglikelihood(item, choice, None)


def test_equal_scores_flip_nothing(config: GridConfig, run: RunFolder) -> None:
    assert sweep_base(config, run, FakeMaker(as_base)).is_complete
    table = read_noise_floor(run)
    assert table.select("n_items", "n_flips", "n_flips_acc", "max_abs_diff_nats").unique().rows() == [(3, 0, 0, 0.0)]
    assert table.height == 4


def test_the_second_pass_has_the_items_reversed_in_halved_steps(
    config: GridConfig, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, list[str]]] = []
    prepare = FakeScorer.prepare

    def noted(self: FakeScorer, items: Sequence[TokenisedItem], *, halve_steps: bool = False) -> WholeItems:
        seen.append((halve_steps, [item.item_id for item in items]))
        return prepare(self, items, halve_steps=halve_steps)

    monkeypatch.setattr(FakeScorer, "prepare", noted)
    sweep_base(config, run, FakeMaker(as_base), targets=("arc_challenge-de",))
    (first, items), (second, again) = seen
    assert (first, second) == (False, True)
    assert again == items[::-1]


def test_flips_of_acc_are_counted(config: GridConfig, run: RunFolder) -> None:
    def other_way_round(item: TokenisedItem, choice: int, adapter: Adapter | None) -> float:
        return -1.0 - (choice if adapter is None else len(item.continuations) - choice)

    sweep_base(config, run, FakeMaker(other_way_round))
    table = read_noise_floor(run)
    assert table["n_flips_acc"].to_list() == [3, 3, 3, 3]
    assert table.filter(pl.col("target_task") == "global_mmlu")["n_flips"].to_list() == [3, 3]
    assert table["max_abs_diff_nats"].min() >= 3.0  # type: ignore[operator]


def test_a_flip_per_character_is_a_flip_of_a_target_scored_by_acc_norm(config: GridConfig, run: RunFolder) -> None:
    def favour_long_choices(item: TokenisedItem, choice: int, adapter: Adapter | None) -> float:
        # the shortest choice keeps the highest sum, but per character the longest gains most
        return -1.0 * len(item.continuations[choice]) - (0.0 if adapter is None else 50.0)

    sweep_base(config, run, FakeMaker(favour_long_choices))
    table = read_noise_floor(run)
    assert table["n_flips_acc"].to_list() == [0, 0, 0, 0]
    assert table.filter(pl.col("target_task") == "arc_challenge")["n_flips"].sum() > 0
    assert table["max_abs_diff_nats"].to_list() == [50.0, 50.0, 50.0, 50.0]


def test_what_is_measured_is_not_measured_again(config: GridConfig, run: RunFolder) -> None:
    maker = FakeMaker(as_base)
    sweep_base(config, run, maker)
    sweep_base(config, run, maker)
    assert len(maker.opened) == 1


def test_targets_are_added_to_the_table(config: GridConfig, run: RunFolder) -> None:
    for target in ("arc_challenge-de", "global_mmlu-en"):
        sweep_base(config, run, FakeMaker(as_base), targets=(target,))
    assert read_noise_floor(run).select("target_task", "target_language").rows() == [
        ("arc_challenge", "de"),
        ("global_mmlu", "en"),
    ]


def test_a_noise_floor_of_another_setup_is_dropped_when_the_base_is_scored_again(
    config: GridConfig, run: RunFolder
) -> None:
    sweep_base(config, run, FakeMaker(as_base))
    seen: list[Event] = []
    request = EvalRequest(narrowing=Narrowing(sources=("base",)), force=True)
    evaluate(config, run, request, maker=FakeMaker(as_base, version="2"), on_event=seen.append)
    notices = [event.message for event in seen if isinstance(event, Notice)]
    assert (
        "tiny: the noise floor of 4 target(s) was measured with another setup and is dropped; --noise-floor measures "
        "it again" in notices
    )
    assert read_noise_floor(run).height == 0
    sweep_base(config, run, FakeMaker(as_base, version="2"))
    assert read_noise_floor(run).height == 4


def test_only_targets_whose_items_changed_lose_their_noise_floor(config: GridConfig, run: RunFolder) -> None:
    sweep_base(config, run, FakeMaker(as_base))
    table, keys = read_noise_floor_file(run, "tiny")
    write_noise_floor(run, "tiny", table, {**keys, "arc_challenge-de": "0" * 16})
    evaluate(config, run, EvalRequest(narrowing=Narrowing(targets=("global_mmlu-en",))), maker=FakeMaker(as_base))
    assert read_noise_floor(run).rows() == [row for row in table.rows() if row[1:3] != ("arc_challenge", "de")]


def test_scores_that_the_other_way_left_keep_their_noise_floor(config: GridConfig, run: RunFolder) -> None:
    sweep_base(config, run, FakeMaker(as_base))
    request = EvalRequest(narrowing=Narrowing(sources=("base",)))
    evaluate(config, run, request, maker=FakeMaker(as_base, way="sequential"))
    assert read_noise_floor(run).height == 4


def test_measuring_keeps_no_row_of_another_setup(config: GridConfig, run: RunFolder) -> None:
    sweep_base(config, run, FakeMaker(as_base))
    table, _ = read_noise_floor_file(run, "tiny")
    write_noise_floor(run, "tiny", table, {"arc_challenge-de": "0" * 16})
    base = resolve_base(config, config.models[0], FakeMaker())
    assert measure_noise_floor(run, base, {}, FakeScorer(), finished={}).height == 0


def test_a_broken_table_is_measured_anew(config: GridConfig, run: RunFolder) -> None:
    sweep_base(config, run, FakeMaker(as_base))
    (path,) = run.noise_floor.iterdir()
    path.write_bytes(b"half")
    sweep_base(config, run, FakeMaker(as_base))
    assert read_noise_floor(run).height == 4


def test_a_noise_floor_that_cannot_be_measured_is_a_failure(
    config: GridConfig, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> Path:
        raise AdapterError("no linear layers")

    monkeypatch.setattr(noise_floor, "make_null_adapter", refuse)
    report = sweep_base(config, run, FakeMaker())
    assert [(failure.what, failure.reason) for failure in report.failures] == [
        ("tiny", "noise floor: no linear layers")
    ]
    assert report.n_finished == 4


def test_only_stored_baselines_are_compared(
    config: GridConfig, run: RunFolder, tiny_adapters: tuple[Path, ...]
) -> None:
    from tests.engine.sweeps import add_adapters

    add_adapters(config, run, tiny_adapters[0])
    narrowing = Narrowing(sources=("arc_challenge-de",))
    evaluate(config, run, EvalRequest(narrowing=narrowing, noise_floor=True), maker=FakeMaker())
    assert read_noise_floor(run).height == 0
