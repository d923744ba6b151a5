from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.models import edit_json, make_tiny_model
from tests.trainers.small_grid import everything, make_config
from transfergrid.benchmarks.files import hash_files
from transfergrid.config import GridConfig
from transfergrid.engine.adapters import check_adapter, find_adapters, read_linear_shapes
from transfergrid.engine.run_lock import hold_run_folder
from transfergrid.engine.selection import Narrowing, select
from transfergrid.grid import Cell, RunFolder, UserError
from transfergrid.trainers import adapter_folder
from transfergrid.trainers.events import AdapterFailed, AdapterFinished, SweepStarted
from transfergrid.trainers.sweep import plan_training, train_adapters

pytestmark = pytest.mark.engine

ENGLISH, SPANISH = Cell("arc_challenge", "en"), Cell("arc_challenge", "es")


def sweep(config: GridConfig, run: RunFolder, events: Any = lambda _: None) -> Any:
    return train_adapters(config, run, everything(config), events=events)


def weights_hash(folder: Path) -> str:
    return hash_files([folder / "adapter_model.safetensors", folder / "adapter_config.json"])


@pytest.fixture(scope="module")
def config(tiny_llama: Path) -> GridConfig:
    return make_config(tiny_llama)


@pytest.fixture(scope="module")
def finished(config: GridConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose two adapters are trained; tests only read it."""
    run = RunFolder(tmp_path_factory.mktemp("finished"))
    assert len(sweep(config, run).finished) == 2
    return run


def adapter(run: RunFolder, cell: Cell = ENGLISH) -> Path:
    return run.adapter("tiny", 17, cell)


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
    monkeypatch.setattr("transfergrid.trainers.sweep.load_base", None)  # nothing is loaded
    plan = plan_training(config, finished, everything(config))
    assert [(row[0], row[1], row[2], row[5]) for row in plan.rows] == [
        ("tiny s17 arc_challenge-en", 5, 4, "finished"),
        ("tiny s17 arc_challenge-es", 5, 4, "finished"),
    ]
    assert [row[5] for row in plan_training(config, RunFolder(tmp_path), everything(config)).rows] == ["to do"] * 2
    assert not (tmp_path / "adapters").exists()


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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "training.json").unlink(), r"is not complete .*; delete it"),
        (lambda folder: edit_json(folder / "adapter_config.json", r=8), "was changed after its training"),
    ],
)
def test_damaged_adapters_are_not_taken_for_finished(
    damage: Any, message: str, config: GridConfig, finished: RunFolder, tmp_path: Path
) -> None:
    import shutil

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
        if job.cell == ENGLISH:
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
    assert plan_training(config, run, everything(config)).rows[0][5] == "failed before"
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


def test_full_disk_ends_the_sweep_and_leaves_nothing_half_written(
    config: GridConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run = RunFolder(tmp_path)
    monkeypatch.setattr(adapter_folder, "write_json", full)
    with pytest.raises(UserError, match=r"'tiny s17 arc_challenge-en' cannot be saved .*No space left on device"):
        sweep(config, run)
    assert not list(tmp_path.rglob("adapter_config.json"))
    assert not (tmp_path / ".unfinished").exists()
    monkeypatch.undo()
    assert len(sweep(config, run).finished) == 2


def test_weights_that_the_system_refuses_to_write_are_told_in_one_sentence(
    config: GridConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a limit on the size of files stands in for a full disk: both are refused writes inside safetensors
    from peft import PeftModel

    save, before = PeftModel.save_pretrained, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_with_little_room(self: Any, folder: str, **kwargs: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            save(self, folder, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(PeftModel, "save_pretrained", save_with_little_room)
    with pytest.raises(UserError, match=r"'tiny s17 arc_challenge-en' cannot be saved .*File too large.*; make room"):
        sweep(config, RunFolder(tmp_path))
    assert not (tmp_path / "adapters").exists()


@pytest.mark.parametrize("blocked", [".unfinished", "adapters"])
def test_folders_that_cannot_be_made_are_told_in_one_sentence(blocked: str, config: GridConfig, tmp_path: Path) -> None:
    (tmp_path / blocked).write_text("a file where a folder is needed", encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot be saved under .*; make room or make it writable"):
        sweep(config, RunFolder(tmp_path))


def test_two_sweeps_in_one_folder_are_refused(config: GridConfig, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from transfergrid.engine.run_lock import hold_run_folder; import sys\n"
        f"with hold_run_folder(Path({str(tmp_path)!r}), 'x'): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="is in use by 'x'"):
            sweep(config, RunFolder(tmp_path))
        holder.communicate()
    with hold_run_folder(tmp_path, "y"):
        pass


KILLED_SWEEP = """
import os, signal, sys
from pathlib import Path
import yaml
from transfergrid.config import GridConfig
from transfergrid.grid import RunFolder
from transfergrid.engine.selection import Narrowing, select
from transfergrid.trainers import adapter_folder
from transfergrid.trainers.sweep import train_adapters

owner, _, name = sys.argv[3].rpartition(".")
target = {"folder": adapter_folder, "path": Path, "peft": __import__("peft").PeftModel}[owner]
original, calls = getattr(target, name), 0

def deadly(*args, **kwargs):
    global calls
    calls += 1
    before = sys.argv[4] == "before"
    if before and calls == int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*args, **kwargs)
    if not before and calls == int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(target, name, deadly)
