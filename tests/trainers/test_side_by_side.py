from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.trainers.small_grid import make_config, make_jobs, train_weights, weights_hash
from tests.trainers.test_base_model import everything_about
from transfergrid.config.settings import GridConfig
from transfergrid.store.folder import RunFolder
from transfergrid.trainers import side_by_side
from transfergrid.trainers.base_model import LoadedBase, load_base
from transfergrid.trainers.events import AdapterFailed, AdapterFinished, Remark, StepDone, ignore_events
from transfergrid.trainers.jobs import TrainingJob
from transfergrid.trainers.sft.joint_pass import Batch, JointPass, MixedRowsError
from transfergrid.trainers.sft.microbatches import LIMITS
from transfergrid.trainers.sft.trainer import AdapterTrainer
from transfergrid.trainers.side_by_side import SideBySide, train_jobs, why_alone

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def base(tiny_llama: Path) -> LoadedBase:
    return load_base(tiny_llama, make_config(tiny_llama).training)


def beside(config: GridConfig, n: int | str) -> GridConfig:
    """Return a configuration with so many adapters at once."""
    training = config.training.model_copy(update={"adapters_at_once": n})
    return config.model_copy(update={"training": training})


def train(jobs: Sequence[TrainingJob], base: LoadedBase, config: GridConfig, root: Path) -> list[Any]:
    """Train jobs into their folders and return the events."""
    events: list[Any] = []
    train_jobs(jobs, base, config, RunFolder(root), events=events.append)
    return events


def weights_of(job: TrainingJob) -> dict[str, torch.Tensor]:
    return load_file(job.folder / "adapter_model.safetensors")


def remarks(events: Sequence[Any]) -> list[str]:
    return [event.message for event in events if isinstance(event, Remark)]


def of_two_tasks(tiny_llama: Path, root: Path, **changes: Any) -> tuple[GridConfig, list[TrainingJob]]:
    """Return jobs of two tasks and two seeds with other numbers of steps."""
    config = make_config(tiny_llama, tasks=("arc_challenge", "truthfulqa"), seeds=(17, 42), data={}, **changes)
    jobs = make_jobs(config, root)[:4]
    data = [replace(job.data, train=job.data.train[: 5 + 3 * number]) for number, job in enumerate(jobs)]
    return config, [replace(job, data=own) for job, own in zip(jobs, data, strict=True)]


def test_adapters_side_by_side_are_those_trained_alone(tiny_llama: Path, base: LoadedBase, tmp_path: Path) -> None:
    config, jobs = of_two_tasks(tiny_llama, tmp_path, epochs=3, gradient_accumulation=2, early_stopping_patience=1)
    before = everything_about(base.model)
    train(jobs, base, beside(config, 3), tmp_path)
    assert everything_about(base.model) == before
    n_steps = set()
    for job in jobs:
        alone, expected = train_weights(job, base, config, tmp_path)
        record = json.loads((job.folder / "training.json").read_text(encoding="utf-8"))
        assert record["resolved"]["adapters_at_once"] == 3
        assert record["key"] == job.key_parts(config)
        assert (record["n_steps"], record["best_epoch"], record["n_tokens"]) == (
            alone.n_steps,
            alone.best_epoch,
            alone.n_tokens,
        )
        for found, curve in (("steps", alone.step_curve), ("epochs", alone.epoch_curve)):
            for point, own in zip(record["loss_curve"][found], curve, strict=True):
                assert point == pytest.approx(own, rel=1e-6 if found == "epochs" else 1e-5)
                assert point.get("loss", 0) == pytest.approx(own.get("loss", 0), rel=1e-6)
        assert record["untrained_validation_loss"] == pytest.approx(alone.untrained_validation_loss, rel=1e-6)
        for name, value in weights_of(job).items():
            own_value = expected[name.replace(".weight", ".default.weight")]
            assert (value - own_value).norm() <= 1e-5 * own_value.norm()
        n_steps.add(alone.n_steps)
    assert len(n_steps) > 1, "the adapters came and went together"


def test_adapters_of_a_bfloat16_base_learn_side_by_side(tiny_llama: Path, tmp_path: Path) -> None:
    config = make_config(tiny_llama, dtype="bfloat16", data={}, learning_rate=1e-2, epochs=10)
    jobs = make_jobs(config, tmp_path)[:2]
    train(jobs, load_base(tiny_llama, config.training), beside(config, 2), tmp_path)
    for job in jobs:
        record = json.loads((job.folder / "training.json").read_text(encoding="utf-8"))
        first, last = (record["loss_curve"]["epochs"][at]["validation_loss"] for at in (0, -1))
        assert record["best_validation_loss"] < record["untrained_validation_loss"] / 2
        assert first != last, "every epoch's weights are those of its end"


