"""Cells, sources, regimes and `UserError`: the lowest layer, which imports nothing of the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

TASKS = ("arc_challenge", "global_mmlu", "hellaswag", "truthfulqa")
"""The four benchmarks of the study."""

LANGUAGES = ("ar", "bn", "de", "en", "es", "fr", "hi", "id", "it", "pt", "zh")
"""The eleven languages of the study, ISO 639-1."""

SEEDS = (17, 42, 101)
"""The training seeds of the study."""

BASELINE_NAME = "base"
"""Name of the source that is the untouched base model."""

BASE_KIND = "base"
CELL_KIND = "cell"
"""Kind of the adapters that were trained on one cell."""
MIXTURE_KIND = "mixture"
"""Kind of the adapters that were trained on several cells together."""
MERGE_KIND = "merge"
"""Kind of the adapters that were made of others, without training."""
VARIANT_KIND = "variant"
"""Kind of what was trained by another recipe than the run's main one, on one cell or several."""
VARIANT_MARK = "@"
"""Between the name of a source and that of its variant: ``arc_challenge-de@r8``."""

_SOURCE_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}(@[a-z0-9][a-z0-9_-]{0,19})?")
_TASK_PATTERN = re.compile(r"[a-z][a-z0-9_]*")
_LANGUAGE_PATTERN = re.compile(r"[a-z]{2,3}(_[a-z0-9]{2,8})?")


class UserError(Exception):
    """A failure that the user can fix: one sentence, shown without a traceback, exit status 1.

    Control characters, which names and messages from outside may hold, are shown as escapes.
    """

    def __str__(self) -> str:
        text = super().__str__()
        return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


class Regime(StrEnum):
    """Relation of a source cell to a target cell: matched or cross task, matched or cross language."""

    MT_ML = "MT-ML"
    MT_CL = "MT-CL"
    CT_ML = "CT-ML"
    CT_CL = "CT-CL"


TRANSFER_REGIMES = (Regime.MT_CL, Regime.CT_ML, Regime.CT_CL)
"""The regimes that count as transfer; MT-ML is reported apart."""

IN_MIX = "IN-MIX"
"""Relation of a source of several cells to one of them; no table of single-cell sources has it."""


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


def regime_of(source: Cell, target: Cell) -> Regime:
    """Return the regime of a (source, target) pair of cells."""
    if source.task == target.task:
        return Regime.MT_ML if source.language == target.language else Regime.MT_CL
    return Regime.CT_ML if source.language == target.language else Regime.CT_CL


def regime_of_several(cells: Sequence[Cell], target: Cell) -> str:
    """Return IN-MIX for a target among the cells, else the nearest relation to any: MT-CL, then CT-ML, then CT-CL."""
    if target in cells:
        return IN_MIX
    found = {regime_of(cell, target) for cell in cells}
    return next(regime for regime in TRANSFER_REGIMES if regime in found)


KINDS: dict[str, Callable[[Sequence[Cell], Cell], str | None]] = {
    BASE_KIND: lambda cells, target: None,  # it was trained on no cell
    CELL_KIND: lambda cells, target: regime_of(cells[0], target),
    MIXTURE_KIND: regime_of_several,
    MERGE_KIND: regime_of_several,
    VARIANT_KIND: lambda cells, target: KINDS[CELL_KIND if len(cells) == 1 else MIXTURE_KIND](cells, target),
}
"""Kinds of sources, each with its rule for the regime of its cells and a target; None: no regime."""


def regime_by_kind(kind: str, cells: Sequence[Cell], target: Cell) -> str | None:
    """Return the relation of a source to a target; None for the base.

    Raises:
        UserError: If the kind is unknown.
    """
    if kind not in KINDS:
        raise UserError(f"{kind!r} is no kind of source that this version knows; expected one of {sorted(KINDS)}")
    return KINDS[kind](cells, target)


