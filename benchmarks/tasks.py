"""A task: rows in, items out, in each of its prompt formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.meta

from transfergrid.benchmarks.items import Item, item_of_harness
from transfergrid.benchmarks.sandbox import BoundedEnvironment, TemplateLimitError, compile_template, render
from transfergrid.benchmarks.spec import ChoicesSpec, FormatSpec, TaskSpec, read_task_spec
from transfergrid.benchmarks.text import clean
from transfergrid.config.harness import HarnessTask
from transfergrid.grid import TASKS, UserError

Row = Mapping[str, Any]
FormatName = Literal["train", "eval"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MIN_CHOICES = 2
MAX_CHOICES = len(LETTERS)
_SHOWN_LENGTH = 200
_MAX_DIGITS = 3


class RowError(UserError):
    """A row that is not a usable multiple-choice question."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a row says, before any prompt format."""

    item_id: str
    choices: tuple[str, ...]
    gold: int
    row: Row
    empty_choices: tuple[int, ...] = ()
    """Positions of blank options that should hold text; options missing at the end are not among them."""


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """One way to turn a question into an item."""

    name: FormatName
    build: Callable[[Question], Item]
    primary_metric: str
    supervise: Literal["continuation", "text"]
    mode: str


@dataclass(frozen=True, slots=True)
class Task:
    """A task with its two prompt formats."""

    spec: TaskSpec
    formats: Mapping[FormatName, PromptFormat]
    render_choices: Callable[[Row], list[str]]
    text_columns: tuple[str, ...]
    """Columns that become text of the prompts, sorted."""
    is_harness: bool = False
    """Whether lm-evaluation-harness makes the prompts of the format ``eval``, shots and chat included."""

    @property
    def name(self) -> str:
        """The task's name."""
        return self.spec.name

    @property
    def id_column(self) -> str:
        """Column with the item's id."""
        return self.spec.id

    def question(self, row: Row) -> Question:
        """Read one row.

        Blank options are left out; the gold goes by the option it names, not by the position that is left.

        Raises:
            RowError: If the id, a column, the gold or a choice is missing or out of range; names the id.
        """
        item_id = _read_id(row, self.id_column)
        gold = _gold_index(row, self.spec.gold, item_id)
        try:
            options = self.render_choices(row)
        except TemplateLimitError as error:
            raise TemplateLimitError(f"choices of {self.name}: {error}") from error
        except Exception as error:  # a template may do anything
            raise RowError(f"item {item_id!r} of {self.name}: its choices cannot be read: {_say(error)}") from error
        labels = row.get(self.spec.gold)
        if isinstance(labels, list) and len(labels) != len(options):
            raise RowError(
                f"item {item_id!r} of {self.name}: {len(labels)} labels in column {self.spec.gold!r} for "
                f"{len(options)} choices; expected one label for each choice"
            )
        if not 0 <= gold < len(options):
            raise RowError(
                f"item {item_id!r} of {self.name}: gold {row.get(self.spec.gold)!r} is out of range; "
                f"it has {len(options)} choices"
            )
        kept = [index for index, option in enumerate(options) if option.strip()]
        if gold not in kept:
            raise RowError(f"item {item_id!r} of {self.name}: the right choice is empty; expected text")
        least = 1 if "requests" in row else MIN_CHOICES
        if not least <= len(kept) <= MAX_CHOICES:
            raise RowError(
                f"item {item_id!r} of {self.name} has {len(kept)} choices; expected {least} to {MAX_CHOICES}"
            )
        listed = range(len(options) if self.spec.choices.column is not None else kept[-1])
        return Question(
            item_id=item_id,
            choices=tuple(options[index] for index in kept),
            gold=kept.index(gold),
            row=row,
            empty_choices=tuple(index for index in listed if index not in kept),
        )


def _read_id(row: Row, column: str) -> str:
    value = row.get(column)
    if value is None or not str(value).strip():
        raise RowError(f"a row has no id: column {column!r} is missing or empty; it has columns {sorted(row)}")
    return str(value)


