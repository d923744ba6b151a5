"""Documents of the harness become rows as the harness itself asks them; what cannot be a cell is refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.harness_folder import documents, write_languages, write_task
from transfergrid.benchmarks.harness.index import TaskFinder, TaskIndex
from transfergrid.benchmarks.harness.rows import CellRows, HarnessReader
from transfergrid.config.harness import HarnessTask
from transfergrid.config.settings import GridConfig
from transfergrid.grid import UserError


def read(folder: Path, name: str, **settings: Any) -> CellRows:
    asked = HarnessTask(lm_eval=name, languages={"sw": "sw"}, include_path=folder)
    return HarnessReader(GridConfig(**settings)).read(TaskFinder().find(asked)["sw"], "sw", train=True)


@pytest.fixture
def only_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness' own 14,000 tasks are not read."""
    whole = TaskIndex.read.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(TaskIndex, "read", classmethod(lambda cls, path, *, stock: whole(cls, path, stock=False)))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("shots", [0, 2])
def test_prompts_choices_and_golds_are_the_harness_own(tmp_path: Path, chat: bool, shots: int) -> None:
    folder = write_languages(tmp_path / "tasks", "mine", ["sw"], description="Think.\n\n", target_delimiter="  ")
    rows = read(folder, "mine", prompts={"eval_chat_template": chat, "shots": shots, "shots_as_turns": True}).test
    (task,) = TaskIndex.read(folder, stock=False).load("mine_sw").tasks.values()
    task.set_config("num_fewshot", shots)
    task.set_fewshot_seed(1234)
    task.build_all_requests(
        apply_chat_template=chat, fewshot_as_multiturn=chat, chat_template=lambda chat, **more: json.dumps(chat)
    )
    expected = [request.arguments for request in task.instances]
    found = []
    for row in rows:
        asked = row["asked"]
        messages = [{"role": role, "content": text} for role, text in asked.get("messages", [])]
        context = json.dumps(messages) if chat else asked["context"]
        found += [(context, asked["delimiter"] + choice) for choice in row["choices"]]
    assert found == expected
    assert [row["gold"] for row in rows] == [document["gold"] for document in documents("test", "sw", 5)]
    assert rows[0]["context"] == "Think.\n\nQuestion: sw test 0?\nAnswer:"
    assert rows[0]["delimiter"] == "  "
    assert chat or rows[0]["asked"]["context"].count("Question:") == shots + 1


def test_a_task_says_its_shots_and_a_task_that_forbids_them_gets_none(tmp_path: Path) -> None:
    for own, asked, expected in ((1, 0, 1), (1, 2, 2), (0, 2, 0)):
        folder = write_languages(tmp_path / f"{own}{asked}", "mine", ["sw"], num_fewshot=own)
        rows = read(folder, "mine", prompts={"eval_chat_template": False, "shots": asked}).test
        assert rows[0]["asked"]["context"].count("Question:") == expected + 1


def test_documents_without_an_id_are_named_by_their_content(tmp_path: Path) -> None:
    nameless = [{key: value for key, value in row.items() if key != "id"} for row in documents("test", "sw", 3)]
    write_task(tmp_path, "mine_sw", [*nameless, nameless[0]])
    ids = [row["id"] for row in read(tmp_path, "mine").test]
    assert ids[3] == f"{ids[0]}-2"
    assert len(set(ids)) == 4
    linked = [{**row, "link": "w", "question_number": n} for n, row in enumerate(nameless)]
    write_task(tmp_path, "mine_sw", linked)
    assert [row["id"] for row in read(tmp_path, "mine").test] == ["w:0", "w:1", "w:2"]


def test_the_tasks_of_a_group_are_one_cell(tmp_path: Path, only_own: None) -> None:
    folder = write_languages(tmp_path / "tasks", "one", ["sw"])
    write_languages(folder, "two", ["sw"], metric_list=[{"metric": "acc"}])
    (folder / "both.yaml").write_text("group: both_sw\ntask: [one_sw, two_sw]\n")
    rows = read(folder, "both")
    assert [row["id"] for row in rows.test][::5] == ["one_/test-0", "two_/test-0"]
    assert (len(rows.test), len(rows.train), rows.metric) == (10, 8, "acc")
    assert read(folder, "one").metric == "acc_norm"


def test_of_a_large_training_split_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    folder = write_languages(tmp_path / "tasks", "mine", ["sw"])
    every = [row["id"] for row in read(folder, "mine").train]
    few = [row["id"] for row in read(folder, "mine", data={"max_train_items": 2}).train]
    assert (len(every), len(few)) == (4, 2)
    assert set(few) < set(every)


