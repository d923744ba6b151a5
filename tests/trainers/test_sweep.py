from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.hub import use_local_hub
from tests.models import edit_json, make_tiny_model
from tests.trainers.small_grid import ENGLISH, SPANISH, adapter, everything, make_config, sweep, weights_hash
from transfergrid.config.selection import Narrowing, select
from transfergrid.config.settings import GridConfig, ModelConfig
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.folder import find_adapters
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.events import AdapterFailed, AdapterFinished, SweepStarted
from transfergrid.trainers.plan import plan_training
from transfergrid.trainers.sweep import train_adapters

pytestmark = pytest.mark.engine


def test_adapters_are_what_the_engine_and_peft_load(finished: RunFolder, tiny_llama: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert find_adapters(finished.root) == (adapter(finished), adapter(finished, SPANISH))
    checked = check_adapter(adapter(finished), read_linear_shapes(tiny_llama), name="arc_challenge-en")
    record = json.loads((adapter(finished) / "training.json").read_text(encoding="utf-8"))
    assert checked.content_hash == record["content_hash"]
    ids = torch.arange(10, 40)[None]
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    expected = base(ids).logits
    changed = PeftModel.from_pretrained(base, adapter(finished))(ids).logits
    assert (changed - expected).abs().max() > 1e-3


def test_record_says_what_was_asked_and_what_came_of_it(finished: RunFolder, config: GridConfig) -> None:
    record = json.loads((adapter(finished) / "training.json").read_text(encoding="utf-8"))
    assert (record["model"], record["seed"], record["cell"]) == ("tiny", 17, "arc_challenge-en")
    assert record["config"]["training"] == config.training.model_dump(mode="json")
    assert record["resolved"]["dtype"] == "float32"
    assert (record["resolved"]["batch_size"], record["resolved"]["gradient_accumulation"]) == (4, 1)
    assert record["data"] | {"hash": ""} == {
        "hash": "",
        "n_train": 5,
        "n_validation": 1,
        "n_truncated_items": 0,
        "n_truncated_tokens": 0,
    }
    assert [point["step"] for point in record["loss_curve"]["steps"]] == [1, 2, 3, 4]
    losses = [point["validation_loss"] for point in record["loss_curve"]["epochs"]]
    assert record["best_validation_loss"] == min(losses)
    assert record["untrained_validation_loss"] not in losses  # the base's, checked with the losses of training
    assert record["best_epoch"] == losses.index(min(losses)) + 1
    assert record["n_tokens"] > 1000
    assert record["tokens_per_s"] > 0
    assert 0.1 < record["peak_gib"] < 24
    assert 0 < record["wall_s"] < 600
    assert {"torch", "trl", "peft", "transformers", "python"} <= set(record["versions"])
    assert set(record["base"]) == {"path", "revision"}
    assert "git" in record


def test_a_second_call_trains_nothing_and_a_third_only_what_is_missing(config: GridConfig, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    first = train_adapters(config, run, select(config, Narrowing(languages=("en",))))
    assert first.finished == ("tiny s17 arc_challenge-en",)
    stamp = (adapter(run) / "adapter_model.safetensors").stat().st_mtime_ns
    events: list[Any] = []
    second = sweep(config, run, events.append)
    assert (second.finished, second.kept) == (("tiny s17 arc_challenge-es",), ("tiny s17 arc_challenge-en",))
    assert isinstance(events[0], SweepStarted)
    assert (events[0].n_jobs, events[0].n_finished) == (2, 1)
    assert sweep(config, run).finished == ()
    assert (adapter(run) / "adapter_model.safetensors").stat().st_mtime_ns == stamp


def test_equal_sweeps_leave_equal_adapters(config: GridConfig, finished: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    sweep(config, run)
    for cell in (ENGLISH, SPANISH):
        assert weights_hash(adapter(run, cell)) == weights_hash(adapter(finished, cell))


def test_dry_run_lists_every_adapter_and_its_state(
    config: GridConfig, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfergrid.trainers.train_one.load_base", None)  # nothing is loaded
    plan = plan_training(config, finished, everything(config))
    assert [(row[0], row[1], row[2], row[5]) for row in plan.jobs] == [
        ("tiny s17 arc_challenge-en", 5, 4, "finished"),
        ("tiny s17 arc_challenge-es", 5, 4, "finished"),
    ]
    assert [row[5] for row in plan_training(config, RunFolder(tmp_path), everything(config)).jobs] == ["to do"] * 2
    assert not (tmp_path / "adapters").exists()


def test_dry_run_fetches_no_weights_from_the_hub(
    config: GridConfig, finished: RunFolder, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = use_local_hub(monkeypatch, tiny_llama, tmp_path / "hub")
    of_hub = config.model_copy(update={"models": (ModelConfig(path="org/tiny"),)})
    assert plan_training(of_hub, RunFolder(tmp_path), everything(of_hub)) == plan_training(
        config, RunFolder(tmp_path), everything(config)
    )
    assert list(hub.cache.rglob("*.safetensors")) == []
    other = make_config(tiny_llama, lora={"r": 4, "target_modules": ["qkv"]})
    other = other.model_copy(update={"models": of_hub.models})
    with pytest.raises(UserError, match=r"model 'tiny' has no linear layers \['qkv'\]; expected .*'q_proj'"):
        plan_training(other, RunFolder(tmp_path), everything(other))


def test_adapters_of_other_settings_are_never_taken(tiny_llama: Path, finished: RunFolder) -> None:
    other = make_config(tiny_llama, learning_rate=1e-3)
    with pytest.raises(
        UserError, match=r"(?s)2 adapter\(s\) in the way.*learning_rate: 0\.002 -> 0\.001.*another --run"
    ):
        sweep(other, finished)
    with pytest.raises(UserError, match="was trained with other settings"):
        plan_training(other, finished, everything(other))


def test_settings_that_do_not_decide_the_weights_may_change(tiny_llama: Path, finished: RunFolder) -> None:
    assert len(sweep(make_config(tiny_llama, gradient_checkpointing=True), finished).kept) == 2


@pytest.fixture
def bfloat16_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transfergrid.engine.models.device.has_native_bfloat16", lambda _: True)


@pytest.mark.usefixtures("bfloat16_machine")
def test_adapters_of_another_number_format_are_not_mixed(tiny_llama: Path, finished: RunFolder) -> None:
    with pytest.raises(
        UserError,
        match=r"\(training\.dtype: 'float32' -> 'bfloat16'\); training\.dtype auto means 'bfloat16' on this machine, "
        r"set it to 'float32' to go on, or use another --run",
    ):
        sweep(make_config(tiny_llama, dtype="auto"), finished)
    with pytest.raises(UserError, match=r"\(training\.dtype: 'float32' -> 'bfloat16'\); use another --run"):
        sweep(make_config(tiny_llama, dtype="bfloat16"), finished)
    with pytest.raises(UserError, match=r"-> 0\.001; training\.dtype: 'float32' -> 'bfloat16'\); use another --run"):
        sweep(make_config(tiny_llama, dtype="auto", learning_rate=1e-3), finished)


def test_auto_stands_for_a_number_format(
    tiny_llama: Path, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transfergrid.engine.models.device.has_native_bfloat16", lambda _: False)
    auto = make_config(tiny_llama, dtype="auto")
    assert len(sweep(auto, finished).kept) == 2
    # records of earlier versions hold the word itself in the key, and the number format beside it
    run = RunFolder(Path(shutil.copytree(finished.root, tmp_path / "earlier")))
    for cell in (ENGLISH, SPANISH):
        path = adapter(run, cell) / "training.json"
        key = json.loads(path.read_text(encoding="utf-8"))["key"]
        edit_json(path, key={**key, "training": {**key["training"], "dtype": "auto"}})
    assert len(sweep(auto, run).kept) == 2
    monkeypatch.setattr("transfergrid.engine.models.device.has_native_bfloat16", lambda _: True)
    with pytest.raises(UserError, match=r"\(training\.dtype: 'float32' -> 'bfloat16'\); training\.dtype auto means"):
        sweep(auto, run)


@pytest.mark.parametrize("names", [["foo"], ["wandb"]])
def test_a_tracker_that_is_not_there_is_named_before_the_first_job(
    names: list[str], tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    with pytest.raises(
        UserError, match=rf"1 fault\(s\), nothing was trained:\n  - .*{names[0]!r} in training.report_to"
    ):
        plan_training(config := make_config(tiny_llama, report_to=names), RunFolder(tmp_path), everything(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "training.json").unlink(), r"is not complete .*; delete it"),
        (
            lambda folder: (folder / "training.json").write_text("[" * 200_000),
            r"is not complete \(it is nested deeper than 100 brackets\); delete it",
        ),
        (
            lambda folder: (folder / "training.json").write_text("[]"),
            r"training\.json that .* did not write; delete the",
        ),
        (
            lambda folder: edit_json(folder / "training.json", key=None),
            r"training\.json that .* did not write; delete the",
        ),
        (lambda folder: edit_json(folder / "adapter_config.json", r=8), "was changed after its training"),
    ],
)
def test_damaged_adapters_are_not_taken_for_finished(
    damage: Any, message: str, config: GridConfig, finished: RunFolder, tmp_path: Path
) -> None:
    run = RunFolder(Path(shutil.copytree(finished.root, tmp_path / "copy")))
    damage(adapter(run))
    with pytest.raises(UserError, match=message):
        sweep(config, run)


def test_all_faults_are_named_before_the_first_job(tiny_llama: Path, tmp_path: Path) -> None:
    config = make_config(
        tiny_llama,
        tasks=("arc_challenge", "global_mmlu"),
        truncation="refuse",
        max_length={"arc_challenge": 30, "global_mmlu": 30},
    )
    config = config.model_copy(
        update={"models": (*config.models, config.models[0].model_copy(update={"path": "/nowhere", "name": "gone"}))}
    )
    with pytest.raises(UserError, match=r"5 fault\(s\), nothing was trained") as caught:
        sweep(config, RunFolder(tmp_path))
    for cell in ("arc_challenge-en", "arc_challenge-es", "global_mmlu-en", "global_mmlu-es"):
        assert f"tiny, {cell}: 6 item(s) have more than 30 tokens" in str(caught.value)
    assert "model folder '/nowhere' does not exist" in str(caught.value)


def test_target_modules_that_the_model_lacks_are_named(tiny_llama: Path, tmp_path: Path) -> None:
    config = make_config(tiny_llama, lora={"r": 4, "target_modules": ["q_proj", "qkv"]})
    with pytest.raises(UserError, match=r"model 'tiny' has no linear layers \['qkv'\]; expected .*'q_proj'"):
        sweep(config, RunFolder(tmp_path))


def test_truncated_items_are_counted_in_the_record(tiny_llama: Path, tmp_path: Path) -> None:
    config = make_config(tiny_llama, languages=("en",), max_length={"arc_challenge": 100}, epochs=1)
    sweep(config, RunFolder(tmp_path))
    data = json.loads((adapter(RunFolder(tmp_path)) / "training.json").read_text(encoding="utf-8"))["data"]
    assert data["n_truncated_items"] == 6
    assert data["n_truncated_tokens"] > 6


def test_a_failed_adapter_is_marked_and_the_others_go_on(
    config: GridConfig, finished: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transfergrid.trainers import adapter_training

    make_trainer = adapter_training.make_trainer

    def explode_in_english(model: Any, job: Any, base: Any, training: Any, **kwargs: Any) -> Any:
        if job.source.cell == ENGLISH:
            training = training.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e30, "warmup_ratio": 0.0})
        return make_trainer(model, job, base, training, **kwargs)

    monkeypatch.setattr(adapter_training, "make_trainer", explode_in_english)
    run, events = RunFolder(tmp_path), list[Any]()
    summary = sweep(config, run, events.append)
    assert summary.finished == ("tiny s17 arc_challenge-es",)
    ((name, reason),) = summary.failed
    assert name == "tiny s17 arc_challenge-en"
    assert "at step 2 with learning rate" in reason
    note = json.loads((adapter(run).parent / "arc_challenge-en.failed.json").read_text(encoding="utf-8"))
    assert note["reason"] == reason
    assert [type(event) for event in events if isinstance(event, AdapterFailed | AdapterFinished)] == [
        AdapterFailed,
        AdapterFinished,
    ]
    assert not adapter(run).exists()
    # the bad weights of the failed one are not in the one after it
    assert weights_hash(adapter(run, SPANISH)) == weights_hash(adapter(finished, SPANISH))
    with pytest.raises(UserError, match=r"(?s)1 of 2 adapters failed:.*tiny s17 arc_challenge-en: .*step 2"):
        summary.raise_failures()
    assert plan_training(config, run, everything(config)).jobs[0][5] == "failed before"
    monkeypatch.undo()
    assert sweep(config, run).finished == ("tiny s17 arc_challenge-en",)
    assert not list(run.adapters.rglob("*.failed.json"))


def test_saved_keys_are_compared_with_the_targeted_layers(
    config: GridConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel

    save = PeftModel.save_pretrained

    def forget_a_layer(self: Any, folder: str, **kwargs: Any) -> None:
        del self.get_base_model().model.layers[1].mlp.up_proj.lora_B["default"]
        save(self, folder, **kwargs)

    monkeypatch.setattr(PeftModel, "save_pretrained", forget_a_layer)
    with pytest.raises(
        UserError, match=r"missing \['base_model\.model\.model\.layers\.1\.mlp\.up_proj\.lora_B\.weight'\]"
    ):
        sweep(config, RunFolder(tmp_path))
    assert not (tmp_path / "adapters").exists()


def test_two_models_are_trained_in_one_sweep(tiny_llama: Path, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / "other", "qwen2", seed=3)
    config = make_config(tiny_llama, languages=("en",), epochs=1)
    config = config.model_copy(
        update={"models": (*config.models, config.models[0].model_copy(update={"path": str(other), "name": "other"}))}
    )
    run = RunFolder(tmp_path / "run")
    assert len(sweep(config, run).finished) == 2
    for name, folder in (("tiny", tiny_llama), ("other", other)):
        check_adapter(run.adapter(name, 17, ENGLISH), read_linear_shapes(folder), name=name)