def test_one_adapter_in_the_loop_of_many_is_the_trainers_bit_for_bit(
    tiny_llama: Path, base: LoadedBase, tmp_path: Path
) -> None:
    config = make_config(tiny_llama, data={}, gradient_accumulation=2, batch_size=3)
    job = make_jobs(config, tmp_path)[0]
    alone, expected = train_weights(job, base, config, tmp_path)
    assert SideBySide(base, beside(config, 2), RunFolder(tmp_path), ignore_events).train([job]) == []
    record = json.loads((job.folder / "training.json").read_text(encoding="utf-8"))
    assert record["loss_curve"] == {"steps": alone.step_curve, "epochs": alone.epoch_curve}
    assert all(
        torch.equal(value, expected[name.replace(".weight", ".default.weight")])
        for name, value in weights_of(job).items()
    )


@pytest.mark.parametrize("poison", [False, True])
def test_an_adapter_that_is_not_finite_stops_alone(
    poison: bool, tiny_llama: Path, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tiny_llama, languages=("en", "es", "de"))
    jobs = make_jobs(config, tmp_path)
    compute, n_passes = JointPass.compute, 0

    def with_a_bad_one(self: JointPass, batches: Sequence[Batch]) -> list[torch.Tensor]:
        nonlocal n_passes
        n_passes += 1
        if n_passes == 4 and poison:
            for layer in batches[1].adapter.values():
                layer.b.data.fill_(float("nan"))
        losses = compute(self, batches)
        if n_passes == 4 and not poison:
            losses[1] = losses[1] * float("inf")
        return losses

    monkeypatch.setattr(JointPass, "compute", with_a_bad_one)
    events = train(jobs, base, beside(config, 3), tmp_path)
    (failed,) = (event for event in events if isinstance(event, AdapterFailed))
    assert failed.job == jobs[1].name
    assert "loss is" in failed.reason
    assert not jobs[1].folder.exists()
    hashes = [weights_hash(jobs[index].folder) for index in (0, 2)]
    seen = vars(test_an_adapter_that_is_not_finite_stops_alone).setdefault("hashes", [])
    seen.append(hashes)
    assert seen == [hashes] * len(seen), "the neighbours' bits follow what is in the bad one's rows"


def test_memory_that_runs_out_halves_the_adapters_first(
    tiny_llama: Path, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tiny_llama, languages=("en", "es", "de", "fr"), epochs=1)
    jobs, compute = make_jobs(config, tmp_path), JointPass.compute

    def with_little_memory(self: JointPass, batches: Sequence[Batch]) -> list[torch.Tensor]:
        if len(batches) > 2:
            raise MemoryError
        return compute(self, batches)

    monkeypatch.setattr(JointPass, "compute", with_little_memory)
    events = train(jobs, base, beside(config, 4), tmp_path)
    assert remarks(events) == ["tiny: memory ran out with 4 adapters at once; they start again, 2 at once"]
    assert sum(isinstance(event, AdapterFinished) for event in events) == 4
    assert not (tmp_path / ".unfinished" / "tiny-s17-arc_challenge-en").exists()
    record = json.loads((jobs[0].folder / "training.json").read_text(encoding="utf-8"))
    assert record["resolved"]["adapters_at_once"] == 2


def test_as_many_are_let_in_as_memory_holds(
    tiny_llama: Path, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tiny_llama, languages=("en", "es", "de", "fr"), epochs=1)
    jobs = make_jobs(config, tmp_path)
    train(jobs[:1], base, config, tmp_path)
    n_weights = sum(value.numel() for value in weights_of(jobs[0]).values())
    monkeypatch.setattr(side_by_side, "used_gib", lambda _: 0.0)
    monkeypatch.setattr(side_by_side, "peak_memory_gib", lambda _: 1.0)  # what the pass itself needs
    monkeypatch.setattr(side_by_side, "available_gib", lambda _: (1 + 2.5 * 20 * n_weights / 2**30) / 0.9)
    assert remarks(train(jobs[1:], base, beside(config, 4), tmp_path)) == []
    again = make_jobs(config, tmp_path / "again")
    events = train(again, base, beside(config, 4), tmp_path / "again")
    assert remarks(events) == ["tiny: memory holds 3 adapters at once"]