config = GridConfig.model_validate(yaml.safe_load(Path(sys.argv[1]).read_text()))
train_adapters(config, RunFolder(Path(sys.argv[2])), select(config, Narrowing()))
"""


@pytest.mark.parametrize(
    ("point", "when", "call", "n_left"),
    [
        ("peft.save_pretrained", "after", 2, 1),  # weights of the second adapter written, nothing else
        ("folder.sync_folder", "before", 3, 1),  # all its files written, not moved
        ("folder.sync_folder", "before", 4, 2),  # moved
    ],
)
def test_a_sweep_killed_while_saving_goes_on_and_takes_nothing_half_written(
    point: str, when: str, call: int, n_left: int, config: GridConfig, finished: RunFolder, tmp_path: Path
) -> None:
    settings, run = tmp_path / "grid.yaml", RunFolder(tmp_path / "run")
    settings.write_text(yaml.safe_dump(json.loads(config.model_dump_json())), encoding="utf-8")
    arguments = [sys.executable, "-c", KILLED_SWEEP, str(settings), str(run.root), point, when, str(call)]
    killed = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(run.adapters.rglob("adapter_config.json"))) == n_left
    stamp = (adapter(run) / "training.json").stat().st_mtime_ns
    summary = sweep(config, run)
    assert (len(summary.kept), len(summary.finished)) == (n_left, 2 - n_left)
    assert (adapter(run) / "training.json").stat().st_mtime_ns == stamp
    assert not (run.root / ".unfinished").exists()
    for cell in (ENGLISH, SPANISH):
        assert weights_hash(adapter(run, cell)) == weights_hash(adapter(finished, cell))


def test_ctrl_c_ends_with_one_sentence_and_the_same_command_goes_on(tiny_llama: Path, tmp_path: Path) -> None:
    config = make_config(tiny_llama, languages=("en", "es", "fr", "de"), epochs=40)
    settings, run = tmp_path / "grid.yaml", RunFolder(tmp_path / "run")
    settings.write_text(yaml.safe_dump(json.loads(config.model_dump_json())), encoding="utf-8")
    code = "from transfergrid.cli import main; main()"
    command = [sys.executable, "-c", code, "train-adapters", "--config", str(settings), "--run", str(run.root)]
    environment = {**os.environ, "COLUMNS": "200"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        while "[1/4]" not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1] == "grid: interrupted; the same command goes on where it stopped"
    assert "Traceback" not in errors
    assert not (run.root / ".unfinished").exists()
    n_finished = len(list(run.adapters.rglob("training.json")))
    assert 1 <= n_finished < 4
    plan = plan_training(config, run, everything(config))
    assert [row[5] for row in plan.rows] == ["finished"] * n_finished + ["to do"] * (4 - n_finished)


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
