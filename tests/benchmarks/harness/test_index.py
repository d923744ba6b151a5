"""Tasks of the harness that cannot be used are refused in words."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from transfergrid.benchmarks.harness.index import LoadedTask, TaskIndex, require_harness
from transfergrid.grid import UserError

_TASK = """
task: mine_sw
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list: [{metric: acc}]
"""


@pytest.fixture
def index(tmp_path: Path) -> TaskIndex:
    """One task of our own; the harness' 14,000 are not read."""
    from lm_eval.tasks import TaskManager

    (tmp_path / "rows.jsonl").write_text('{"question": "Q", "choices": ["a", "b"], "gold": 1}\n')
    (tmp_path / "mine.yaml").write_text(_TASK.replace("ROWS", str(tmp_path / "rows.jsonl")))
    (tmp_path / "other.yaml").write_text(_TASK.replace("ROWS", "gone.jsonl").replace("mine_sw", "gone_sw"))
    return TaskIndex(TaskManager(include_path=str(tmp_path), include_defaults=False))


def test_names_and_patterns_mean_tasks_each_once(index: TaskIndex) -> None:
    assert index.match(["mine_sw", "*_sw"]) == ["mine_sw", "gone_sw"]
    with pytest.raises(
        UserError, match=r"unknown task 'mine_zw' of lm-evaluation-harness .*; did you mean 'mine_sw'\?"
    ):
        index.match(["mine_zw"])
    with pytest.raises(UserError, match="--tasks names no task"):
        index.match([])


def test_a_task_is_loaded_once_and_its_fingerprint_follows_its_file_and_its_data(
    index: TaskIndex, tmp_path: Path
) -> None:
    loaded = index.load("mine_sw")
    assert loaded.load(["anything"]) is loaded.content
    assert loaded.fingerprint() == index.load("mine_sw").fingerprint()
    loaded.tasks["mine_sw"].set_config("doc_to_text", "Question: {{question}}")
    assert loaded.fingerprint() != index.load("mine_sw").fingerprint()


def test_the_task_of_the_documentation_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    root = Path(__file__).parents[3]
    page = (root / "docs" / "lm-eval.md").read_text(encoding="utf-8")
    (tmp_path / "task.yaml").write_text(page.partition("# tasks/my_arc_hi.yaml\n")[2].partition("```")[0])
    monkeypatch.chdir(root)
    loaded = TaskIndex(TaskManager(include_path=str(tmp_path), include_defaults=False)).load("my_arc_hi")
    (task,) = loaded.tasks.values()
    task.set_config("num_fewshot", 3)
    task.set_fewshot_seed(1234)
    task.build_all_requests()
    assert len(task.instances) == 4 * 32


def test_data_that_cannot_be_had_is_named(index: TaskIndex) -> None:
    with pytest.raises(
        UserError, match=r"the data of task 'gone_sw' cannot be loaded: FileNotFoundError: .*; connect once"
    ):
        index.load("gone_sw")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("no route"), "the data of task 'x' cannot be loaded: ConnectionError: no route"),
        (ModuleNotFoundError("No module named 'antlr4'"), "task 'x' needs a Python package .* 'antlr4'; install it"),
        (KeyError("dataset_path"), "task 'x' cannot be read: KeyError: 'dataset_path'; correct its YAML file"),
    ],
)
def test_what_stops_a_task_from_loading_is_one_sentence(error: Exception, reason: str) -> None:
    def fail(names: list[str]) -> Any:
        raise error

    with pytest.raises(UserError, match=reason):
        TaskIndex(SimpleNamespace(load=fail, task_index={})).load("x")


def _serve(**traits: Any) -> Callable[[list[str]], Any]:
    return lambda names: {"tasks": {"x": SimpleNamespace(**traits)}, "groups": {}}


def test_tasks_about_images_and_tasks_that_run_code_are_refused() -> None:
    images = TaskIndex(SimpleNamespace(load=_serve(MULTIMODAL=True), task_index={}))
    with pytest.raises(UserError, match="task 'x' asks about images"):
        images.load("x")
    code = TaskIndex(SimpleNamespace(load=_serve(UNSAFE_CODE=True), task_index={}))
    with pytest.raises(UserError, match="task 'x' runs code that the model writes; give --confirm_run_unsafe_code"):
        code.load("x")
    assert isinstance(code.load("x", allow_unsafe=True), LoadedTask)


def test_a_folder_of_tasks_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"include_path '.*nowhere' is no folder"):
        TaskIndex.read(tmp_path / "nowhere")


def test_a_machine_without_the_harness_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    importer = builtins.__import__

    def refuse(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "lm_eval":
            raise ImportError("No module named 'lm_eval'")
        return importer(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"is not installed .*; install it with pip install 'transfergrid\[lm-eval\]'"):
        require_harness()
