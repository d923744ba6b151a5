"""What there is to do: cells, sources, regimes and where a run keeps their files.

Lowest layer of the project; it imports nothing of the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

TASKS = ("arc_challenge", "global_mmlu", "hellaswag", "truthfulqa")
"""The four benchmarks of the study."""

LANGUAGES = ("ar", "bn", "de", "en", "es", "fr", "hi", "id", "it", "pt", "zh")
"""The eleven languages of the study, ISO 639-1."""

SEEDS = (17, 42, 101)
"""The training seeds of the study."""

BASELINE_NAME = "base"
"""Name of the source that is the untouched base model."""

_TASK_PATTERN = re.compile(r"[a-z][a-z0-9_]*")
_LANGUAGE_PATTERN = re.compile(r"[a-z]{2,3}(_[a-z0-9]{2,8})?")


class UserError(Exception):
    """A failure its reader can fix: one sentence, shown without a traceback, exit status 1."""


class Regime(StrEnum):
    """Relation of a source cell to a target cell: matched or cross task, matched or cross language."""

    MT_ML = "MT-ML"
    MT_CL = "MT-CL"
    CT_ML = "CT-ML"
    CT_CL = "CT-CL"


TRANSFER_REGIMES = (Regime.MT_CL, Regime.CT_ML, Regime.CT_CL)
"""The regimes that count as transfer; MT-ML is reported apart."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One (task, language) pair, written ``task-lang``.

    Raises:
        UserError: If the task or the language could not be part of a file or adapter name.
    """

    task: str
    """Task name: lower-case letters, digits and underscores."""
    language: str
    """ISO 639-1 or 639-3 code, optionally with a script or region: ``de``, ``zh_hant``."""

    def __post_init__(self) -> None:
        """Refuse names that would not survive file systems and adapter names."""
        if not _TASK_PATTERN.fullmatch(self.task):
            raise UserError(
                f"task name {self.task!r} is not usable; expected lower-case letters, digits and underscores, "
                "starting with a letter"
            )
        if not _LANGUAGE_PATTERN.fullmatch(self.language):
            raise UserError(f"language code {self.language!r} is not usable; expected a code such as 'de' or 'zh_hant'")

    @property
    def name(self) -> str:
        """The cell's name, safe in file and adapter names."""
        return f"{self.task}-{self.language}"

    @classmethod
    def parse(cls, name: str) -> Cell:
        """Read a cell's name.

        Raises:
            UserError: If the name is not of the form ``task-lang``.
        """
        task, separator, language = name.partition("-")
        if not separator:
            raise UserError(f"{name!r} is not a cell; expected 'task-lang', for example 'arc_challenge-de'")
        return cls(task, language)

    def __str__(self) -> str:
        """Return the cell's name."""
        return self.name


@dataclass(frozen=True, slots=True)
class Source:
    """What is scored: an adapter named by the cell it was trained on, or the base model."""

    cell: Cell | None = None
    """Cell the adapter was trained on; None is the base model."""

    @property
    def name(self) -> str:
        """``base`` or the cell's name."""
        return BASELINE_NAME if self.cell is None else self.cell.name

    @property
    def is_base(self) -> bool:
        """Whether this is the untouched base model."""
        return self.cell is None

    @classmethod
    def parse(cls, name: str) -> Source:
        """Read a source's name: ``base`` or ``task-lang``."""
        return cls() if name == BASELINE_NAME else cls(Cell.parse(name))

    def __str__(self) -> str:
        """Return the source's name."""
        return self.name


BASE = Source()
"""The baseline source."""


def regime_of(source: Cell, target: Cell) -> Regime:
    """Return the regime of a (source, target) pair of cells."""
    if source.task == target.task:
        return Regime.MT_ML if source.language == target.language else Regime.MT_CL
    return Regime.CT_ML if source.language == target.language else Regime.CT_CL


@dataclass(frozen=True, slots=True)
class Grid:
    """Sources x targets for some tasks and languages.

    Raises:
        UserError: If a task or language is named twice, or there is none.
    """

    tasks: tuple[str, ...] = TASKS
    languages: tuple[str, ...] = LANGUAGES

    def __post_init__(self) -> None:
        """Refuse empty or repeated names."""
        for kind, names in (("task", self.tasks), ("language", self.languages)):
            if not names:
                raise UserError(f"the grid has no {kind}; name at least one")
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise UserError(f"{kind} {repeated[0]!r} is named twice; name each {kind} once")

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, tasks outer, languages inner."""
        return tuple(Cell(task, language) for task in self.tasks for language in self.languages)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The base model, then one adapter per cell."""
        return (BASE, *(Source(cell) for cell in self.cells))

    def entries(self) -> Iterator[tuple[Source, Cell]]:
        """Every (source, target) pair, source by source."""
        return ((source, target) for source in self.sources for target in self.cells)

    def regime_counts(self) -> dict[Regime, int]:
        """Number of (adapter, target) pairs per regime."""
        tasks, languages = len(self.tasks), len(self.languages)
        cells = tasks * languages
        return {
            Regime.MT_ML: cells,
            Regime.MT_CL: cells * (languages - 1),
            Regime.CT_ML: cells * (tasks - 1),
            Regime.CT_CL: cells * (tasks - 1) * (languages - 1),
        }