@dataclass(frozen=True, slots=True)
class Source:
    """What is scored: the base model, or something that was trained on some cells.

    Raises:
        UserError: If the kind is unknown, or the name does not fit into file names or into the kind.
    """

    kind: str = BASE_KIND
    """One of `KINDS`."""
    name: str = BASELINE_NAME
    """Unique among the sources of one model and seed: ``base``, the cell's name, or a name of its own."""
    cells: tuple[Cell, ...] = ()
    """Cells it was trained on."""
    seed: int | None = None
    """Training seed; None: the base, or a source that is not tied to one seed."""
    variant: str = ""
    """The recipe's name where it is not the main one, such as ``r8``; empty: the main one."""

    def __post_init__(self) -> None:
        """Refuse names that would not survive file systems, and cells' names for anything but their adapters."""
        if self.kind not in KINDS:
            raise UserError(f"source {self.name!r} has the unknown kind {self.kind!r}; expected one of {sorted(KINDS)}")
        if not _SOURCE_PATTERN.fullmatch(self.name):
            raise UserError(
                f"source name {self.name!r} is not usable; expected at most 100 lower-case letters, digits, "
                "underscores and hyphens, starting with a letter or a digit"
            )
        if (self.kind == CELL_KIND and len(self.cells) != 1) or not (self.cells or self.is_base):
            expected = "one" if self.kind == CELL_KIND else "at least one"
            raise UserError(f"source {self.name!r} has {len(self.cells)} cells; kind {self.kind!r} has {expected}")
        if len(set(self.cells)) < len(self.cells):
            raise UserError(f"source {self.name!r} names a cell twice in {list(map(str, self.cells))}; name each once")
        if self._has_ambiguous_name():
            raise UserError(
                f"source name {self.name!r} is not usable for kind {self.kind!r}; {BASELINE_NAME!r} is the base model, "
                "'task-lang' the usual adapter of that cell, 'NAME@VARIANT' a variant; other sources have other names"
            )

    def _has_ambiguous_name(self) -> bool:
        """Whether the name is not that of the base or cell, or is one though this is another kind of source.

        ``romance-arc`` could be a cell by its form; of a mixture it is refused only where its task is known.
        """
        implied = _kind_and_cells(self.name)
        if self.name != self.main_name + (f"{VARIANT_MARK}{self.variant}" if self.kind == VARIANT_KIND else ""):
            return True
        if self.kind in (BASE_KIND, CELL_KIND) and not self.variant:
            return implied != (self.kind, self.cells)
        tasks = {*TASKS, *(cell.task for cell in self.cells)}
        return implied is not None and all(cell.task in tasks for cell in implied[1])

    @classmethod
    def of(cls, cell: Cell, seed: int | None = None) -> Source:
        """Return the usual adapter of one cell."""
        return cls(CELL_KIND, cell.name, (cell,), seed)

    @classmethod
    def parse(cls, name: str, seed: int | None = None) -> Source:
        """Read the name of the base or of a cell's usual adapter: ``base`` or ``task-lang``."""
        return cls() if name == BASELINE_NAME else cls.of(Cell.parse(name), seed)

    @property
    def cell(self) -> Cell | None:
        """The cell of a usual single-cell adapter; None: the base, or a source that no single-source table takes."""
        return self.cells[0] if self.kind == CELL_KIND and not self.variant else None

    @property
    def main_name(self) -> str:
        """The name of the source that differs from this one in the variant only."""
        return self.name.partition(VARIANT_MARK)[0]

    @property
    def is_base(self) -> bool:
        """Whether this is the untouched base model."""
        return self.kind == BASE_KIND

    @property
    def without_seed(self) -> Source:
        """The same source under no seed, as a selection names it."""
        return replace(self, seed=None)

    def regime(self, target: Cell) -> str | None:
        """Return the relation to a target by the rule of the kind; None: it has none."""
        return regime_by_kind(self.kind, self.cells, target)

    def __str__(self) -> str:
        """Return the source's name."""
        return self.name


def _kind_and_cells(name: str) -> tuple[str, tuple[Cell, ...]] | None:
    """Return what a name alone says: the base, or a cell; None: neither."""
    if name == BASELINE_NAME:
        return BASE_KIND, ()
    try:
        return CELL_KIND, (Cell.parse(name),)
    except UserError:
        return None


BASE = Source()
"""The baseline source."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Sources x targets for some tasks and languages.

    Raises:
        UserError: If a task or language is named twice, or there is none.
    """

    tasks: tuple[str, ...] = TASKS
    languages: tuple[str, ...] = LANGUAGES
    own_languages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Languages of the tasks that have others than ``languages``."""
    only_targets: frozenset[str] = frozenset()
    """Tasks that no adapter is trained on."""

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
        return tuple(
            Cell(task, language) for task in self.tasks for language in self.own_languages.get(task, self.languages)
        )

    @property
    def source_cells(self) -> tuple[Cell, ...]:
        """The cells that adapters are trained on."""
        return tuple(cell for cell in self.cells if cell.task not in self.only_targets)

    @property
    def every_language(self) -> tuple[str, ...]:
        """The languages of all cells, each once."""
        return tuple(dict.fromkeys(cell.language for cell in self.cells))

    @property
    def pairs(self) -> tuple[tuple[Cell, Cell], ...]:
        """Every source with every target but itself."""
        return tuple((source, target) for source in self.source_cells for target in self.cells if source != target)
