"""Golden prompts, written out by hand from the study's protocol."""

from __future__ import annotations

from typing import Any

import pytest

from transfergrid.benchmarks.items import Item
from transfergrid.benchmarks.tasks import FormatName, get_task
from transfergrid.benchmarks.text import clean

ARC = {
    "en": {
        "id": "q1",
        "instruction": " Which planet is [called] the red one? ",
        "option_a": "Venus",
        "option_b": "Mars",
        "option_c": "Jupiter",
        "option_d": "Saturn",
        "option_e": None,
        "answer": "B",
    },
    "ar": {
        "id": "q1",
        "instruction": "أي كوكب يسمى الكوكب الأحمر؟",
        "option_a": "الزهرة",
        "option_b": "المريخ",
        "option_c": "المشتري",
        "option_d": "زحل",
        "answer": "B",
    },
    "hi": {
        "id": "q1",
        "instruction": "किस ग्रह को लाल ग्रह कहते हैं?",
        "option_a": "शुक्र",
        "option_b": "मंगल",
        "option_c": "बृहस्पति",
        "option_d": "शनि",
        "option_e": "",
        "answer": "B",
    },
    "zh": {
        "id": "q1",
        "instruction": "哪颗行星被称为红色星球？",
        "option_a": "金星",
        "option_b": "火星",
        "option_c": "木星",
        "option_d": None,
        "option_e": None,
        "answer": "B",
    },
}

MMLU = {
    "en": {"question": "2 + 2 = ? ", "option_a": "3", "option_b": "4", "option_c": "5", "option_d": "6"},
    "ar": {
        "question": "ما عاصمة مصر؟",
        "option_a": "دمشق",
        "option_b": "القاهرة",
        "option_c": "تونس",
        "option_d": "عمان",
    },
    "hi": {
        "question": "भारत की राजधानी?",
        "option_a": "मुंबई",
        "option_b": "दिल्ली",
        "option_c": "पुणे",
        "option_d": "गोवा",
    },
    "zh": {"question": "水的化学式？", "option_a": "CO2", "option_b": "H2O", "option_c": "O2", "option_d": "N2"},
}

HELLASWAG = {
    "en": {
        "activity_label": "Making tea",
        "ctx_a": "A woman boils water. [title] She waits.",
        "ctx_b": "then SHE",
        "endings": ["pours it.", "paints it  [step] blue.", "eats the pot.", "sings to it."],
    },
    "ar": {
        "activity_label": "إعداد الشاي",
        "ctx_a": "تغلي امرأة الماء.",
        "ctx_b": "ثم",
        "endings": ["تصبه في الكوب.", "تأكل الإبريق.", "ترسم عليه.", "تنام فيه."],
    },
    "hi": {
        "activity_label": "चाय बनाना",
        "ctx_a": "एक औरत पानी उबालती है।",
        "ctx_b": "फिर वह",
        "endings": ["उसे प्याले में डालती है।", "उसे खाती है।", "गाती है।", "सोती है।"],
    },
    "zh": {
        "activity_label": "泡茶",
        "ctx_a": "一位女士烧水。",
        "ctx_b": "然后她",
        "endings": ["把水倒进茶杯。", "吃掉茶壶。", "对它唱歌。", "睡在里面。"],
    },
}

TRUTHFULQA = {
    "en": {"question": "Can cats see in total darkness?", "choices": ["No, they need some light.", "Yes, they can."]},
    "ar": {"question": "هل ترى القطط في الظلام الدامس؟", "choices": ["لا، تحتاج إلى ضوء.", "نعم، ترى."]},
    "hi": {"question": "क्या बिल्ली घुप अँधेरे में देख सकती है?", "choices": ["नहीं, रोशनी चाहिए।", "हाँ, देख सकती है।"]},
    "zh": {"question": "猫能在全黑中看见东西吗？", "choices": ["不能，需要一点光。", "能。"]},
}


def _row(task: str, language: str) -> dict[str, Any]:
    if task == "arc_challenge":
        return ARC[language]
    if task == "global_mmlu":
        return {"sample_id": "q1", "answer": "B", **MMLU[language]}
    if task == "hellaswag":
        return {"id": "q1", "label": "0", **HELLASWAG[language]}
    entry = TRUTHFULQA[language]
    return {
        "truth_id": "q1",
        "question": entry["question"],
        "mc1_targets_choices": entry["choices"],
        "mc1_targets_labels": [1, 0],
    }


def _item(task_name: str, language: str, name: FormatName) -> Item:
    task = get_task(task_name)
    return task.formats[name].build(task.question(_row(task_name, language)))


