"""Tasks of lm-evaluation-harness in the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from transfergrid.config.file import load_config, parse_config
from transfergrid.config.selection import Narrowing, select
from transfergrid.config.settings import GridConfig
from transfergrid.config.text import render_config
from transfergrid.grid import UserError


def read(*tasks: Any, **more: Any) -> GridConfig:
    return parse_config({"tasks": list(tasks), **more}, origin="grid.yaml")


@pytest.mark.parametrize(
    ("entry", "name", "in_harness"),
    [
        ({"lm_eval": "xnli_{language}"}, "xnli", ("xnli_sw",)),
        ({"lm_eval": "xnli", "as": "xnli_{language}"}, "xnli", ("xnli_sw",)),
        ({"lm_eval": "Global-MMLU_{language}_x", "as": "lite"}, "lite", ("Global-MMLU_sw_x",)),
        ({"lm_eval": "Global-MMLU_{language}_x"}, "global_mmlu_x", ("Global-MMLU_sw_x",)),
        ({"lm_eval": "xnli"}, "xnli", ("xnli_sw",)),
        ({"lm_eval": "belebele_{language}", "languages": {"sw": "swh_Latn"}}, "belebele", ("belebele_swh_Latn",)),
        ({"lm_eval": "boolq", "languages": ["sw"]}, "boolq", ("boolq_sw", "boolq")),
    ],
)
def test_an_entry_of_tasks_names_a_task_of_the_harness(
    entry: dict[str, Any], name: str, in_harness: tuple[str, ...]
) -> None:
    config = read("hellaswag", {"languages": ["sw", "hi"], **entry})
    assert config.tasks == ("hellaswag", name)
    assert config.harness_tasks[name].names("sw") == in_harness


def test_a_task_has_the_languages_of_the_configuration_or_its_own() -> None:
    config = read("hellaswag", {"lm_eval": "a"}, {"lm_eval": "b", "languages": ["sw"]}, languages=["de", "en"])
    names = [cell.name for cell in config.grid.cells]
    assert names == ["hellaswag-de", "hellaswag-en", "a-de", "a-en", "b-sw"]
    assert config.grid.every_language == ("de", "en", "sw")
    assert [cell.name for cell in select(config, Narrowing(languages=("sw",))).targets] == ["b-sw"]


def test_a_task_that_is_not_trained_on_is_only_a_target() -> None:
    config = read("hellaswag", {"lm_eval": "b", "train": False}, languages=["de"])
    selection = select(config, Narrowing())
    assert [source.name for source in selection.sources] == ["base", "hellaswag-de"]
    assert [target.name for target in selection.targets] == ["hellaswag-de", "b-de"]
    with pytest.raises(UserError, match=r"unknown cell 'b-de'; expected one of \['hellaswag-de'\]"):
        read("hellaswag", {"lm_eval": "b", "train": False}, languages=["de"], sources={"x": {"train_on": ["b-de"]}})


def test_a_configuration_with_tasks_of_the_harness_is_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text('tasks: [{lm_eval: "xnli_{language}", languages: [sw, hi], include_path: own}]\n')
    config = load_config(path)
    assert config.harness_tasks["xnli"].include_path == tmp_path / "own"
    path.write_text(render_config(config, "again"))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        ([{"lm_eval": "hellaswag"}], "there is another task 'hellaswag'; give the harness' task a name of its own"),
        ([{"lm_eval": "xnli"}, {"lm_eval": "xnli_{language}"}], "two tasks are named 'xnli'; give one of them another"),
        ([{"lm_eval": "9_{language}"}], "task name '9' is not usable; give one with 'as'"),
        ([{"lm_eval": "xnli_{lang}"}], r"'xnli_\{lang\}' cannot be filled in; only \{language\} is replaced"),
        ([{"lm_eval": "xnli_*"}], r"'xnli_\*' is a pattern; name one task"),
        ([{"lm_eval": "xnli", "languages": ["sw", "sw"]}], "'sw' stands there twice"),
        ([{"lm_eval": "xnli", "languages": ["xx"]}], "unknown language 'xx'; expected ISO 639 codes"),
        ([{"lm_eval": "xnli", "languages": []}], "harness_tasks.xnli.languages"),
        ([{"lm_eval": "xnli", "metric": 3}], "harness_tasks.xnli.metric"),
        ([{"lm_eval": "xnli", "shots": 3}], "unknown key 'shots'; expected one of"),
        ([{"task": "xnli"}], r"names no task; expected a name or \{lm_eval: NAME"),
        ([{"lm_eval": "xnli", "as": 3}], "names no task"),
        ([3], "tasks.0: expected text, not 3"),
    ],
)
def test_what_is_no_task_is_refused_in_words(tasks: list[Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read(*tasks)
