"""Chat templates from anywhere: the same text every day, all of the question in it, or one sentence."""

from __future__ import annotations

import datetime
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engine.tokenizers import STYLES, llama_style
from tests.models import make_tiny_tokenizer
from transfergrid.config.prompts import PromptConfig
from transfergrid.config.settings import GridConfig
from transfergrid.engine.models.chat_template import may_read_clock
from transfergrid.engine.models.token_facts import token_facts
from transfergrid.engine.models.tokenizer import TokenisationSettings, load_tokenizer, render_contexts
from transfergrid.grid import UserError

CHAT = TokenisationSettings(max_length=500, chat_template=True, template_arguments=PromptConfig().template_arguments)
_CLOCK = "{{ bos_token }}Today is {{ strftime_now('%d %B %Y') }}. {{ messages[0]['content'] }}"
_LATER = TokenisationSettings(max_length=500, chat_template=True, date=datetime.date(2026, 1, 2))
# as Llama 3.1 is published, shortened: a macro, a clock where no date is given, tojson
_PUBLISHED = (
    "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- set date_string = strftime_now('%d %b %Y') %}\n"
    "{%- endif %}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system = messages[0]['content']|trim %}\n"
    "    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system = '' %}\n{%- endif %}\n"
    "{% macro head(role) %}<|start_header_id|>{{ role }}<|end_header_id|>\n\n{% endmacro %}"
    "{{- head('system') }}{{ 'Today Date: ' + date_string + '\\n\\n' }}{{ system }}<|eot_id|>\n"
    "{%- set ns = namespace(n=0) %}{%- for message in messages %}{% set ns.n = ns.n + 1 %}"
    "{{- head(message['role']) + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{{ tools | tojson if tools else '' }}{% if add_generation_prompt %}{{ head('assistant') }}{% endif %}"
)


def with_template(template: Any) -> Any:
    tokenizer = llama_style()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("style", [*STYLES, "published"])
def test_a_template_renders_as_transformers_renders_it(style: str) -> None:
    tokenizer = with_template(_PUBLISHED) if style == "published" else STYLES[style]()
    for context in ("Is it?\nAnswer:", " 问题：是吗？ ", "{{ 1 }} <b> 'x' & y"):
        theirs = tokenizer.apply_chat_template(
            [{"role": "user", "content": context}],
            tokenize=False,
            add_generation_prompt=True,
            **CHAT.template_arguments,
        )
        assert render_contexts(tokenizer, [context], CHAT) == [theirs]


def test_a_clock_in_a_template_stands_still_at_the_day_of_the_settings() -> None:
    tokenizer = with_template(_CLOCK)
    expected = "<|begin_of_text|>Today is 26 July 2024. Is it?"
    assert render_contexts(tokenizer, ["Is it?"], CHAT) == [expected]
    assert render_contexts(tokenizer, ["Is it?"], _LATER) == [expected.replace("26 July 2024", "02 January 2026")]


def test_only_a_template_with_a_clock_adds_to_the_run_key(tmp_path: Path) -> None:
    make_tiny_tokenizer(tmp_path / "plain")
    assert not may_read_clock(tmp_path / "plain")
    assert token_facts(tmp_path / "plain", CHAT) == {}
    tokenizer = make_tiny_tokenizer(tmp_path / "clock")
    tokenizer.chat_template = _CLOCK
    tokenizer.save_pretrained(tmp_path / "clock")
    today, later = (token_facts(tmp_path / "clock", settings) for settings in (CHAT, _LATER))
    assert list(today) == ["rendered"]
    assert today != later
    assert token_facts(tmp_path / "clock", TokenisationSettings(max_length=9)) == {}, "no template, no clock"
    assert GridConfig().prompts.date == CHAT.date


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0]['content'][0]['text'] }}", "leaves out or changes text of the prompt 'Is it.*it gives ''"),
        ("{{ messages[0]['content'][:3] }}", "leaves out or changes text of the prompt"),
        ("{% for m in messages if m.role == 'human' %}{{ m.content }}{% endfor %}", "leaves out or changes text"),
        ("{{ messages[0]['content'] | upper }}", "leaves out or changes text of the prompt 'Is it"),
        ("{{ raise_exception('a system message is needed') }}", "single user message: a system message is needed; set"),
        ("{{ messages[1]['content'] }}", "fails at a single user message: UndefinedError: .* has no element 1; set"),
        ("{{ messages[0].content + 1 }}", "fails at a single user message: TypeError: "),
        ("{% if %}", "the chat template of .* cannot be read: TemplateSyntaxError: "),
        ("{{ x | no_such_filter }}", "cannot be read: TemplateAssertionError: No filter named 'no_such_filter'"),
        ("{{ messages | random }}", "cannot be read: TemplateAssertionError: No filter named 'random'"),
        ({"one": "a", "two": "b"}, "cannot be read: ValueError: "),
        ("{{ messages.__class__.__mro__ }}", "SecurityError: access to attribute '__class__'"),
        ("{{ cycler.__init__.__globals__.os.system('true') }}", "SecurityError: access to attribute '__init__'"),
        ("{{ 'a' * 10**10 }}", "a value in it has more than 1,000,000 characters"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "it (writes|takes) (more|longer)",
        ),
    ],
)
def test_a_template_that_does_not_give_the_whole_prompt_is_one_sentence(template: Any, message: str) -> None:
    started = time.perf_counter()
    with pytest.raises(UserError, match=message) as caught:
        render_contexts(with_template(template), ["Is it?\nAnswer:"], CHAT)
    assert time.perf_counter() - started < 4
    assert "set prompts.eval_chat_template to false, or give the tokenizer another chat template" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model": {"type": "BPE"}}'])
def test_a_damaged_tokenizer_is_one_sentence(content: str, tmp_path: Path) -> None:
    make_tiny_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"no usable tokenizer in model folder .*; fetch the tokenizer's files again$"):
        load_tokenizer(tmp_path)
