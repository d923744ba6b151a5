"""Chats of the harness are rendered as its ``hf`` backend renders them, with the clock stopped."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from transfergrid.engine.models.chat_template import render_messages
from transfergrid.engine.models.tokenizer import load_tokenizer
from transfergrid.grid import UserError

_DAY = datetime.date(2024, 7, 26)


def render(tokenizer: Any, *messages: tuple[str, str]) -> str:
    return render_messages(tokenizer, messages, {}, _DAY, otherwise="leave it out")


def test_a_chat_is_rendered_as_transformers_does_and_a_last_answer_goes_on(tiny_llama: Path) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    chat = [("user", "Q"), ("assistant", "A"), ("user", "R")]
    as_dicts = [{"role": role, "content": text} for role, text in chat]
    assert render(tokenizer, *chat) == tokenizer.apply_chat_template(
        as_dicts, tokenize=False, add_generation_prompt=True
    )
    assert render(tokenizer, *chat, ("assistant", "The answer is")).endswith("assistant\nThe answer is")


def test_a_template_that_refuses_system_messages_gets_none_and_one_that_fails_is_named(tiny_llama: Path) -> None:
    tokenizer = load_tokenizer(tiny_llama)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m['content'] }} {{ strftime_now('%Y') }}{% endfor %}"
    )
    chat = [("system", "S"), ("user", "U")]
    assert render(tokenizer, *chat) == "U 2024"
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(UserError, match=r"the chat template of .* fails: never; leave it out"):
        render(tokenizer, *chat)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="has no chat template; leave it out"):
        render(tokenizer, *chat)
