from __future__ import annotations

from typing import Any

import pytest

from tests.engine.tokenizers import STYLES, gemma_style, llama_style, qwen_style
from transfergrid.benchmarks.items import Item, Request
from transfergrid.engine.interfaces import TokenisedItem
from transfergrid.engine.models.tokenizer import TokenisationSettings, prefix_token
from transfergrid.engine.planning.tokenisation import Unscorable, tokenise_items
from transfergrid.grid import UserError

PLAIN = TokenisationSettings(max_length=500)
CHAT = TokenisationSettings(max_length=500, chat_template=True)
BOS = {"llama": "<|begin_of_text|>", "qwen": None, "gemma": "<bos>"}


@pytest.fixture(params=sorted(STYLES))
def style(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make_item(context: str, *choices: str, delimiter: str = " ", item_id: str = "q1") -> Item:
    return Item(item_id=item_id, context=context, choices=choices, gold=0, delimiter=delimiter)


def tokenise(tokenizer: Any, item: Item, settings: TokenisationSettings) -> TokenisedItem:
    (result,) = tokenise_items(tokenizer, [item], settings).results
    assert isinstance(result, TokenisedItem)
    return result


def words(tokenizer: Any, tokens: tuple[int, ...]) -> list[str]:
    return [
        word.replace("Ġ", " ").replace("Ċ", "\n").replace("▁", " ") for word in tokenizer.convert_ids_to_tokens(tokens)
    ]


@pytest.mark.parametrize("settings", [PLAIN, CHAT])
def test_there_is_exactly_one_bos_or_none_where_the_family_has_none(style: str, settings: TokenisationSettings) -> None:
    tokenizer = STYLES[style]()
    result = tokenise(tokenizer, make_item("Is it?\nAnswer:", "A", "B"), settings)
    tokens = words(tokenizer, result.context)
    if BOS[style] is None:
        assert not set(tokens) & {"<|endoftext|>"}
    else:
        assert tokens[0] == BOS[style]
        assert tokens.count(str(BOS[style])) == 1
    assert all(BOS[style] not in words(tokenizer, choice) for choice in result.continuations)


def test_without_a_template_the_delimiter_belongs_to_the_choice(style: str) -> None:
    tokenizer = STYLES[style]()
    result = tokenise(tokenizer, make_item("Is it?\nAnswer:", "A", "B so"), PLAIN)
    assert "".join(words(tokenizer, result.context)) == (BOS[style] or "") + "Is it?\nAnswer:"
    assert [words(tokenizer, choice) for choice in result.continuations] == [[" A"], [" B", " ", "s", "o"]]


@pytest.mark.parametrize(
    ("make", "context", "first_choice"),
    [
        (
            llama_style,
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nIs it?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>",
            ["\n\n", "A"],
        ),
        (
            qwen_style,
            "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\nIs it?<|im_end|>\n<|im_start|>assistant",
            ["\n", "A"],
        ),
        (gemma_style, "<bos><start_of_turn>user\nIs it?<end_of_turn>\n<start_of_turn>model", ["\n", "A"]),
    ],
)
def test_under_a_template_the_last_newlines_go_to_the_choice_and_the_delimiter_goes_away(
    make: Any, context: str, first_choice: list[str]
) -> None:
    tokenizer = make()
    result = tokenise(tokenizer, make_item("Is it?", "A", "B so"), CHAT)
    assert "".join(words(tokenizer, result.context)) == context
    assert words(tokenizer, result.continuations[0]) == first_choice
    assert words(tokenizer, result.continuations[1]) == [first_choice[0], "B", " ", "s", "o"]


def test_white_space_at_the_end_of_the_context_moves_to_every_choice() -> None:
    tokenizer = llama_style()
    result = tokenise(tokenizer, make_item("Is it? \n", "A", "B", delimiter=""), PLAIN)
    assert words(tokenizer, result.context)[-1] == "?"
    assert [words(tokenizer, choice) for choice in result.continuations] == [[" ", "\n", "A"], [" ", "\n", "B"]]


def test_a_context_that_is_no_prefix_of_the_joint_encoding_is_cut_by_length_and_counted() -> None:
    tokenizer = gemma_style()
    tokenised = tokenise_items(tokenizer, [make_item("a teacher", "s x", " x", delimiter="")], PLAIN)
    (result,) = tokenised.results
    assert isinstance(result, TokenisedItem)
    # "er" and "s" become "ers": one token, which stands where the context's last one stood
    assert [words(tokenizer, choice) for choice in result.continuations] == [[" ", "x"], [" ", "x"]]
    assert words(tokenizer, result.context)[-1] == "er"
    assert (tokenised.counts.n_not_prefix, tokenised.counts.n_encoded_apart) == (1, 0)


def test_a_continuation_that_vanishes_in_the_joint_encoding_is_encoded_apart_and_counted() -> None:
    tokenizer = gemma_style()
    tokenised = tokenise_items(tokenizer, [make_item("a teacher", "s", " x", delimiter="")], PLAIN)
    (result,) = tokenised.results
    assert isinstance(result, TokenisedItem)
    assert [words(tokenizer, choice) for choice in result.continuations] == [["s"], [" ", "x"]]
    assert (tokenised.counts.n_not_prefix, tokenised.counts.n_encoded_apart) == (0, 1)


def test_an_empty_context_is_the_bos_or_the_end_token_where_there_is_none(style: str) -> None:
    tokenizer = STYLES[style]()
    result = tokenise(tokenizer, make_item("", "A", "B", delimiter=""), PLAIN)
    assert words(tokenizer, result.context) == [BOS[style] or "<|im_end|>"]
    assert [words(tokenizer, choice) for choice in result.continuations] == [["A"], ["B"]]


def test_a_bos_written_out_in_choices_of_an_empty_context_is_the_context() -> None:
    tokenizer = llama_style()
    result = tokenise(tokenizer, make_item("", "<|begin_of_text|>A", "B", delimiter=""), PLAIN)
    assert words(tokenizer, result.context) == ["<|begin_of_text|>"]
    assert [words(tokenizer, choice) for choice in result.continuations] == [["A"], ["B"]]


def test_an_item_that_is_too_long_is_not_scored_and_says_by_how_much() -> None:
    item = make_item("abcdefgh", "A", "xyz", item_id="q9")
    tokenised = tokenise_items(llama_style(), [item], TokenisationSettings(max_length=10))
    # BOS and 8 letters, then " xyz" of 4 tokens, the last of which is no input: 12 inputs
    reason = "context and longest choice have 9 + 4 tokens, 2 more than fit into 10"
    assert tokenised.results == (Unscorable("q9", reason),)
    assert tokenised.counts.n_unscorable == 1
    longer = TokenisationSettings(max_length=12)
    assert isinstance(tokenise_items(llama_style(), [item], longer).results[0], TokenisedItem)


def test_a_context_is_cut_on_the_left_when_asked_keeps_its_bos_and_is_counted() -> None:
    tokenizer = llama_style()
    settings = TokenisationSettings(max_length=10, truncation="left")
    tokenised = tokenise_items(tokenizer, [make_item("abcdefgh", "A", "xyz"), make_item("ab", "A", "B")], settings)
    cut, whole = tokenised.results
    assert isinstance(cut, TokenisedItem)
    assert isinstance(whole, TokenisedItem)
    assert words(tokenizer, cut.context) == ["<|begin_of_text|>", "c", "d", "e", "f", "g", "h"]
    assert words(tokenizer, cut.continuations[1]) == [" ", "x", "y", "z"]
    assert (cut.n_truncated_tokens, whole.n_truncated_tokens) == (2, 0)
    assert (tokenised.counts.n_truncated_items, tokenised.counts.n_truncated_tokens) == (1, 2)


def test_a_context_without_bos_is_cut_to_its_last_tokens() -> None:
    tokenizer = qwen_style()
    settings = TokenisationSettings(max_length=6, truncation="left")
    assert words(tokenizer, tokenise(tokenizer, make_item("abcdefgh", "A", "xyz"), settings).context) == ["f", "g", "h"]


@pytest.mark.parametrize("truncation", ["refuse", "left"])
def test_a_choice_that_does_not_fit_alone_is_never_cut(truncation: Any) -> None:
    settings = TokenisationSettings(max_length=3, truncation=truncation)
    tokenised = tokenise_items(llama_style(), [make_item("ab", "A", "xyz")], settings)
    assert tokenised.results == (Unscorable("q1", "choice 1 alone has 4 tokens; at most 3 fit with a context token"),)


def test_a_choice_without_tokens_is_not_scored() -> None:
    tokenised = tokenise_items(llama_style(), [make_item("ab", "A", "", delimiter="")], PLAIN)
    assert tokenised.results == (Unscorable("q1", "choice 1 has no tokens"),)


def test_a_tokenizer_without_a_chat_template_is_refused_when_one_is_asked_for() -> None:
    tokenizer = llama_style()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"has no chat template; set prompts.eval_chat_template to false"):
        tokenise_items(tokenizer, [make_item("ab", "A", "B")], CHAT)