PROMPTS = {"doc_to_text": "{{gold}}", "doc_to_target": "so {{question}}", "metric_list": [{"metric": "acc"}]}
TEXT = {"output_type": "loglikelihood", "doc_to_target": " {{choices[gold]}}", "metric_list": [{"metric": "acc"}]}
WHOLE = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}"}


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(
    ("settings", "metric", "n_requests"),
    [
        (PROMPTS, "acc", 3),
        ({"metric_list": [{"metric": "acc_mutual_info"}]}, "lm_eval_acc", 6),
        (TEXT, "lm_eval_acc", 1),
        ({**WHOLE, "metric_list": [{"metric": "bits_per_byte"}]}, "lm_eval", 1),
    ],
)
def test_requests_with_prompts_of_their_own_are_the_harness_own(
    tmp_path: Path, settings: dict[str, Any], metric: str, n_requests: int, chat: bool
) -> None:
    folder = write_languages(tmp_path / "tasks", "mine", ["sw"], **settings)
    rows = read(folder, "mine", prompts={"eval_chat_template": chat, "shots": 1, "shots_as_turns": True})
    (task,) = TaskIndex.read(folder, stock=False).load("mine_sw").tasks.values()
    task.set_config("num_fewshot", 1)
    task.set_fewshot_seed(1234)
    task.build_all_requests(
        apply_chat_template=chat, fewshot_as_multiturn=chat, chat_template=lambda chat, **more: json.dumps(chat)
    )
    found: list[tuple[str, ...]] = []
    for row in rows.test:
        assert len(row["asked"]["requests"]) == n_requests
        for prompt, text in row["asked"]["requests"]:
            is_chat = isinstance(prompt, list)
            said = json.dumps([{"role": role, "content": each} for role, each in prompt]) if is_chat else prompt
            found.append((text,) if prompt is None else (said, text))
    assert found == [request.arguments for request in task.instances]
    assert rows.metric == metric
    assert len(rows.train) == (0 if settings.get("output_type") == "loglikelihood_rolling" else 4)


def test_a_metric_may_be_chosen_among_those_that_a_task_reports(tmp_path: Path) -> None:
    metrics = [{"metric": name} for name in ("acc", "acc_norm", "acc_mutual_info", "acc_bytes", "f1")]
    folder = write_languages(tmp_path / "tasks", "mine", ["sw"], metric_list=metrics)
    task = TaskFinder().find(HarnessTask(lm_eval="mine", languages={"sw": "sw"}, include_path=folder))["sw"]
    reader = HarnessReader(GridConfig())
    chosen = {None: "acc_norm", "acc": "acc", "acc_mutual_info": "lm_eval_acc", "acc_bytes": "lm_eval_acc"}
    for name, metric in chosen.items():
        rows = reader.read(task, "sw", train=False, metric=name)
        assert rows.metric == metric
        assert ("requests" in rows.test[0]["asked"]) == (name == "acc_mutual_info")
    with pytest.raises(UserError, match=r"not by 'f1'; set its 'metric' to one of \['acc', 'acc_norm', 'acc_mut"):
        reader.read(task, "sw", train=False, metric="f1")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"output_type": "generate_until"}, "'mine_sw' of lm-evaluation-harness generates text"),
        (
            {"output_type": "loglikelihood_rolling"},
            r"is measured by \['acc', 'acc_norm'\], and a cell takes 'acc_norm'",
        ),
        ({"output_type": "vision"}, "has output_type 'vision', and a cell takes"),
        ({"doc_to_target": "{{[gold, 7]}}"}, r"document 'train-0' of task 'mine_sw' has the target \[0, 7\]; expected"),
        ({"metric_list": [{"metric": "f1"}]}, r"is measured by \['f1'\], and a cell takes 'acc_norm'"),
        ({**PROMPTS, "metric_list": [{"metric": "acc_norm"}]}, r"is measured by \['acc_norm'\], and a cell takes"),
        ({**TEXT, "doc_to_target": "{{[question, question]}}"}, "has the target .*'sw train 0.*expected a text"),
        ({"doc_to_target": "{{question}}"}, "document 'train-0' of task 'mine_sw' has the target 'sw train 0"),
        ({"doc_to_text": "{{question.nothing()}}"}, "task 'mine_sw' cannot be read: UndefinedError"),
        ({"doc_to_text": "{{quest}}"}, "task 'mine_sw' cannot be read: UndefinedError: 'quest' is undefined"),
        ({"doc_to_choice": "question"}, "document 'train-0' of task 'mine_sw' has the choices 'sw train 0"),
        ({"num_fewshot": 9}, "fails on task 'mine_sw' with ValueError: Sample larger than population"),
        ({"dataset_kwargs": {"data_files": "gone.jsonl"}}, "the data of task 'mine_sw' cannot be loaded"),
    ],
)
def test_what_cannot_be_a_cell_is_refused_in_words(settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    folder = write_languages(tmp_path / "tasks", "mine", ["sw"], **settings)
    with pytest.raises(UserError, match=reason):
        read(folder, "mine")


def test_data_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = write_languages(tmp_path / "tasks", "mine", ["sw"])
    (folder / "mine_sw.test.jsonl").write_text('{"id": 1,\n')
    with pytest.raises(UserError, match="the data of task 'mine_sw' cannot be loaded: DatasetGenerationError"):
        read(folder, "mine")


def test_an_unknown_task_is_named_with_its_neighbour(tmp_path: Path, only_own: None) -> None:
    folder = write_languages(tmp_path / "tasks", "mine", ["sw"])
    with pytest.raises(UserError, match=r"unknown task 'mime_sw' of lm-evaluation-harness .*did you mean 'mine_sw'\?"):
        read(folder, "mime")
