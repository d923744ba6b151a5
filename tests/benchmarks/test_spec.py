"""Task files: what they accept and how their faults read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from transfergrid.benchmarks.spec import read_task_spec
from transfergrid.grid import UserError

GOOD: dict[str, Any] = {
    "name": "mine",
    "id": "id",
    "gold": "gold",
    "choices": {"column": "options"},
    "formats": {"train": {"context": "{{ q }}"}, "eval": {"context": "{{ q }}"}},
}


def _write(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**GOOD, **changes}), encoding="utf-8")
    return path


def test_rows_are_found_relative_to_the_task_file(tmp_path: Path) -> None:
    spec = read_task_spec(_write(tmp_path / "t.yaml", rows={"path": "data"}))
    assert spec.rows is not None
    assert spec.rows.path == tmp_path / "data"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"naem": 1}, r"naem: unknown key 'naem'; expected one of .*did you mean 'name'\?"),
        ({"choices": {}}, r"choices: give either 'templates' \(one per option\) or 'column'"),
        ({"formats": {"eval": {"context": "x"}}}, r"format 'train' is missing; expected 'train' and 'eval'"),
        ({"rows": {}}, r"rows: give either 'path' \(a folder\) or 'hub'"),
        ({"name": "My Task"}, r"name: .*not 'My Task'"),
        (
            {"formats": {"train": {"context": "x"}, "eval": {"context": "x", "metrics": ["acc"]}}},
            r"formats.eval.metrics: unknown key 'metrics'; expected one of \['context', .*'primary_metric', 'supervise'\]",
        ),
        ({"title": "Mine"}, r"title: unknown key 'title'"),
        (
            {"formats": {"train": {"context": "x"}, "eval": {"context": "x", "continuation": "letters"}}},
            r"formats.eval.continuation: unknown key 'continuation'; .*; did you mean 'continuations'\?",
        ),
        (
            {"rows": {"hub": {"dataset": "d", "confg": "x"}}},
            r"rows.hub.confg: unknown key 'confg'; expected one of \['config', 'dataset', .*did you mean 'config'\?",
        ),
        (
            {"hub": {"dataset": "d", "config": "{lang}"}},
            r"hub.config: '\{lang\}' cannot be filled in; only \{language\} is replaced in it",
        ),
        ({"hub": {"dataset": "d", "config": "{"}}, r"hub.config: '\{' cannot be filled in"),
        (
            {"rows": {"hub": {"dataset": "d", "splits": {"train": "train"}}}},
            r"rows.hub: split 'test' is missing in splits; expected 'train' and 'test'",
        ),
        (
            {"formats": {"train": {"context": "x"}, "eval": {"context": "x", "continuations": "letter"}}},
            r"'letter' is not accepted; expected one of \['choices', 'letters'\]; did you mean 'letters'\?",
        ),
    ],
)
def test_a_fault_in_a_task_file_says_what_is_accepted(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_task_spec(_write(tmp_path / "t.yaml", **changes))


def test_all_faults_of_a_task_file_are_in_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has 2 fault\(s\):\n  - .*\n  - "):
        read_task_spec(_write(tmp_path / "t.yaml", naem=1, id=3))


def test_a_missing_task_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task file '.*none.yaml' cannot be read"):
        read_task_spec(tmp_path / "none.yaml")


def test_a_key_that_stands_twice_in_a_task_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("name: mine\nid: a\nid: b\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"task file '.*t.yaml': key 'id' stands in line 2 and again in line 3"):
        read_task_spec(path)


def test_a_task_file_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("a: [", encoding="utf-8")
    with pytest.raises(UserError, match=r"task file '.*t.yaml' is not YAML"):
        read_task_spec(path)