def test_template_arguments_reach_the_template() -> None:
    tokenizer = qwen_style()
    settings = TokenisationSettings(max_length=500, chat_template=True, template_arguments={"system": "Hush."})
    context = "".join(words(tokenizer, tokenise(tokenizer, make_item("ab", "A", "B"), settings).context))
    assert context.startswith("<|im_start|>system\nHush.<|im_end|>")


@pytest.mark.parametrize("settings", [PLAIN, CHAT])
def test_items_in_a_batch_are_tokenised_as_each_alone(style: str, settings: TokenisationSettings) -> None:
    tokenizer = STYLES[style]()
    contexts = ["Is it?\nAnswer:", "", "प्रश्न: क्या?", "问题：是吗？ ", "<|begin_of_text|>x", "teacher"]
    items = [make_item(context, "A", "s", "उत्तर है", "是", item_id=str(at)) for at, context in enumerate(contexts)]
    together = tokenise_items(tokenizer, items, settings)
    assert together.results == tuple(tokenise(tokenizer, item, settings) for item in items)
    assert (together.counts.n_items, together.counts.n_requests) == (6, 24)


def with_requests(*requests: Request) -> Item:
    return Item(item_id="q1", context="", choices=("x", "y"), gold=0, requests=requests)


def test_requests_have_contexts_of_their_own_and_whole_texts_their_windows(style: str) -> None:
    tokenizer = STYLES[style]()
    item = with_requests(Request("Is it?", " A"), Request("", " B so"), Request(None, "one two three"))
    settings = TokenisationSettings(max_length=8)
    tokenised = tokenise_items(tokenizer, [item, make_item("Is it?", "A", "B")], settings)
    result, usual = tokenised.results
    assert isinstance(result, TokenisedItem)
    assert isinstance(usual, TokenisedItem)
    (first,), (second,), windows = result.requests
    assert (first.context, first.continuations) == (usual.context, usual.continuations[:1])
    assert second.context == windows[0].context == (prefix_token(tokenizer),)
    assert len(windows) > 1
    assert all(part.n_inputs <= settings.max_length for part in windows)
    scored = [token for part in windows for token in part.continuations[0]]
    assert scored == tokenizer("one two three")["input_ids"]
    assert tokenised.counts.n_requests == 5
    tokenizer.chat_template = None
    (whole,) = tokenise_items(tokenizer, [with_requests(item.requests[2])], CHAT).results
    assert isinstance(whole, TokenisedItem)
    asked = with_requests(Request((("user", "Is it?"),), " A"))
    with pytest.raises(UserError, match="has no chat template; set prompts"):
        tokenise_items(tokenizer, [asked], CHAT)


def test_an_item_is_not_scored_if_one_of_its_requests_cannot_be() -> None:
    fits = Request("Is it?", " A")
    for requests, reason in (
        ((fits, Request("Is it?" * 9, " A")), "context and longest choice have"),
        ((fits, Request("", "so " * 20)), "choice 1 alone has"),
        ((fits, Request("Is it?", "")), "choice 1 has no tokens"),
        ((Request(None, ""),), "its text has no tokens"),
    ):
        settings = TokenisationSettings(max_length=12)
        (result,) = tokenise_items(qwen_style(), [with_requests(*requests)], settings).results
        assert isinstance(result, Unscorable)
        assert reason in result.reason