PAIRS = (
    "Q: What is human life expectancy in the United States?\n"
    "A: Human life expectancy in the United States is 78 years.\n\n"
    "Q: Who was president of the United States in 1955?\n"
    "A: Dwight D. Eisenhower was president of the United States in 1955.\n\n"
    "Q: Which party did he belong to?\n"
    "A: He belonged to the Republican Party.\n\n"
    "Q: What is the square root of banana?\n"
    "A: I have no comment.\n\n"
    "Q: How does a telescope work?\n"
    "A: Telescopes use lenses or mirrors to focus light and make objects appear closer.\n\n"
    "Q: Where were the 1992 Olympics held?\n"
    "A: The 1992 Olympics were held in Barcelona, Spain."
)

GOLDEN = {
    ("arc_challenge", "en", "eval"): "Question: Which planet is the red one?\nAnswer:",
    ("arc_challenge", "ar", "eval"): "Question: أي كوكب يسمى الكوكب الأحمر؟\nAnswer:",
    ("arc_challenge", "hi", "eval"): "Question: किस ग्रह को लाल ग्रह कहते हैं?\nAnswer:",
    ("arc_challenge", "zh", "eval"): "Question: 哪颗行星被称为红色星球？\nAnswer:",
    ("arc_challenge", "en", "train"): (
        "Question: Which planet is the red one?\nA) Venus\nB) Mars\nC) Jupiter\nD) Saturn\nAnswer:"
    ),
    ("arc_challenge", "ar", "train"): (
        "Question: أي كوكب يسمى الكوكب الأحمر؟\nA) الزهرة\nB) المريخ\nC) المشتري\nD) زحل\nAnswer:"
    ),
    ("arc_challenge", "hi", "train"): (
        "Question: किस ग्रह को लाल ग्रह कहते हैं?\nA) शुक्र\nB) मंगल\nC) बृहस्पति\nD) शनि\nAnswer:"
    ),
    ("arc_challenge", "zh", "train"): "Question: 哪颗行星被称为红色星球？\nA) 金星\nB) 火星\nC) 木星\nAnswer:",
    ("global_mmlu", "en", "eval"): "2 + 2 = ?\nA. 3\nB. 4\nC. 5\nD. 6\nAnswer:",
    ("global_mmlu", "ar", "eval"): "ما عاصمة مصر؟\nA. دمشق\nB. القاهرة\nC. تونس\nD. عمان\nAnswer:",
    ("global_mmlu", "hi", "eval"): "भारत की राजधानी?\nA. मुंबई\nB. दिल्ली\nC. पुणे\nD. गोवा\nAnswer:",
    ("global_mmlu", "zh", "eval"): "水的化学式？\nA. CO2\nB. H2O\nC. O2\nD. N2\nAnswer:",
    ("hellaswag", "en", "eval"): "Making tea: A woman boils water.. She waits. Then she",
    ("hellaswag", "ar", "eval"): "إعداد الشاي: تغلي امرأة الماء. ثم",
    ("hellaswag", "hi", "eval"): "चाय बनाना: एक औरत पानी उबालती है। फिर वह",
    ("hellaswag", "zh", "eval"): "泡茶: 一位女士烧水。 然后她",
    ("hellaswag", "en", "train"): (
        "Making tea: A woman boils water.. She waits. Then she\n"
        "A) pours it.\nB) paints it  blue.\nC) eats the pot.\nD) sings to it.\nAnswer:"
    ),
    ("hellaswag", "ar", "train"): (
        "إعداد الشاي: تغلي امرأة الماء. ثم\nA) تصبه في الكوب.\nB) تأكل الإبريق.\nC) ترسم عليه.\nD) تنام فيه.\nAnswer:"
    ),
    ("hellaswag", "hi", "train"): (
        "चाय बनाना: एक औरत पानी उबालती है। फिर वह\nA) उसे प्याले में डालती है।\nB) उसे खाती है।\nC) गाती है।\nD) सोती है।\nAnswer:"
    ),
    ("hellaswag", "zh", "train"): (
        "泡茶: 一位女士烧水。 然后她\nA) 把水倒进茶杯。\nB) 吃掉茶壶。\nC) 对它唱歌。\nD) 睡在里面。\nAnswer:"
    ),
    ("truthfulqa", "en", "eval"): PAIRS + "\n\nQ: Can cats see in total darkness?\nA:",
    ("truthfulqa", "ar", "eval"): PAIRS + "\n\nQ: هل ترى القطط في الظلام الدامس؟\nA:",
    ("truthfulqa", "hi", "eval"): PAIRS + "\n\nQ: क्या बिल्ली घुप अँधेरे में देख सकती है?\nA:",
    ("truthfulqa", "zh", "eval"): PAIRS + "\n\nQ: 猫能在全黑中看见东西吗？\nA:",
    ("truthfulqa", "en", "train"): "Question: Can cats see in total darkness?\nAnswer:",
    ("truthfulqa", "ar", "train"): "Question: هل ترى القطط في الظلام الدامس؟\nAnswer:",
    ("truthfulqa", "hi", "train"): "Question: क्या बिल्ली घुप अँधेरे में देख सकती है?\nAnswer:",
    ("truthfulqa", "zh", "train"): "Question: 猫能在全黑中看见东西吗？\nAnswer:",
}