@pytest.mark.parametrize(("rates", "gain"), [((100.0, 150.0), "1.50"), ((100.0, 105.0), "1.05")])
def test_auto_shares_a_pass_only_where_that_is_clearly_faster(
    rates: tuple[float, float],
    gain: str,
    tiny_llama: Path,
    base: LoadedBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(tiny_llama, languages=("en", "es", "de", "fr"), epochs=4)
    jobs = make_jobs(config, tmp_path)
    take = side_by_side._Clock.take
    monkeypatch.setattr(side_by_side._Clock, "take", lambda self, _: take(self, rates[self.is_turn_of_all]))
    monkeypatch.setattr(side_by_side, "AUTO_AT_MOST", 3)
    events = train(jobs, base, beside(config, "auto"), tmp_path)
    outcome = {"1.50": "they share it", "1.05": "the others are trained alone"}[gain]
    assert remarks(events) == [f"tiny: 3 adapters in one pass train {gain} times as fast as one by one; {outcome}"]
    last = json.loads((jobs[3].folder / "training.json").read_text(encoding="utf-8"))
    assert (last["resolved"]["adapters_at_once"] > 1) is (gain == "1.50")


def test_ctrl_c_leaves_the_base_and_the_folder_clean(tiny_llama: Path, base: LoadedBase, tmp_path: Path) -> None:
    config = make_config(tiny_llama)
    jobs, before = make_jobs(config, tmp_path), everything_about(base.model)

    def stop(event: Any) -> None:
        if isinstance(event, StepDone) and event.job == jobs[1].name:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_jobs(jobs, base, beside(config, 2), RunFolder(tmp_path), events=stop)
    assert everything_about(base.model) == before
    assert not list((tmp_path / ".unfinished").iterdir())
    assert not list(tmp_path.rglob("adapter_config.json"))


def test_a_model_that_mixes_rows_trains_one_by_one(
    tiny_llama: Path, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tiny_llama, epochs=1)
    jobs, layer = make_jobs(config, tmp_path), base.model.model.layers[0].mlp
    forward = type(layer).forward

    def flatten(self: Any, x: torch.Tensor) -> torch.Tensor:  # as a layer of experts does
        return forward(self, x.flatten(0, 1)).view(x.shape)

    monkeypatch.setattr(type(layer), "forward", flatten)
    events = train(jobs, base, beside(config, 2), tmp_path)
    (text,) = remarks(events)
    assert "layer 'model.layers.0.mlp.gate_proj' got rows of shape" in text
    assert "they start again, 1 at once" in text
    assert sum(isinstance(event, AdapterFinished) for event in events) == 2
    with pytest.raises(MixedRowsError, match="got rows of shape"):
        JointPass(base.model, [], limits=LIMITS["cpu"])._forward(layer.gate_proj, "gate_proj", torch.zeros(3, 64))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _, config: config.lora.__dict__.update(dropout=0.1), "lora.dropout is above 0"),
        (lambda _, config: config.training.__dict__.update(quantization="4bit"), "training.quantization is set"),
        (lambda _, config: config.training.__dict__.update(gradient_checkpointing=True), "gradient_checkpointing"),
        (lambda _, config: config.training.__dict__.update(report_to=("wandb",)), r"trackers \['wandb'\] keep one run"),
        (lambda base, _: base.model.config.update({"attention_dropout": 0.1}), r"the base has \['attention_dropout'\]"),
        (lambda base, _: setattr(base.model.model.layers[0].mlp, "up_proj", OtherLinear(4, 4)), "plain linear layers"),
    ],
)
def test_adapters_that_cannot_share_a_pass_are_told_why(
    change: Callable[[LoadedBase, GridConfig], None], reason: str, tiny_llama: Path
) -> None:
    config = make_config(tiny_llama)
    base = load_base(tiny_llama, config.training)
    assert why_alone(base, config) is None
    config = config.model_copy(deep=True)
    change(base, config)
    assert re.search(reason, why_alone(base, config) or "")
    assert why_alone(replace(base, plain_head=False), make_config(tiny_llama)) is not None


class OtherLinear(torch.nn.Linear):
    """A layer that computes in a way of its own."""


def test_adapters_side_by_side_have_a_trainer_and_a_tracker_each(
    tiny_llama: Path, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AdapterTrainer, "training_step", None)  # TRL's loop is not entered
    config = make_config(tiny_llama, epochs=1, report_to=("tensorboard",))
    jobs = make_jobs(config, tmp_path)
    events = train(jobs, base, beside(config, 2), tmp_path)
    assert sum(isinstance(event, AdapterFinished) for event in events) == 2
    for job in jobs:
        assert len(list((RunFolder(tmp_path).tracking / "tiny" / "s17" / job.source.name).glob("events.*"))) == 1
