from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.models import edit_json, make_tiny_model
from tests.trainers.small_grid import make_config, make_jobs, train_weights
from transfergrid.config.settings import GridConfig
from transfergrid.grid import TASKS, UserError
from transfergrid.trainers import adapter_training
from transfergrid.trainers.base_model import LoadedBase, attached_adapter, load_base
from transfergrid.trainers.events import BatchHalved, EpochDone, StepDone
from transfergrid.trainers.jobs import BatchShape, TrainingJob
from transfergrid.trainers.sft import IGNORED

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def base(tiny_llama: Path) -> LoadedBase:
    return load_base(tiny_llama, make_config(tiny_llama).training)


def first_job(config: GridConfig, root: Path) -> TrainingJob:
    return make_jobs(config, root)[0]


def reference_losses(job: TrainingJob, base: LoadedBase, config: GridConfig) -> tuple[list[float], list[float]]:
    """Return losses of steps, and of validation before and after them.

    Full batches, one optimizer step an epoch, plain peft, full logits, an attention mask: nothing clever.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, get_scheduler, set_seed

    set_seed(job.seed)
    lora, training = config.lora, config.training
    plain = AutoModelForCausalLM.from_pretrained(job.model.folder, dtype=torch.float32)
    model = get_peft_model(
        plain,
        LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            target_modules=list(lora.target_modules),
            exclude_modules=".*vision.*" if hasattr(plain.config, "vision_config") else None,
        ),
    ).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
    schedule = get_scheduler("linear", optimizer, num_warmup_steps=1, num_training_steps=training.epochs)

    def mean_loss(examples: Any) -> torch.Tensor:
        longest = max(len(example.input_ids) for example in examples)
        ids, labels, mask = (torch.full((len(examples), longest), fill) for fill in (0, IGNORED, 0))
        for row, example in enumerate(examples):
            length = len(example.input_ids)
            ids[row, :length], mask[row, :length] = torch.tensor(example.input_ids), 1
            labels[row, :length] = torch.tensor(example.labels)
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        return functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)

    def validation_loss() -> float:
        with torch.no_grad():
            return mean_loss(job.data.validation).item()

    losses, before = [], validation_loss()
    for _ in range(training.epochs):
        loss = mean_loss(job.data.train)
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, training.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return losses, [before, validation_loss()]


@pytest.mark.parametrize("task", ["arc_challenge", "truthfulqa"])
def test_losses_equal_a_straightforward_loops(task: str, tiny_llama: Path, base: LoadedBase, tmp_path: Path) -> None:
    config = make_config(tiny_llama, tasks=(task,), epochs=4, batch_size=16)
    job = first_job(config, tmp_path)
    expected, expected_validation = reference_losses(job, base, config)
    trained, _ = train_weights(job, base, config, tmp_path)
    assert [point["loss"] for point in trained.step_curve] == pytest.approx(expected, rel=2e-4)
    validation = [trained.untrained_validation_loss, trained.epoch_curve[-1]["validation_loss"]]
    assert validation == pytest.approx(expected_validation, rel=2e-4)
    assert trained.n_tokens == 4 * job.data.n_train_tokens


@pytest.mark.parametrize(("task", "dtype"), [*((task, "float32") for task in TASKS), ("arc_challenge", "bfloat16")])
def test_a_tiny_model_learns_sixteen_items_by_heart(task: str, dtype: str, tiny_llama: Path, tmp_path: Path) -> None:
    config = make_config(
        tiny_llama,
        dtype=dtype,
        tasks=(task,),
        languages=("en",),
        data={},
        lora={"r": 16, "alpha": 32},
        learning_rate=1e-2,
        epochs=25,
    )
    base = load_base(tiny_llama, config.training)
    trained, weights = train_weights(first_job(config, tmp_path), base, config, tmp_path)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    losses = [point["loss"] for point in trained.step_curve]
    assert losses[0] > math.log(4)
    # by heart: the letter is near certain; of a whole text of a byte-level model half the surprise is gone
    assert losses[-1] < (0.1 if task != "truthfulqa" else losses[0] / 2)


def test_an_adapter_does_not_depend_on_the_one_before(tiny_llama: Path, base: LoadedBase, tmp_path: Path) -> None:
    config = make_config(tiny_llama)
    first, second = make_jobs(config, tmp_path)
    _, alone = train_weights(second, load_base(tiny_llama, config.training), config, tmp_path)
    train_weights(first, base, config, tmp_path)
    _, after_another = train_weights(second, base, config, tmp_path)
    assert alone.keys() == after_another.keys()
    assert all(torch.equal(alone[name], after_another[name]) for name in alone)


def test_one_of_several_gpus_is_used(
    tiny_llama: Path, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTConfig

    check = SFTConfig.__post_init__

    def find_two_gpus(arguments: Any) -> None:
        check(arguments)
        assert arguments.device.type == "cpu"  # from here on transformers keeps what it found
        arguments._n_gpu = 2

    config = make_config(tiny_llama)
    job = first_job(config, tmp_path)
    expected, expected_weights = train_weights(job, base, config, tmp_path)
    monkeypatch.setattr(SFTConfig, "__post_init__", find_two_gpus)
    trained, weights = train_weights(job, base, config, tmp_path)
    assert (trained.n_steps, trained.step_curve) == (expected.n_steps, expected.step_curve)
    assert all(torch.equal(weights[name], expected_weights[name]) for name in expected_weights)


def test_seed_decides_the_weights(tiny_llama: Path, base: LoadedBase, tmp_path: Path) -> None:
    config = make_config(tiny_llama, languages=("en",), seeds=(17, 42))
    (_, one), (_, other) = (train_weights(job, base, config, tmp_path) for job in make_jobs(config, tmp_path))
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"batch_size": 2, "gradient_accumulation": 2}])
def test_ways_to_save_memory_change_no_loss(
    changes: dict[str, Any], tiny_llama: Path, base: LoadedBase, tmp_path: Path
) -> None:
    plain = make_config(tiny_llama)
    saving = make_config(tiny_llama, **changes)
    expected, _ = train_weights(first_job(plain, tmp_path), base, plain, tmp_path)
    found, _ = train_weights(first_job(saving, tmp_path), base, saving, tmp_path)
    for curve, key in (("step_curve", "loss"), ("epoch_curve", "validation_loss")):
        pairs = zip(getattr(found, curve), getattr(expected, curve), strict=True)
        assert all(one[key] == pytest.approx(other[key], rel=1e-4) for one, other in pairs)


def test_models_that_cap_their_logits_are_trained_on_capped_logits(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "gemma", "gemma3")
    edit_json(folder / "config.json", final_logit_softcapping=2.0)
    config = make_config(folder, epochs=3, batch_size=16)
    base = load_base(folder, config.training)
    job = first_job(config, tmp_path)
    expected, expected_validation = reference_losses(job, base, config)
    trained, _ = train_weights(job, base, config, tmp_path)
    assert [point["loss"] for point in trained.step_curve] == pytest.approx(expected, rel=1e-3)
    validation = [trained.untrained_validation_loss, trained.epoch_curve[-1]["validation_loss"]]
    assert validation == pytest.approx(expected_validation, rel=1e-3)


def test_of_a_model_of_images_the_decoder_is_trained_alone(tiny_gemma3_vision: Path, tmp_path: Path) -> None:
    config = make_config(tiny_gemma3_vision, epochs=3, batch_size=16)
    base = load_base(tiny_gemma3_vision, config.training)
    job = first_job(config, tmp_path)
    expected, expected_validation = reference_losses(job, base, config)
    trained, weights = train_weights(job, base, config, tmp_path)
    assert [point["loss"] for point in trained.step_curve] == pytest.approx(expected, rel=2e-4)
    validation = [trained.untrained_validation_loss, trained.epoch_curve[-1]["validation_loss"]]
    assert validation == pytest.approx(expected_validation, rel=2e-4)
    assert all(".language_model.layers." in name for name in weights)


def test_weights_of_the_best_epoch_are_kept_and_training_stops_early(
    tiny_llama: Path, base: LoadedBase, tmp_path: Path
) -> None:
    # a learning rate that breaks the model: the first epoch is the best
    config = make_config(tiny_llama, learning_rate=0.3, epochs=6, early_stopping_patience=2, max_grad_norm=1e3)
    events: list[Any] = []
    trained, weights = train_weights(first_job(config, tmp_path), base, config, tmp_path, events.append)
    epochs = [event for event in events if isinstance(event, EpochDone)]
    losses = [event.validation_loss for event in epochs]
    best = losses.index(min(losses)) + 1
    assert trained.best_epoch == best < 6
    assert trained.best_validation_loss == min(losses)
    assert len(epochs) == best + 2
    shorter = config.model_copy(
        update={"training": config.training.model_copy(update={"epochs": 6, "early_stopping_patience": None})}
    )
    stop_after = [event for event in events if isinstance(event, StepDone)]
    assert [event.step for event in stop_after] == list(range(1, trained.n_steps + 1))
    again, weights_again = train_weights(first_job(shorter, tmp_path), base, shorter, tmp_path)
    assert again.n_steps == 12
    if again.best_epoch == best:
        assert all(torch.equal(weights[name], weights_again[name]) for name in weights)


def test_loss_that_is_not_finite_names_step_and_learning_rate(
    tiny_llama: Path, base: LoadedBase, tmp_path: Path
) -> None:
    config = make_config(tiny_llama, learning_rate=1e30, max_grad_norm=1e30, warmup_ratio=0.0)
    with pytest.raises(UserError, match=r"loss is (nan|inf) at step 2 with learning rate"):
        train_weights(first_job(config, tmp_path), base, config, tmp_path)


def test_validation_loss_that_is_not_finite_is_an_error(tiny_llama: Path, base: LoadedBase, tmp_path: Path) -> None:
    config = make_config(tiny_llama, learning_rate=1e30, max_grad_norm=1e30, warmup_ratio=0.0, batch_size=8)
    with pytest.raises(UserError, match=r"validation loss is (nan|inf) after step 1"):
        train_weights(first_job(config, tmp_path), base, config, tmp_path)


OUT_OF_MEMORY = (
    RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: out of memory"),
    MemoryError(),
    torch.OutOfMemoryError("CUDA"),
)


def test_every_kind_of_lack_of_memory_halves_the_batch_and_trains_the_same(
    tiny_llama: Path, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tiny_llama, data={"max_train_items": 9}, batch_size=32)
    job = first_job(config, tmp_path)
    expected, _ = train_weights(job, base, config, tmp_path)
    make_trainer, errors = adapter_training.make_trainer, iter(OUT_OF_MEMORY)

    def with_little_memory(*args: Any, shape: BatchShape, **kwargs: Any) -> Any:
        trainer = make_trainer(*args, shape=shape, **kwargs)
        step = trainer.training_step

        def guarded(model: Any, inputs: dict[str, torch.Tensor], *rest: Any) -> Any:
            if len(inputs["input_ids"]) > 1 and trainer.state.global_step == 1:
                raise next(errors)
            return step(model, inputs, *rest)

        trainer.training_step = guarded
        return trainer

    monkeypatch.setattr(adapter_training, "make_trainer", with_little_memory)
    events: list[Any] = []
    trained, _ = train_weights(job, base, config, tmp_path, events.append)
    halvings = [event for event in events if isinstance(event, BatchHalved)]
    shapes = [(16, 2), (8, 4), (4, 8), (2, 16), (1, 32)]
    assert [(event.batch_size, event.gradient_accumulation) for event in halvings] == shapes
    assert trained.batch == BatchShape(batch_size=1, gradient_accumulation=32)
    found = [point["loss"] for point in trained.step_curve]
    assert found == pytest.approx([point["loss"] for point in expected.step_curve], rel=1e-4)


def test_the_adapter_of_a_quantised_base_stays_float32(
    tiny_llama: Path, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tiny_llama, learning_rate=5e-5)
    job = first_job(config, tmp_path)
    _, expected = train_weights(job, base, config, tmp_path)
    make_trainer = adapter_training.make_trainer

    def on_a_quantised_base(model: Any, *args: Any, **kwargs: Any) -> Any:
        quantised = model.get_base_model()
        quantised.is_loaded_in_4bit = True  # by which TRL knows such a base
        try:
            return make_trainer(model, *args, **kwargs)
        finally:
            del quantised.is_loaded_in_4bit

    monkeypatch.setattr(adapter_training, "make_trainer", on_a_quantised_base)
    _, weights = train_weights(job, base, config, tmp_path)
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())


def test_memory_that_does_not_hold_one_example_is_an_error(
    tiny_llama: Path, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(adapter_training, "make_trainer", no_memory)
    config = make_config(tiny_llama)
    with pytest.raises(UserError, match=r"memory ran out at a batch of 1; set training\.gradient_checkpointing"):
        train_weights(first_job(config, tmp_path), base, config, tmp_path)


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    tiny_llama: Path, base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(adapter_training, "make_trainer", broken)
    config = make_config(tiny_llama)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train_weights(first_job(config, tmp_path), base, config, tmp_path)


@pytest.mark.parametrize(
    ("shape", "smaller"), [((8, 1), (4, 2)), ((8, 3), (4, 6)), ((5, 1), (1, 5)), ((6, 2), (3, 4)), ((1, 8), None)]
)
def test_halved_batches_keep_the_examples_of_a_step(shape: tuple[int, int], smaller: tuple[int, int] | None) -> None:
    halved = BatchShape(batch_size=shape[0], gradient_accumulation=shape[1]).halved()
    assert (halved and (halved.batch_size, halved.gradient_accumulation)) == smaller


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_settings_of_the_recipe_arrive_at_the_trainer(
    schedule: str, tiny_llama: Path, base: LoadedBase, tmp_path: Path
) -> None:
    config = make_config(
        tiny_llama,
        schedule=schedule,
        learning_rate=1e-3,
        warmup_ratio=0.5,
        weight_decay=0.01,
        max_grad_norm=0.7,
        epochs=3,
        batch_size=2,
        gradient_accumulation=2,
    )
    job = first_job(config, tmp_path)
    shape = BatchShape(batch_size=2, gradient_accumulation=2)
    with attached_adapter(base, config.lora, 17) as model:
        trainer = adapter_training.make_trainer(
            model, job, base, config.training, shape=shape, scratch=tmp_path / "scratch"
        )
        arguments = trainer.args
        assert (arguments.learning_rate, arguments.weight_decay, arguments.max_grad_norm) == (1e-3, 0.01, 0.7)
        assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (2, 2)
        assert (arguments.seed, arguments.data_seed, arguments.num_train_epochs) == (17, 17, 3)
        assert arguments.report_to == []
        trainer.create_optimizer_and_scheduler(num_training_steps=6)
        rates = []
        for _ in range(6):
            trainer.optimizer.step()
            trainer.lr_scheduler.step()
            rates.append(trainer.lr_scheduler.get_last_lr()[0])
    assert rates[:3] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3])
    after = {"linear": [2 / 3, 1 / 3, 0], "cosine": [0.75, 0.25, 0], "constant": [1, 1, 1]}[schedule]
    assert rates[3:] == pytest.approx([1e-3 * share for share in after])


def test_items_that_stand_solved_in_prompts_are_left_out_of_training_if_asked_for(
    tiny_llama: Path, tmp_path: Path
) -> None:
    def n_examples(**prompts: object) -> list[int]:
        jobs = make_jobs(make_config(tiny_llama, prompts=prompts), tmp_path)
        return [len(job.data.train) + len(job.data.validation) for job in jobs]

    assert n_examples(shots=2) == [6, 6]
    assert n_examples(shots=2, shots_held_out=True) == [4, 4]
    with pytest.raises(UserError, match=r"prompts\.shots is 7, and a cell has 6 train items; lower it"):
        n_examples(shots=7, shots_held_out=True)
