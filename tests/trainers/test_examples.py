from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.models import make_tiny_tokenizer
from transfergrid.benchmarks.items import Item
from transfergrid.benchmarks.rows import read_jsonl
from transfergrid.benchmarks.tasks import get_task
from transfergrid.grid import UserError
from transfergrid.trainers.examples import (
    IGNORED,
    ExampleSettings,
    TrainingExample,
    build_examples,
    hash_examples,
    split_validation,
)

DATA = Path(__file__).parents[2] / "benchmarks_data"
LETTER_TASKS = ("arc_challenge", "global_mmlu", "hellaswag")


@pytest.fixture(scope="module", params=["llama", "qwen2", "gemma3"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"), request.param)


@pytest.fixture(scope="module")
def llama_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"), "llama")


def bundled_item(task: str, language: str) -> Item:
    chosen = get_task(task)
    row = read_jsonl(DATA / task / language / "train.jsonl")[0]
    return chosen.formats["train"].build(chosen.question(row))


def learnt_text(tokenizer: Any, example: TrainingExample) -> str:
    text: str = tokenizer.decode([label for label in example.labels if label != IGNORED])
    return text


@pytest.mark.parametrize("task", LETTER_TASKS)
@pytest.mark.parametrize("language", ["en", "hi", "zh"])
def test_only_the_answer_letter_is_learnt_and_no_bos_is_read(task: str, language: str, tokenizer: Any) -> None:
    item = bundled_item(task, language)
    (example,) = build_examples(tokenizer, [item], ExampleSettings(max_length=4096))
    assert tokenizer.decode(example.input_ids) == f"{item.context} {'ABCD'[item.gold]}"
    assert item.context.endswith("Answer:")
    letter = tokenizer(" " + "ABCD"[item.gold], add_special_tokens=False)["input_ids"]
    assert example.labels == (IGNORED,) * (len(example.input_ids) - len(letter)) + tuple(letter)
    assert example.input_ids[0] != tokenizer.bos_token_id


@pytest.mark.parametrize("language", ["en", "ar", "zh"])
def test_truthfulqa_learns_the_whole_text_with_the_familys_bos(language: str, tokenizer: Any) -> None:
    item = bundled_item("truthfulqa", language)
    settings = ExampleSettings(max_length=4096, supervise="text")
    (example,) = build_examples(tokenizer, [item], settings)
    assert example.labels == example.input_ids
    text = tokenizer.decode(example.input_ids, skip_special_tokens=True)
    assert text == f"{item.context} {item.choices[item.gold]}"
    assert text.startswith("Question: ")
    assert "\nAnswer: " in text
    assert (example.input_ids[0] == tokenizer.bos_token_id) is (tokenizer.bos_token_id is not None)


def test_the_cut_follows_the_joint_encoding(llama_tokenizer: Any) -> None:
    # ":\n" is one token, ":" alone another: the context's tokens are not the start of the joint encoding
    item = Item(item_id="1", context="x:", choices=("A", "B"), gold=0, delimiter="\n")
    (example,) = build_examples(llama_tokenizer, [item], ExampleSettings(max_length=64))
    joint = llama_tokenizer("x:\nA", add_special_tokens=False)["input_ids"]
    assert list(example.input_ids) == joint
    assert list(example.labels) == [IGNORED, IGNORED, *joint[2:]]


def test_a_choice_without_tokens_of_its_own_is_encoded_alone(llama_tokenizer: Any) -> None:
    item = Item(item_id="1", context="i", choices=("n", "x"), gold=0, delimiter="")  # "in" is one token
    (example,) = build_examples(llama_tokenizer, [item], ExampleSettings(max_length=64))
    assert llama_tokenizer.convert_ids_to_tokens(example.input_ids) == ["i", "n"]
    assert example.labels == (IGNORED, example.input_ids[1])


def test_white_space_at_the_end_of_a_context_is_learnt_with_the_choice(llama_tokenizer: Any) -> None:
    item = Item(item_id="1", context="Answer: ", choices=("A", "B"), gold=0, delimiter="")
    (example,) = build_examples(llama_tokenizer, [item], ExampleSettings(max_length=64))
    assert learnt_text(llama_tokenizer, example) == " A"


def test_chat_template_wraps_the_context_and_drops_the_delimiter(llama_tokenizer: Any) -> None:
    item = bundled_item("arc_challenge", "en")
    (example,) = build_examples(llama_tokenizer, [item], ExampleSettings(max_length=4096, chat_template=True))
    text = llama_tokenizer.decode(example.input_ids)
    assert text.startswith("<|begin_of_text|><|start|>user\nQuestion:")
    assert text.endswith(f"<|start|>assistant\n{'ABCD'[item.gold]}")
    assert example.input_ids.count(llama_tokenizer.bos_token_id) == 1
    assert learnt_text(llama_tokenizer, example).strip() == "ABCD"[item.gold]


def test_a_tokenizer_without_a_chat_template_names_the_setting_of_training(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer(tmp_path, "llama")
    tokenizer.chat_template = None
    settings = ExampleSettings(max_length=4096, chat_template=True)
    with pytest.raises(UserError, match=r"has no chat template; set prompts.train_chat_template to false"):
        build_examples(tokenizer, [bundled_item("hellaswag", "de")], settings)


@pytest.mark.parametrize("supervise", ["continuation", "text"])
def test_end_token_is_learnt_only_when_asked_for(supervise: Any, llama_tokenizer: Any) -> None:
    item = bundled_item("truthfulqa", "en")
    for asked in (False, True):
        settings = ExampleSettings(max_length=4096, supervise=supervise, supervise_end_token=asked)
        (example,) = build_examples(llama_tokenizer, [item], settings)
        assert (example.labels[-1] == llama_tokenizer.eos_token_id) is asked


def test_too_long_examples_lose_their_beginning_and_never_the_answer(llama_tokenizer: Any) -> None:
    item = bundled_item("arc_challenge", "en")
    (whole,) = build_examples(llama_tokenizer, [item], ExampleSettings(max_length=4096))
    (cut,) = build_examples(llama_tokenizer, [item], ExampleSettings(max_length=20))
    assert cut.input_ids == whole.input_ids[-20:]
    assert cut.labels == whole.labels[-20:]
    assert cut.n_truncated_tokens == len(whole.input_ids) - 20
    assert whole.n_truncated_tokens == 0


def test_too_long_text_keeps_its_bos(llama_tokenizer: Any) -> None:
    item = Item(item_id="1", context="Question: " + "q" * 50, choices=("yes", "no"), gold=0)
    (example,) = build_examples(llama_tokenizer, [item], ExampleSettings(max_length=20, supervise="text"))
    assert len(example.input_ids) == 20
    assert example.input_ids[0] == llama_tokenizer.bos_token_id
    assert llama_tokenizer.decode(example.input_ids).endswith("qqq yes")


def test_too_long_examples_are_refused_when_they_may_not_be_cut(llama_tokenizer: Any) -> None:
    items = [bundled_item("arc_challenge", "en")]
    with pytest.raises(UserError, match=r"1 item\(s\) have more than 20 tokens: \['arc-001'\]"):
        build_examples(llama_tokenizer, items, ExampleSettings(max_length=20, truncation="refuse"))


def test_an_answer_that_does_not_fit_is_refused(llama_tokenizer: Any) -> None:
    item = Item(item_id="long", context="Q", choices=("x" * 30, "y"), gold=0)
    with pytest.raises(UserError, match=r"leaves no room for its question in 20 tokens: \['long'\]"):
        build_examples(llama_tokenizer, [item], ExampleSettings(max_length=20))


@pytest.mark.parametrize(("n_items", "fraction"), [(300, 0.1), (215, 0.1), (16, 0.1), (7, 0.5)])
def test_validation_split_equals_that_of_datasets(n_items: int, fraction: float) -> None:
    from datasets import Dataset

    parts = Dataset.from_dict({"index": range(n_items)}).train_test_split(test_size=fraction, seed=42)
    assert split_validation(n_items, fraction, 42) == (list(parts["train"]["index"]), list(parts["test"]["index"]))


def test_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(UserError, match=r"1 train items cannot be split .* 0\.1"):
        split_validation(1, 0.1, 42)


def test_hash_of_examples_follows_ids_and_labels() -> None:
    one = TrainingExample((1, 2), (IGNORED, 2))
    assert hash_examples([one]) == hash_examples([TrainingExample((1, 2), (IGNORED, 2), 5)])
    assert hash_examples([one]) != hash_examples([TrainingExample((1, 2), (1, 2))])
    assert hash_examples([one]) != hash_examples([one, one])
