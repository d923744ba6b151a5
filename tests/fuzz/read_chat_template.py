"""Chat templates, rendered."""

from __future__ import annotations

import datetime
from pathlib import Path
from types import SimpleNamespace

from hypothesis import strategies as st

from tests.fuzz.strategies import damaged
from tests.models import _CHAT_TEMPLATE
from transfergrid.engine.models.chat_template import render_chats

_TEMPLATES = [
    _CHAT_TEMPLATE,
    "{% for m in messages %}{{ m.content | trim | tojson }}{{ strftime_now('%Y') }}{{ m.role * 3 }}{% endfor %}",
    "{% macro show(m) %}{{ m['content'] }}{% endmacro %}{% set ns = namespace(n=0) %}{% for m in messages %}"
    "{% if m.role not in ['user'] %}{{ raise_exception('no') }}{% endif %}{% set ns.n = ns.n + 1 %}{{ show(m) }}"
    "{{ ns.n ** 2 }}{% endfor %}{{ '%s' % bos_token }}{{ messages[0].content.split('?')[-1] }}",
    "{% for i in range(1000) %}{% for j in range(10) %}{{ messages[0].content }}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ messages[0].content }}",
    "{% macro a(n) %}{{ a(n + 1) }}{% endmacro %}{{ a(0) }}{{ messages[0].content }}",
    "{{ messages.__class__.__mro__ }}{{ cycler.__init__.__globals__ }}{{ messages[0].content }}",
    "{{ 'x' * 10 ** 9 }}{{ '%999999999d' % 1 }}{{ range(10 ** 9) | list }}{{ messages[0].content }}",
]
CONTENTS = damaged([each.encode() for each in _TEMPLATES]) | st.text(
    st.sampled_from("{%}- |()[]'\"aif.mnotrueds=+*0123456789\n\\"), max_size=60
).map(str.encode)
_DAY = datetime.date(2026, 1, 2)


def read(content: bytes, folder: Path) -> None:
    text = content.decode("utf-8", "replace")
    tokenizer = SimpleNamespace(
        name_or_path="m",
        chat_template=text,
        get_chat_template=lambda: text,
        special_tokens_map={"bos_token": "<s>", "eos_token": "</s>"},
    )
    render_chats(
        tokenizer,
        [["What is it? é\n"], ["Q", "A", "R"]],
        {"date_string": "today"},
        _DAY,
        asked_by="prompts.eval_chat_template",
    )
