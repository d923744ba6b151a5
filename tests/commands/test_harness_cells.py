"""Tasks of lm-evaluation-harness through the command line: planned, trained on, scored and analysed as cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from tests.benchmarks.harness_folder import documents, write_languages, write_task
from tests.engine.sweeps import FakeMaker
from tests.models import make_tiny_adapter
from transfergrid.benchmarks.harness.index import TaskIndex
from transfergrid.benchmarks.materialise import materialise
from transfergrid.cli import main
from transfergrid.config.file import load_config
from transfergrid.config.selection import Narrowing, select
from transfergrid.engine.harness.requests import RequestScorer, encode_pairs
from transfergrid.engine.models.tokenizer import load_tokenizer
from transfergrid.engine.planning.tokenisation import tokenise_items
from transfergrid.engine.scorers import multi_lora
from transfergrid.engine.work.base_model import tokenisation_settings
from transfergrid.engine.work.cells import load_cell
from transfergrid.grid import Cell, UserError
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.jobs import prepare_jobs


def write_grid(root: Path, model: Path, *entries: dict[str, Any], **settings: Any) -> Path:
    tasks = [{"include_path": str(root / "tasks"), **entry} for entry in entries]
    path = root / "grid.yaml"
    given = {"models": [{"path": str(model), "name": "tiny"}], "tasks": tasks, "seeds": [17], **settings}
    path.write_text(yaml.safe_dump(given), encoding="utf-8")
    return path


def grid(command: str, root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        main, [command, "--config", str(root / "grid.yaml"), "--run", str(root / "run"), *arguments]
    )


@pytest.mark.parametrize(("chat", "shots", "prefix"), [(False, 2, None), (True, 2, None), (True, 0, "It is")])
def test_a_cell_asks_the_tokens_that_the_harness_asks_our_model(
    tiny_llama: Path, tmp_path: Path, chat: bool, shots: int, prefix: str | None
) -> None:
    from transfergrid.engine.harness.model import TransferGridLM

    write_languages(tmp_path / "tasks", "mine", ["sw"], description="Think.\n\n", gen_prefix=prefix)
    prompts = {"eval_chat_template": chat, "shots": shots, "shots_as_turns": True}
    config = load_config(write_grid(tmp_path, tiny_llama, {"lm_eval": "mine", "languages": ["sw"]}, prompts=prompts))
    materialise(config, tmp_path / "data")
    tokenizer = load_tokenizer(tiny_llama)
    items = load_cell(config, tmp_path / "data", Cell("mine", "sw")).items
    cell = tokenise_items(tokenizer, items, tokenisation_settings(config, tiny_llama)).results
    model = TransferGridLM(RequestScorer(None, tokenizer, tiny_llama))  # type: ignore[arg-type]
    (task,) = TaskIndex.read(tmp_path / "tasks", stock=False).load("mine_sw").tasks.values()
    task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(1234)
    task.build_all_requests(
        apply_chat_template=chat, fewshot_as_multiturn=chat, chat_template=model.apply_chat_template
    )
    asked, _ = encode_pairs(tokenizer, [request.args for request in task.instances])
    assert [(item.context, each) for item in cell for each in item.continuations] == asked  # type: ignore[union-attr]


def test_cells_of_the_harness_are_planned_scored_and_analysed_beside_a_target_that_none_is_trained_on(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multi_lora, "MultiLora", lambda config: FakeMaker())
    write_languages(tmp_path / "tasks", "mine", ["sw", "yo"])
    write_task(tmp_path / "tasks", "mine_hi", documents("test", "hi", 6), documents("train", "hi", 4))
    write_task(tmp_path / "tasks", "other", documents("test", "sw", 5))
    mine = {"lm_eval": "mine", "languages": ["sw", "yo", "hi"]}
    write_grid(tmp_path, tiny_llama, mine, {"lm_eval": "other", "languages": ["sw"], "train": False})
    for language in ("sw", "yo", "hi"):
        make_tiny_adapter(tiny_llama, RunFolder(tmp_path / "run").adapter("tiny", 17, Cell("mine", language)))
    planned = grid("plan", tmp_path, "--json")
    assert '"n_cells": 16' in planned.output, planned.output
    result = grid("eval", tmp_path)
    assert result.exit_code == 0, result.output
    assert "16 of 16 cells are in the store" in result.output
    analysed = grid("analyze", tmp_path)
    assert analysed.exit_code == 0, analysed.output
    assert "share no items by id, so that MT-CL compares different questions" in " ".join(analysed.output.split())


def test_a_model_without_a_chat_template_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    write_languages(tmp_path / "tasks", "mine", ["sw"])
    config = load_config(write_grid(tmp_path, tiny_llama, {"lm_eval": "mine", "languages": ["sw"]}))
    materialise(config, tmp_path / "data")
    items = load_cell(config, tmp_path / "data", Cell("mine", "sw")).items
    tokenizer = load_tokenizer(tiny_llama)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"has no chat template; set prompts\.eval_chat_template to false, or use"):
        tokenise_items(tokenizer, items, tokenisation_settings(config, tiny_llama))


def test_a_task_without_a_training_split_is_not_trained_on_and_shots_that_differ_are_not_held_out(
    tiny_llama: Path, tmp_path: Path
) -> None:
    (tmp_path / "tasks").mkdir()
    write_task(tmp_path / "tasks", "mine_sw", documents("test", "sw", 5))
    entry = {"lm_eval": "mine", "languages": ["sw"]}
    config = load_config(write_grid(tmp_path, tiny_llama, entry))
    run = RunFolder(tmp_path / "run")
    materialise(config, run.data)
    with pytest.raises(UserError, match=r"tiny, mine-sw: lm-evaluation-harness has no training split of this task"):
        prepare_jobs(config, run, select(config, Narrowing()))
    write_languages(tmp_path / "tasks", "mine", ["sw"])
    config = load_config(write_grid(tmp_path, tiny_llama, entry, prompts={"shots": 1, "shots_held_out": True}))
    materialise(config, run.data)
    with pytest.raises(UserError, match="shots_held_out: true cannot hold out the shots of a task of lm-evaluation"):
        prepare_jobs(config, run, select(config, Narrowing()))


@pytest.mark.parametrize("train_format", ["train", "eval"])
def test_adapters_are_trained_on_letters_or_on_the_harness_prompt(
    tiny_llama: Path, tmp_path: Path, train_format: str
) -> None:
    write_languages(tmp_path / "tasks", "mine", ["sw"])
    entry = {"lm_eval": "mine", "languages": ["sw"]}
    config = load_config(write_grid(tmp_path, tiny_llama, entry, prompts={"train_format": train_format}))
    run = RunFolder(tmp_path / "run")
    materialise(config, run.data)
    (job,) = prepare_jobs(config, run, select(config, Narrowing()))
    tokenizer = load_tokenizer(tiny_llama)
    learnt = {tokenizer.decode([token for token in example.labels if token >= 0]) for example in job.data.train}
    assert learnt <= (
        {" A", " B", " C"} if train_format == "train" else {" a", " be 0", " be 1", " be 2", " be 3", " c"}
    )
    assert all("Question: sw train" in tokenizer.decode(example.input_ids) for example in job.data.train)


@pytest.mark.parametrize("train_format", ["train", "eval"])
def test_what_has_prompts_of_its_own_is_learnt_in_both_formats_and_whole_texts_are_not(
    tiny_llama: Path, tmp_path: Path, train_format: str
) -> None:
    prompts = {"doc_to_text": "{{gold}}", "doc_to_target": "is {{question}}", "metric_list": [{"metric": "acc"}]}
    text = {
        "output_type": "loglikelihood",
        "doc_to_target": " so {{choices[gold]}}",
        "metric_list": [{"metric": "acc"}],
    }
    whole = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}"}
    whole["metric_list"] = [{"metric": "byte_perplexity"}]  # type: ignore[assignment]
    for name, settings in (("prompts", prompts), ("text", text), ("whole", whole)):
        write_languages(tmp_path / "tasks", name, ["sw"], **settings)
    entries = [{"lm_eval": name, "languages": ["sw"]} for name in ("prompts", "text", "whole")]
    given = {"train_format": train_format, "train_chat_template": False}
    config = load_config(write_grid(tmp_path, tiny_llama, *entries, prompts=given))
    run = RunFolder(tmp_path / "run")
    materialise(config, run.data)
    tokenizer = load_tokenizer(tiny_llama)
    learnt = {}
    for name in ("prompts", "text"):
        (job,) = prepare_jobs(config, run, select(config, Narrowing(sources=(f"{name}-sw",))))
        for example in job.data.train:
            read = sum(token < 0 for token in example.labels)
            parts = example.input_ids[:read], [token for token in example.labels if token >= 0]
            learnt[name] = tuple(map(tokenizer.decode, parts))
    assert learnt["prompts"][0] in ("a", "be 0", "be 1", "be 2", "be 3", "c")
    assert learnt["prompts"][1].startswith(" is sw train")
    assert learnt["text"][0].startswith("Question: sw train")
    assert learnt["text"][1] in (" so a", " so be 1", " so c")
    with pytest.raises(UserError, match=r"tiny, whole-sw: .* whole texts without an answer to learn; set train: false"):
        prepare_jobs(config, run, select(config, Narrowing(sources=("whole-sw",))))
    asked = config.model_copy(update={"prompts": config.prompts.model_copy(update={"eval_format": "train"})})
    with pytest.raises(UserError, match="task 'whole' scores texts among which none is chosen"):
        load_cell(asked, run.data, Cell("whole", "sw"))
