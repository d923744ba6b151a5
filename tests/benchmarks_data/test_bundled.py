"""The bundled items: counts, alignment, scripts, golds, and no text that should not be there."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from transfergrid.benchmarks.rows import SPLITS, Split, read_jsonl
from transfergrid.benchmarks.tasks import Question, get_task
from transfergrid.grid import LANGUAGES, TASKS

ROOT = Path(str(files("transfergrid.benchmarks_data")))
SCRIPTS = {"ar": "ARABIC", "bn": "BENGALI", "hi": "DEVANAGARI", "zh": "CJK"}
COUNTS = {"train": 16, "test": 32}
COLUMNS = {
    "arc_challenge": {"id", "instruction", "option_a", "option_b", "option_c", "option_d", "option_e", "answer"},
    "global_mmlu": {"sample_id", "subject", "question", "option_a", "option_b", "option_c", "option_d", "answer"},
    "hellaswag": {"id", "activity_label", "ctx_a", "ctx_b", "endings", "label"},
    "truthfulqa": {"truth_id", "question", "mc1_targets_choices", "mc1_targets_labels"},
}
CELLS = [(task, language) for task in TASKS for language in LANGUAGES]


def _questions(task: str, language: str, split: Split) -> list[Question]:
    return [get_task(task).question(row) for row in read_jsonl(ROOT / task / language / f"{split}.jsonl")]


def _texts(question: Question) -> str:
    shown = [value for key, value in question.row.items() if key not in {"id", "sample_id", "truth_id", "subject"}]
    flat = [text for value in shown for text in (value if isinstance(value, list) else [value])]
    return "\n".join(text for text in flat if isinstance(text, str) and len(text) > 1)


@pytest.mark.parametrize(("task", "language"), CELLS)
@pytest.mark.parametrize("split", SPLITS)
def test_a_cell_has_its_items_in_the_hubs_columns(task: str, language: str, split: Split) -> None:
    rows = read_jsonl(ROOT / task / language / f"{split}.jsonl")
    assert len(rows) == COUNTS[split]
    assert {frozenset(row) for row in rows} == {frozenset(COLUMNS[task])}
    raw = (ROOT / task / language / f"{split}.jsonl").read_text(encoding="utf-8")
    assert unicodedata.is_normalized("NFC", raw)
    assert "\\u" not in raw


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", SPLITS)
def test_ids_and_golds_line_up_across_languages(task: str, split: Split) -> None:
    keys = {
        language: [(q.item_id, q.gold, len(q.choices)) for q in _questions(task, language, split)]
        for language in LANGUAGES
    }
    assert all(keys[language] == keys["en"] for language in LANGUAGES)


@pytest.mark.parametrize("task", TASKS)
def test_train_and_test_are_apart(task: str) -> None:
    train, test = ({q.item_id for q in _questions(task, "en", split)} for split in SPLITS)
    assert not train & test


@pytest.mark.parametrize(("task", "language"), CELLS)
def test_no_item_stands_there_twice_and_choices_differ(task: str, language: str) -> None:
    questions = [question for split in SPLITS for question in _questions(task, language, split)]
    contexts = [get_task(task).formats["eval"].build(question).context for question in questions]
    assert len(set(contexts)) == len(contexts)
    for question in questions:
        assert len({choice.casefold() for choice in question.choices}) == len(question.choices), question.item_id


@pytest.mark.parametrize(("task", "language"), CELLS)
def test_texts_are_in_the_languages_own_script(task: str, language: str) -> None:
    expected = SCRIPTS.get(language, "LATIN")
    texts = "".join(_texts(q) for split in SPLITS for q in _questions(task, language, split))
    letters = [unicodedata.name(char, "?").split()[0] for char in texts if char.isalpha()]
    assert Counter(letters)[expected] / len(letters) > 0.97


@pytest.mark.parametrize(("task", "language"), [cell for cell in CELLS if cell[1] != "en"])
def test_a_translation_is_not_the_english_text(task: str, language: str) -> None:
    for split in SPLITS:
        english = [get_task(task).formats["train"].build(q).context for q in _questions(task, "en", split)]
        own = [get_task(task).formats["train"].build(q).context for q in _questions(task, language, split)]
        assert not set(english) & set(own)


@pytest.mark.parametrize(("task", "language"), CELLS)
def test_no_blank_placeholder_or_stray_space(task: str, language: str) -> None:
    for split in SPLITS:
        for question in _questions(task, language, split):
            text = _texts(question)
            assert not re.search(r"lorem ipsum|TODO|XXX|[Pp]laceholder|translation of", text), question.item_id
            assert not re.search(r"  | $|^ ", text, re.MULTILINE), question.item_id


@pytest.mark.parametrize("task", ["arc_challenge", "global_mmlu", "hellaswag"])
@pytest.mark.parametrize("split", SPLITS)
def test_the_right_choice_is_spread_evenly(task: str, split: Split) -> None:
    golds = Counter(question.gold for question in _questions(task, "en", split))
    assert golds == dict.fromkeys(range(4), COUNTS[split] // 4)


def test_truthfulqa_puts_the_true_choice_first_and_has_three_to_six() -> None:
    questions = [question for split in SPLITS for question in _questions("truthfulqa", "en", split)]
    assert {question.gold for question in questions} == {0}
    assert {len(question.choices) for question in questions} == {3, 4, 5, 6}


@pytest.mark.parametrize("task", ["arc_challenge", "hellaswag"])
def test_the_longest_choice_is_not_mostly_the_right_one(task: str) -> None:
    questions = [question for split in SPLITS for question in _questions(task, "en", split)]
    longest = sum(max(q.choices, key=len) == q.choices[q.gold] for q in questions)
    assert longest <= len(questions) / 2
