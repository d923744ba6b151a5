"""Templates from anywhere: no way out of the sandbox, no endless work."""

from __future__ import annotations

import time
from pathlib import Path

import jinja2
import pytest

from transfergrid.benchmarks.sandbox import BoundedEnvironment, TemplateLimitError, compile_template, render
from transfergrid.benchmarks.spec import TaskSpec
from transfergrid.benchmarks.tasks import RowError, make_task
from transfergrid.grid import UserError

_ROW = {"id": "1", "question": "Who?", "options": ["A man", "A woman"], "answer": 0}


def make_spec(context: str) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "name": "mine",
            "id": "id",
            "gold": "answer",
            "choices": {"column": "options"},
            "formats": {"train": {"context": "{{ question }}"}, "eval": {"context": context}},
        }
    )


@pytest.mark.parametrize(
    "escape",
    [
        "{{ cycler.__init__.__globals__.os.popen('touch ESCAPED') }}",
        "{{ joiner.__init__.__globals__['os'].system('touch ESCAPED') }}",
        "{{ namespace.__init__.__globals__.os.system('touch ESCAPED') }}",
        "{{ question.__class__.__mro__[1].__subclasses__() }}",
        "{{ question|attr('__class__') }}",
        "{{ '{0.__class__}'.format(question) }}",
        "{{ self.__init__.__globals__ }}",
        "{{ options.append('C') }}",
    ],
)
def test_no_template_of_a_task_reaches_pythons_insides(
    escape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = make_task(make_spec(escape))
    with pytest.raises(RowError, match=r"item '1' of mine: SecurityError: access to attribute '\w+' of .* is unsafe"):
        task.formats["eval"].build(task.question(_ROW))
    assert list(tmp_path.iterdir()) == []


_DOUBLE = "{% set n = namespace(s=START) %}{% for i in range(60) %}{% set n.s = MORE %}{% endfor %}{{ n.s == n.s }}"


@pytest.mark.parametrize(
    ("bomb", "message"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "writes more than|longer than",
        ),
        ("{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}", "longer than 2 s"),
        ("{% for i in [1, 1] recursive %}{% if loop.depth < 60 %}{{ loop([1, 1]) }}{% endif %}{% endfor %}", "longer"),
        (_DOUBLE.replace("START", "'ab'").replace("MORE", "n.s ~ n.s"), "more than 1,000,000 characters"),
        (_DOUBLE.replace("START", "'ab'").replace("MORE", "n.s + n.s"), "more than 1,000,000 characters"),
        (_DOUBLE.replace("START", "'ab'").replace("MORE", "'%s%s' % (n.s, n.s)"), "more than 1,000,000 characters"),
        (_DOUBLE.replace("START", "[]").replace("MORE", "[n.s, n.s]"), "more than 1,000,000 characters or entries"),
        (_DOUBLE.replace("START", "{}").replace("MORE", "{'a': n.s, 'b': n.s}"), "characters or entries|longer"),
        ("{{ 'a' * 10**10 }}", "more than 1,000,000 characters or entries"),
        ("{{ 9 ** 9 ** 9 }}", "more than 256 bits of a number"),
        ("{{ 'a'.center(10**9) }}{{ 'a'|center(10**9) }}", "more than 10,000,000 characters"),
        ("{{ '%0999999999d' % 1 }}", "pads a value to a width of thousands"),
        ("{{ '{:999999999}'.format(1) }}", "pads a value to a width of thousands"),
        ("{% set s = 'a' * 100000 %}{{ s.replace('a', s) }}", "more than 10,000,000 characters"),
        ("{% set s = 'a' * 100000 %}{{ s|replace('a', s) }}", "more than 10,000,000 characters"),
        ("{{ {'a': [1] * 1000}|tojson(indent=999999) }}", "more than 10,000,000 characters"),
        (
            "{% set s = 'b' * 900000 %}{% set x %}{% for i in range(9999) %}{{ s }}{% endfor %}{% endset %}",
            "writes more",
        ),
    ],
)
def test_a_template_that_never_ends_or_fills_the_memory_stops_the_reading(bomb: str, message: str) -> None:
    task = make_task(make_spec(bomb))
    question = task.question(_ROW)
    started = time.perf_counter()
    with pytest.raises(
        TemplateLimitError,
        match=rf"^formats.eval.context of mine: .*({message}|takes longer than 2 s|writes more than 20,000,000)",
    ):
        task.formats["eval"].build(question)
    assert time.perf_counter() - started < 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ " + "(" * 3000, "it cannot be compiled .RecursionError"),
        ("{{ " + "1" * 5000 + " }}", "it cannot be compiled .ValueError: Exceeds the limit"),
        ("{% if 1 %}" * 500, "it cannot be compiled .RecursionError"),
        ("{{ [1, 2]|random }}", "No filter named 'random'"),
        ("{{ question", "unexpected end of template|end of print statement"),
    ],
)
def test_a_template_that_cannot_be_compiled_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"template of mine.formats.eval is not valid Jinja: .*({message})"):
        make_task(make_spec(text))


def test_ordinary_templates_render_as_in_plain_jinja() -> None:
    text = (
        "{% for a in [1, 2, 3] %}{{ loop.index }}/{{ loop.length }}{{ ', ' if not loop.last }}{% endfor %} "
        "{% for k, v in {'x': 1}.items() %}{{ k ~ v }}{% endfor %} {% set a, b = 1, 2 %}{{ a + b }} {{ 'a b'|title }} "
        "{{ words|join('-') }} {{ text.replace('l', 'L').split(' ')[0] }} {{ 7 % 4 }} {{ 2 ** 5 }} {{ '%s!' % text }} "
        "{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(text)|upper }} {{ words|map('upper')|list }} {{ 1 in (1, 2) }}"
    )
    variables = {"words": ["p", "q"], "text": "hello you"}
    template = compile_template(BoundedEnvironment(undefined=jinja2.StrictUndefined), text)
    assert render(template, variables) == jinja2.Environment().from_string(text).render(variables)