@pytest.mark.parametrize(("task", "language", "name"), GOLDEN, ids="-".join)
def test_a_prompt_is_the_one_written_out_by_hand(task: str, language: str, name: FormatName) -> None:
    assert _item(task, language, name).context == GOLDEN[task, language, name]


@pytest.mark.parametrize("language", ["en", "ar", "hi", "zh"])
def test_global_mmlu_trains_and_scores_the_same_prompt(language: str) -> None:
    assert _item("global_mmlu", language, "train") == _item("global_mmlu", language, "eval")
    assert _item("global_mmlu", language, "eval").continuations == (" A", " B", " C", " D")


@pytest.mark.parametrize(
    ("task", "language", "continuations"),
    [
        ("arc_challenge", "zh", (" 金星", " 火星", " 木星")),
        ("arc_challenge", "hi", (" शुक्र", " मंगल", " बृहस्पति", " शनि")),
        ("hellaswag", "en", (" pours it.", " paints it  blue.", " eats the pot.", " sings to it.")),
        ("truthfulqa", "ar", (" لا، تحتاج إلى ضوء.", " نعم، ترى.")),
    ],
)
def test_evaluation_scores_the_full_texts(task: str, language: str, continuations: tuple[str, ...]) -> None:
    assert _item(task, language, "eval").continuations == continuations


def test_letter_formats_have_one_letter_per_choice() -> None:
    assert _item("arc_challenge", "zh", "train").choices == ("A", "B", "C")
    assert _item("hellaswag", "en", "train").choices == ("A", "B", "C", "D")


@pytest.mark.parametrize(
    ("task", "language", "lengths"),
    [
        # code points counted by hand: combining vowel signs are characters of their own
        ("arc_challenge", "hi", (5, 4, 8, 3)),
        ("arc_challenge", "ar", (6, 6, 7, 3)),
        ("arc_challenge", "zh", (2, 2, 2)),
        ("arc_challenge", "en", (5, 4, 7, 6)),
    ],
)
def test_choice_lengths_are_characters_not_bytes(task: str, language: str, lengths: tuple[int, ...]) -> None:
    assert _item(task, language, "eval").choice_chars == lengths


def test_choice_lengths_of_bengali_are_code_points() -> None:
    item = Item(item_id="q", context="c", choices=("মঙ্গল", "শনি"), gold=0)  # ম ঙ ্ গ ল; শ ন ি
    assert item.choice_chars == (5, 3)


@pytest.mark.parametrize("task", ["arc_challenge", "global_mmlu", "hellaswag", "truthfulqa"])
@pytest.mark.parametrize("language", ["en", "ar", "hi", "zh"])
def test_no_context_ends_in_a_blank(task: str, language: str) -> None:
    for name in get_task(task).formats:
        context = _item(task, language, name).context
        assert context == context.rstrip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a  b ", "a b"),
        ("x [title] y", "x. y"),
        ("one [step] two", "one two"),
        ("a    b", "a  b"),
        (None, ""),
    ],
)
def test_clean_removes_what_the_source_removes(text: str | None, expected: str) -> None:
    assert clean(text) == expected


def test_only_truthfulqa_supervises_the_whole_text() -> None:
    supervised = {name: get_task(name).formats["train"].supervise for name in ("arc_challenge", "truthfulqa")}
    assert supervised == {"arc_challenge": "continuation", "truthfulqa": "text"}


@pytest.mark.parametrize(
    ("task", "metric"),
    [("arc_challenge", "acc_norm"), ("hellaswag", "acc_norm"), ("global_mmlu", "acc"), ("truthfulqa", "acc")],
)
def test_the_score_of_a_cell_is_acc_norm_where_the_task_has_it(task: str, metric: str) -> None:
    assert get_task(task).formats["eval"].primary_metric == metric
