"""Templates from unknown authors: Jinja's sandbox, with bounds on time, memory and output.

Jinja's own sandbox keeps a template away from Python's internals, but lets it run for ever and fill the memory. Here
every loop step, call, filter, operator and literal takes from a budget first, and no value may grow past a limit.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from transfergrid.grid import UserError

MAX_SECONDS = 2.0
"""Longest time of one rendering; a prompt takes about a thousandth of it."""
MAX_SIZE = 1_000_000
"""Most characters of a text, or entries of a list with all that is in it."""
MAX_WORK = 20_000_000
"""Most characters that one rendering may write, with the template's own counted at every step of a loop."""
_MAX_BITS = 256
_NONDETERMINISTIC = "random"
_GROWING = (
    *("batch", "center", "expandtabs", "format", "format_map", "indent", "join", "ljust", "replace", "rjust", "slice"),
    *("tojson", "translate", "wordwrap", "xmlattr", "zfill"),
)
"""Filters and methods of text whose result may be as long as the product of two arguments."""
_WIDTH = re.compile(r"\d{4,}|\*")


class TemplateLimitError(UserError):
    """A template that computes or writes more than it may."""


class _Budget:
    """What is left of one rendering's time and output."""

    def __init__(self) -> None:
        self.deadline = time.monotonic() + MAX_SECONDS
        self.work = 0

    def spend(self, characters: int) -> None:
        self.work += characters
        if self.work > MAX_WORK:
            raise TemplateLimitError(f"it writes more than {MAX_WORK:,} characters")
        if time.monotonic() > self.deadline:
            raise TemplateLimitError(f"it takes longer than {MAX_SECONDS:g} s")


_BUDGET: ContextVar[_Budget | None] = ContextVar("budget", default=None)


@contextmanager
def budget() -> Iterator[None]:
    """Bound what is compiled and rendered inside.

    Raises:
        TemplateLimitError: From the rendering, once the time or the output is spent.
    """
    token = _BUDGET.set(_Budget())
    try:
        yield
    finally:
        _BUDGET.reset(token)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox whose templates take from the budget at every step."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))
    _longest_source = 0

    def __init__(self, *, finalize: Callable[[Any], Any] = lambda value: value, **settings: Any) -> None:
        super().__init__(finalize=lambda value: _written(finalize(value)), **settings)
        self.globals.pop("lipsum", None)  # random text
        self.take_filters(self.filters)

    def take_filters(self, filters: Mapping[str, Callable[..., Any]]) -> None:
        """Set the filters, each with a bounded result, without those whose result is random."""
        kept = {name: each for name, each in filters.items() if name != _NONDETERMINISTIC}
        self.filters = {name: self._guarded(name, each) for name, each in kept.items()}
        self.filters |= {"_each": self._each, "_bounded": _bounded}

    def _guarded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def guarded(*arguments: Any, **named: Any) -> Any:
            self._step()
            _check_growth(name, (*arguments, *named.values()))
            return _bounded(function(*arguments, **named))

        return guarded

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        self._longest_source = max(self._longest_source, len(source))
        return _Bounding().visit(super()._parse(source, name, filename))  # type: ignore[no-any-return]

    def _step(self) -> None:
        if (spent := _BUDGET.get()) is not None:
            spent.spend(self._longest_source)

    def _each(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._step()
            yield value

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  # as Jinja has it
        """Call what a template calls, if its arguments and result keep the limits."""
        __self._step()
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps str.format
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            _check_growth(method.__name__, (owner, *args, *kwargs.values()))
        return _bounded(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute what a template computes, if the result keeps the limits."""
        self._step()
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * (max(right, 1) if operator == "**" else 1) + right.bit_length()
            _refuse_above(bits, _MAX_BITS, "bits of a number")
        elif operator == "*":
            _refuse_above(_factor(left) * _factor(right), MAX_SIZE, "characters or entries")
        elif operator == "%" and isinstance(left, str):
            _check_growth("format", (left, right))
        return _bounded(super().call_binop(context, operator, left, right))


class _Bounding(NodeTransformer):
    """Bounds loops by the budget, and literals and joined texts by the limits."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802  # named by Jinja
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_each")
        return node

    def _visit_literal(self, node: nodes.Expr) -> nodes.Expr:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") == "store" else _filtered(node, "_bounded")

    visit_Concat = visit_List = visit_Tuple = visit_Dict = _visit_literal  # noqa: N815  # named by Jinja


def _filtered(node: Any, name: str) -> nodes.Filter:
    filtered = nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
    filtered.set_environment(node.environment)
    return filtered


def _refuse_above(size: float, limit: int, unit: str) -> None:
    if size > limit:
        raise TemplateLimitError(f"a value in it has more than {limit:,} {unit}")


def _size(value: Any) -> int:
    """Return the characters and entries of a value, counted as often as they are written out.

    Raises:
        TemplateLimitError: If they are more than the limit.
    """
    size = 0
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            size += len(each)
            stack += each
            stack += each.values()
        elif isinstance(each, list | tuple | set | frozenset):
            size += len(each)
            stack += each
        else:
            size += len(each) if isinstance(each, str | bytes) else 1
        _refuse_above(size, MAX_SIZE, "characters or entries")
    return size


def _bounded(value: Any) -> Any:
    """Return a value if it keeps the limit."""
    _size(value)
    return value


def _written(value: Any) -> Any:
    """Return a value that is about to be written, once its length is taken from the budget."""
    if (spent := _BUDGET.get()) is not None:
        spent.spend(len(value) if isinstance(value, str) else len(str(_bounded(value))))
    return value


def _factor(value: Any) -> int:
    """Return how far an argument can stretch a result."""
    return max(abs(value) if isinstance(value, int) else _size(value), 1)


def _check_growth(name: str, arguments: tuple[Any, ...]) -> None:
    """Refuse arguments that could make a result longer than the limit."""
    if name not in _GROWING:
        return
    if name.startswith("format") and isinstance(arguments[0], str) and _WIDTH.search(arguments[0]):
        raise TemplateLimitError(f"the pattern {arguments[0][:40]!r} in it pads a value to a width of thousands")
    largest = sorted(map(_factor, arguments))[-2:]
    _refuse_above(functools.reduce(lambda left, right: left * right, largest, 1), 10 * MAX_SIZE, "characters")


def compile_template(environment: BoundedEnvironment, text: str) -> jinja2.Template:
    """Compile a template.

    Raises:
        jinja2.TemplateSyntaxError: If it is not valid Jinja, or too long or deep to be compiled.
        TemplateLimitError: If computing its constants is more than it may.
    """
    if len(text) > MAX_SIZE:
        raise jinja2.TemplateSyntaxError(f"it has more than {MAX_SIZE:,} characters", 1)
    try:
        with budget():
            return environment.from_string(text)
    except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError) as error:
        raise jinja2.TemplateSyntaxError(f"it cannot be compiled ({type(error).__name__}: {error})", 1) from error


def render(template: jinja2.Template, *variables: Mapping[str, Any], **more: Any) -> str:
    """Return a template's text.

    Raises:
        TemplateLimitError: If it computes or writes more than it may.
        Exception: Whatever the template fails at.
    """
    with budget():
        return template.render(*variables, **more)
