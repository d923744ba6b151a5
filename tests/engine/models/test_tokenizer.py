"""Context and continuation are cut where the text is, whatever a tokenizer puts around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers, processors

from tests.engine.tokenizers import STYLES, gemma_style, llama_style
from tests.models import make_tiny_tokenizer
from transfergrid.benchmarks.items import Item
from transfergrid.engine.interfaces import TokenisedItem
from transfergrid.engine.models.token_facts import token_facts
from transfergrid.engine.models.tokenizer import TokenisationSettings, appended_tokens, encode_items, load_tokenizer
from transfergrid.engine.planning.tokenisation import Unscorable, tokenise_items
from transfergrid.grid import UserError
from transfergrid.trainers.examples import ExampleSettings, build_examples

PLAIN = TokenisationSettings(max_length=500)
ITEM = Item(item_id="q1", context="Is it?\nAnswer:", choices=("A", "B so"), gold=0)


def append(tokenizer: Any, *names: str) -> Any:
    """Have a tokenizer append tokens to every text, after the BOS it puts before."""
    backend = tokenizer.backend_tokenizer
    special = [(name, backend.token_to_id(name)) for name in dict.fromkeys((tokenizer.bos_token, *names))]
    template = " ".join([tokenizer.bos_token, "$A", *names])
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return tokenizer


@pytest.mark.parametrize("style", ["llama", "gemma"])
@pytest.mark.parametrize("times", [1, 2])
def test_tokens_that_a_tokenizer_appends_are_no_part_of_context_or_choice(style: str, times: int) -> None:
    plain, appending = STYLES[style](), STYLES[style]()
    append(appending, *[appending.eos_token] * times)
    assert appended_tokens(plain) == ()
    assert appended_tokens(appending) == (appending.eos_token_id,) * times
    assert tokenise_items(appending, [ITEM], PLAIN) == tokenise_items(plain, [ITEM], PLAIN)
    (result,) = tokenise_items(appending, [ITEM], PLAIN).results
    assert isinstance(result, TokenisedItem)
    assert [appending.decode(choice) for choice in result.continuations] == [" A", " B so"]
    settings = ExampleSettings(max_length=64, supervise="text")
    assert build_examples(appending, [ITEM], settings) == build_examples(plain, [ITEM], settings)


def test_appended_tokens_are_part_of_the_run_key_and_of_no_other(tmp_path: Path) -> None:
    tokenizer = make_tiny_tokenizer(tmp_path)
    assert token_facts(tmp_path, PLAIN) == {}
    append(tokenizer, tokenizer.eos_token).save_pretrained(tmp_path)
    assert token_facts(tmp_path, PLAIN) == {"appended": [tokenizer.eos_token_id]}


@pytest.mark.parametrize(
    ("name", "path", "value", "message"),
    [
        ("tokenizer.json", ["version"], "\x1b[31mred\n", r"Unknown tokenizer version '.x1b\[31mred '"),
        ("tokenizer.json", ["post_processor", "single", 0, "SpecialToken", "id"], "x", "PanicException"),
        ("tokenizer_config.json", ["model_max_length"], {"a": 1}, "TypeError: '>' not supported between"),
        ("tokenizer_config.json", ["x"], "@deep@", "RecursionError"),
    ],
)
def test_a_tokenizer_that_cannot_be_loaded_or_used_is_told_in_one_sentence(
    name: str, path: list[Any], value: Any, message: str, tmp_path: Path
) -> None:
    make_tiny_tokenizer(tmp_path)
    content = json.loads((tmp_path / name).read_text(encoding="utf-8"))
    inside = content
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    text = json.dumps(content).replace('"@deep@"', "[" * 100_000)
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"no usable tokenizer in model folder .*{message}.*; fetch") as refused:
        token_facts(tmp_path, PLAIN)
        load_tokenizer(tmp_path)
    assert str(refused.value).isprintable()


def test_an_item_whose_choice_would_lose_a_token_to_its_context_is_refused() -> None:
    tokenizer = gemma_style()
    backend = tokenizer.backend_tokenizer
    # this tokenizer drops "#" only before "A": with "A" the context is two tokens shorter than alone
    backend.normalizer = normalizers.Sequence([normalizers.Replace("##A", "A"), backend.normalizer])
    item = Item(item_id="q3", context="it##", choices=("Axy", "B"), gold=0, delimiter="")
    tokenised = tokenise_items(tokenizer, [item], PLAIN)
    reason = (
        "choice 0 cannot be cut from its context: the tokenizer reads their end and beginning together in another way"
    )
    assert tokenised.results == (Unscorable("q3", reason),)
    assert (tokenised.counts.n_not_prefix, tokenised.counts.n_unscorable) == (1, 1)
    with pytest.raises(UserError, match=r"the right choice of 1 item\(s\) cannot be cut from its question: \['q3'\]"):
        build_examples(tokenizer, [item], ExampleSettings(max_length=64))


def test_a_tokenizer_without_any_token_for_an_empty_context_is_refused() -> None:
    tokenizer = llama_style()
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(UserError, match=r"has neither a BOS nor an EOS token to stand for an empty context; expected"):
        list(encode_items(tokenizer, [""], [["A"]]))
    (encoded,) = encode_items(tokenizer, ["x"], [[" A"]])
    assert encoded.continuations == (tuple(tokenizer(" A", add_special_tokens=False)["input_ids"]),)
