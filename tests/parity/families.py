"""Rows for stock tasks of lm-evaluation-harness, in the columns of their data sets; the tasks' own files stay as they are."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

TASKS = (
    "belebele_swh_Latn",
    "xnli_sw",
    "xcopa_sw",
    "xstorycloze_ar",
    "paws_de",
    "arc_de",
    "hellaswag_de",
    "truthfulqa_de_mc1",
    "truthfulqa_de_mc2",
    "global_mmlu_sw",
    "mmlu_anatomy",
    "lambada_openai",
    "winogrande",
    "wikitext",
)
"""One task, or group of tasks, of every family."""

_WORDS = [
    "the",
    "river",
    "maji",
    "mti",
    "kwa",
    "hiyo",
    "Haus",
    "und",
    "Straße",
    "جميل",
    "كتاب",
    "العلم",
    "水",
    "山",
    "नदी",
    "घर",
    "because",
    "never",
    "often",
    "1984",
    "water's",
    "café",
    "running",
    "l'été",
    "niño",
    "Москва",
    "light-house",
    "don't",
    "ok",
]
N_ROWS = 4

Row = dict[str, Any]


class _Writer:
    """Made-up text, the same for the same row."""

    def __init__(self, split: str, number: int) -> None:
        self.number = number
        self.random = random.Random(f"{split} {number}")

    def text(self, low: int = 3, high: int = 9) -> str:
        return " ".join(self.random.choices(_WORDS, k=self.random.randint(low, high)))

    def texts(self, count: int, low: int = 1, high: int = 5) -> list[str]:
        return [f"{self.text(low, high)} {index}" for index in range(count)]

    def pick(self, values: Any) -> Any:
        return self.random.choice(list(values))


def _belebele(w: _Writer) -> Row:
    answers = {f"mc_answer{index + 1}": text for index, text in enumerate(w.texts(4))}
    return {
        "flores_passage": w.text(8, 20),
        "question": f" {w.text()}? ",
        **answers,
        "correct_answer_num": w.pick("1234"),
    }


def _arc(w: _Writer) -> Row:
    options = dict(zip(("option_a", "option_b", "option_c", "option_d"), w.texts(4), strict=True))
    last = w.text(1, 3) if w.number % 2 else None
    return {
        "id": f"q{w.number}",
        "instruction": f"[edit] {w.text()} ?",
        **options,
        "option_e": last,
        "answer": w.pick("ABCD"),
    }


def _hellaswag(w: _Writer) -> Row:
    start = {"ctx_a": f"{w.text()} [title] {w.text(1, 2)}", "ctx_b": w.text(1, 3), "activity_label": w.text(1, 2)}
    return {"ind": w.number, **start, "endings": w.texts(4), "label": str(w.pick(range(4)))}


def _truthfulqa(w: _Writer) -> Row:
    first, second = w.texts(3), w.texts(5)
    mc1 = {"mc1_targets_choices": first, "mc1_targets_labels": [1, 0, 0]}
    return {"question": f"{w.text()}?", **mc1, "mc2_targets_choices": second, "mc2_targets_labels": [1, 1, 0, 0, 0]}


def _global_mmlu(w: _Writer) -> Row:
    options = dict(zip(("option_a", "option_b", "option_c", "option_d"), w.texts(4), strict=True))
    kinds = ("Business", "Humanities", "Medical", "Other", "STEM", "Social Sciences")
    asked = {"sample_id": f"s{w.number}", "question": f"{w.text()}\n", "answer": w.pick("ABCD")}
    return {**asked, "subject_category": kinds[w.number % len(kinds)], **options}


ROWS: dict[str, Callable[[_Writer], Row]] = {
    "facebook/belebele": _belebele,
    "facebook/xnli": lambda w: {"premise": w.text(), "hypothesis": w.text(2, 5), "label": w.pick(range(3))},
    "cambridgeltl/xcopa": lambda w: {
        "premise": f"{w.text()}.",
        "choice1": f"A {w.text(1, 4)}",
        "choice2": f"The {w.text(1, 4)}",
        "question": w.pick(("cause", "effect")),
        "label": w.pick((0, 1)),
    },
    "juletxara/xstory_cloze": lambda w: {
        **{f"input_sentence_{index}": f"{text}." for index, text in enumerate(w.texts(4), start=1)},
        **dict(zip(("sentence_quiz1", "sentence_quiz2"), w.texts(2), strict=True)),
        "answer_right_ending": w.pick((1, 2)),
    },
    "google-research-datasets/paws-x": lambda w: {
        "id": w.number,
        "sentence1": f"{w.text()}.",
        "sentence2": f"The {w.text()}.",
        "label": w.pick((0, 1)),
    },
    "alexandrainst/m_arc": _arc,
    "alexandrainst/m_hellaswag": _hellaswag,
    "alexandrainst/m_truthfulqa": _truthfulqa,
    "CohereForAI/Global-MMLU-Lite": _global_mmlu,
    "cais/mmlu": lambda w: {"question": f"{w.text()}? ", "choices": w.texts(4), "answer": w.pick(range(4))},
    "EleutherAI/lambada_openai": lambda w: {"text": w.text(6, 12)},
    "allenai/winogrande": lambda w: {
        "sentence": f"{w.text()} _ {w.text()}.",
        "option1": w.pick(("Anna", "the tree")),
        "option2": "maji",
        "answer": w.pick("12"),
    },
    "EleutherAI/wikitext_document_level": lambda w: {
        "page": f" = {w.text(1, 2)} = \n {w.text(20, 90)} , {w.text()} . "
    },
}
"""How a row of a data set is made."""

_SPLITS = ("train", "validation", "val", "eval", "dev", "test")


def load_rows(path: str, name: str | None = None, **ignored: Any) -> Any:
    """Stand in for ``datasets.load_dataset``: every split of a data set, from memory."""
    from datasets import Dataset, DatasetDict

    n_rows = 24 if "MMLU" in path else N_ROWS
    make = ROWS[path]
    return DatasetDict(
        {split: Dataset.from_list([make(_Writer(f"{split} {name}", n)) for n in range(n_rows)]) for split in _SPLITS}
    )


def serve_rows(patch: pytest.MonkeyPatch) -> None:
    """Let the harness load these rows in place of the hub's."""
    import datasets

    patch.setattr(datasets, "load_dataset", load_rows)