def gold_number(value: object) -> int | None:
    """Return a gold that is written as a whole number or as its digits; None for anything else."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value.strip()) <= _MAX_DIGITS:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _gold_index(row: Row, column: str, item_id: str) -> int:
    value = row.get(column)
    if isinstance(value, list) and value.count(1) == 1 and all(label in (0, 1) for label in value):
        return value.index(1)
    if (number := gold_number(value)) is not None:
        return number
    if isinstance(value, str) and len(text := value.strip()) == 1 and text.upper() in LETTERS:
        return LETTERS.index(text.upper())
    raise RowError(
        f"item {item_id!r}: gold {value!r} in column {column!r} is not understood; "
        "expected a letter, an index from 0, or labels with one 1"
    )


def _environment() -> BoundedEnvironment:
    environment = BoundedEnvironment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
        finalize=lambda value: "" if value is None else value,
    )
    environment.filters["clean"] = clean
    return environment


def _compile(environment: BoundedEnvironment, text: str, name: str) -> jinja2.Template:
    try:
        return compile_template(environment, text)
    except (jinja2.TemplateSyntaxError, TemplateLimitError) as error:
        reason = str(error) if isinstance(error, TemplateLimitError) else error.message
        raise UserError(f"template of {name} is not valid Jinja: {reason}, in {_cut(text)!r}") from error


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}..."


def _choices_renderer(environment: BoundedEnvironment, spec: ChoicesSpec, name: str) -> Callable[[Row], list[str]]:
    if spec.templates is not None:
        templates = [_compile(environment, text, f"{name}.choices") for text in spec.templates]
        return lambda row: [render(template, row) for template in templates]
    column, template = spec.column, _compile(environment, spec.template, f"{name}.choices")

    def render_column(row: Row) -> list[str]:
        values = row.get(column or "")
        if not isinstance(values, list):
            raise RowError(f"column {column!r} is {values!r}; expected a list")
        return [render(template, choice=value) for value in values]

    return render_column


def _format(environment: BoundedEnvironment, spec: TaskSpec, name: FormatName, part: FormatSpec) -> PromptFormat:
    template = _compile(environment, part.context, f"{spec.name}.formats.{name}")

    def build(question: Question) -> Item:
        letters = tuple(LETTERS[: len(question.choices)])
        try:
            context = render(template, question.row, choices=question.choices, letters=letters)
        except TemplateLimitError as error:
            raise TemplateLimitError(f"formats.{name}.context of {spec.name}: {error}") from error
        except Exception as error:  # a template may do anything
            raise RowError(
                f"item {question.item_id!r} of {spec.name}: {_say(error)}; check the columns in formats.{name}.context"
            ) from error
        return Item(
            item_id=question.item_id,
            context=context,
            choices=letters if part.continuations == "letters" else question.choices,
            gold=question.gold,
        )

    return PromptFormat(name, build, part.primary_metric, part.supervise, part.mode)


def _say(error: Exception) -> str:
    """Return what a template failed at; a missing or wrong column needs no name of the error."""
    return str(error) if isinstance(error, jinja2.UndefinedError | RowError) else f"{type(error).__name__}: {error}"


def make_task(spec: TaskSpec) -> Task:
    """Compile a task's templates.

    Raises:
        UserError: If a template is not valid Jinja.
    """
    environment = _environment()
    formats = {name: _format(environment, spec, name, part) for name, part in spec.formats.items()}
    return Task(
        spec, formats, _choices_renderer(environment, spec.choices, spec.name), _text_columns(environment, spec)
    )


def _text_columns(environment: BoundedEnvironment, spec: TaskSpec) -> tuple[str, ...]:
    templates = [*(spec.choices.templates or ()), *(part.context for part in spec.formats.values())]
    named = {name for text in templates for name in jinja2.meta.find_undeclared_variables(environment.parse(text))}
    own = {"choices", "letters", *environment.globals}
    return tuple(sorted((named - own) | {*spec.text, *filter(None, [spec.choices.column])}))


@cache
def _builtin_task(name: str) -> Task:
    return make_task(read_task_spec(Path(str(files("transfergrid.benchmarks").joinpath(f"{name}.yaml")))))


_LETTERED = """{{ context }}{% if choices != letters %}{% if context %}
{% endif %}{% for choice in choices %}{{ letters[loop.index0] }}) {{ choice }}
{% endfor %}Answer:{% endif %}"""
"""The choices by letters after a prompt of the harness; a prompt that asks for letters already stays as it is."""


@cache
def _harness_task(name: str) -> Task:
    """Return a task of lm-evaluation-harness; its rows hold finished prompts."""
    lettered = FormatSpec(context=_LETTERED, continuations="letters")
    formats: dict[FormatName, FormatSpec] = {"train": lettered, "eval": FormatSpec(context="{{ context }}")}
    task = make_task(TaskSpec(name=name, id="id", gold="gold", choices=ChoicesSpec(column="choices"), formats=formats))
    as_asked = replace(task.formats["eval"], build=_as_asked)
    by_letter = task.formats["train"].build

    def learn(question: Question) -> Item:
        """Return an item with letters; where choices or texts have prompts of their own, as it is without shots."""
        has_own = "requests" in question.row
        return _as_asked(replace(question, row={**question.row, "asked": {}})) if has_own else by_letter(question)

    as_learnt = replace(task.formats["train"], build=learn)
    return replace(task, formats={"train": as_learnt, "eval": as_asked}, is_harness=True)


def _as_asked(question: Question) -> Item:
    """Return an item as the harness asks it; train items are asked without shots and chat template."""
    asked = {**question.row, **question.row.get("asked", {})}
    return item_of_harness(question.item_id, question.choices, question.gold, asked)


def get_task(name: str, own_tasks: Mapping[str, Path | HarnessTask] | None = None) -> Task:
    """Return a built-in task, or one of the configuration's own.

    Args:
        name: The task's name.
        own_tasks: Their descriptions by name (``GridConfig.own_tasks``); a path is that of a YAML file.

    Raises:
        UserError: If there is no such task, or its file has faults or another name.
    """
    described = (own_tasks or {}).get(name)
    if isinstance(described, HarnessTask):
        return _harness_task(name)
    if described is not None:
        spec = read_task_spec(described)
        if spec.name != name:
            raise UserError(f"task file {str(described)!r} describes {spec.name!r}, but is listed as {name!r}")
        return make_task(spec)
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}; expected one of {sorted({*TASKS, *(own_tasks or {})})}")
    return _builtin_task(name)
