"""What a table of the analysis is: its name, its columns and how it is built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import polars as pl
from polars._typing import PolarsDataType

from transfergrid.analysis.arrays import Float32Array
from transfergrid.analysis.records import Transfer
from transfergrid.analysis.statistics.true_rates import draw_true_deltas
from transfergrid.config.settings import AnalysisConfig

Computed = TypeVar("Computed")

ONE_MODEL = "no standard error: one model"
"""Reason of a row whose standard error would be across models."""


class TableReport:
    """A report that is one table, for a program: its rows, as CSV or as JSON."""

    __slots__ = ()
    table: pl.DataFrame

    def rows(self) -> pl.DataFrame:
        """Return its rows."""
        return self.table

    def as_json(self) -> list[dict[str, Any]]:
        """Return one object per row."""
        return self.table.to_dicts()


class Column(NamedTuple):
    """One column of a table."""

    name: str
    dtype: PolarsDataType
    unit: str
    """``pp``, ``0..1``, ``items``; empty for a name or a word."""
    meaning: str
    """One sentence."""


@dataclass(frozen=True, slots=True)
class TableInputs:
    """What tables are computed from."""

    transfer: Transfer
    settings: AnalysisConfig
    draws: Float32Array
    """Shape [rows, B] or [rows, 1]: deltas on resampled items, see `resample_deltas`."""
    _computed: dict[Callable[[TableInputs], Any], Any] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> pl.DataFrame:
        """The transfer table."""
        return self.transfer.rows

    @property
    def truth(self) -> Float32Array:
        """Shape [rows, B]: draws of every row's true delta, see `draw_true_deltas`."""
        return self.once(_true_deltas)

    def once(self, compute: Callable[[TableInputs], Computed]) -> Computed:
        """Return what a function computes from these inputs; tables that share it compute it once."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        found: Computed = self._computed[compute]
        return found


def _true_deltas(inputs: TableInputs) -> Float32Array:
    return draw_true_deltas(inputs.rows, inputs.transfer.items, inputs.settings)


FEW_ITEMS = 100
PRIOR_DECIDES = (
    f"true rates with under {FEW_ITEMS} items a target rest much on the prior (made-up runs of 32: 75 to 97% of their "
    "intervals held, and 23% harm was said where 9% was true)"
)
"""Reason of rates of true effects that are to be read with care."""
_APPROXIMATE = {
    "regimes": (
        "mean 95 to 100%, in a few runs with 2% of changed answers or 3 models 50 to 100%; median and observed rates "
        "80 to 100%; true rates 85 to 100%, though where nothing has any effect win_rate_true is about one half"
    ),
    "roles": (
        "scores of donors 94 to 100%, of recipients 91 to 98%; ranks, all of a ranking, 95 to 100%; observed harm "
        "91 to 99%; true rates of a cell 91 to 99%, with 32 items a target 78 to 97%"
    ),
    "variance": (
        "variances without noise 85 to 100%, with 32 items a target 50 to 100%, where tasks act on each other 10 to "
        "90%; their shares 95 to 100%, there 50 to 65%"
    ),
    "recommendations": (
        "90 to 96%, graded 91%, where nothing has any effect 98 to 100%; a target's first source is then, and in a "
        "6 x 6 grid, about half a standard error too high"
    ),
}
"""What `make coverage` measured, by table; the whole of it stands in docs/statistics.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of the analysis; a number that cannot be computed is null and its row has a ``reason``."""

    name: str
    """Name in ``grid analyze NAME`` and of its files."""
    row: str
    """What one row is about."""
    estimand: str
    """What its numbers estimate, over which population, and what is held fixed."""
    columns: tuple[Column, ...]
    build: Callable[[TableInputs], pl.DataFrame]
    """Returns a frame with these columns in any order; one that it leaves out is null, others are dropped."""
    shown: str = ""
    """Columns that fit a terminal, separated by spaces (see `shown_columns`); empty: all."""

    def make(self, inputs: TableInputs) -> pl.DataFrame:
        """Return the table's rows in its columns."""
        frame, schema = self.build(inputs), schema_of(self.columns)
        if frame.is_empty():
            return pl.DataFrame(schema=schema)
        return frame.select(
            (pl.col(name) if name in frame.columns else pl.lit(None).alias(name)).cast(schema[name]) for name in schema
        )

    @property
    def approximate(self) -> str:
        """How many of its 95 % intervals hold the truth, where these are not 93 to 97 %; empty: all do, or none."""
        measured = _APPROXIMATE.get(self.name)
        return f"Approximate; of 95% intervals these held the truth in made-up runs: {measured}." if measured else ""


def schema_of(columns: Iterable[Column]) -> dict[str, PolarsDataType]:
    """Return the types of columns by their names."""
    return {column.name: column.dtype for column in columns}


def with_ends(column: Column) -> tuple[Column, ...]:
    """Return a column and the two ends of its interval."""
    ends = (
        column._replace(name=f"{column.name}_{end}", meaning=f"{word} end of the interval of `{column.name}`.")
        for end, word in (("low", "Lower"), ("high", "Upper"))
    )
    return (column, *ends)


TRUE_RATES = (
    *with_ends(
        Column("win_rate_true", pl.Float64, "0..1", "Mean probability over the rows that the true delta is above 0.")
    ),
    *with_ends(
        Column("harm_rate_true", pl.Float64, "0..1", "The same that the true delta is at or below the harm cut.")
    ),
)
MODEL = Column("model", pl.String, "", "Base model.")
SEED = Column("seed", pl.Int64, "", "Training seed of the adapter.")
PAIR_COLUMNS = (
    Column("source_task", pl.String, "", "Task that the adapter was trained on."),
    Column("source_language", pl.String, "", "Language that the adapter was trained on."),
    Column("target_task", pl.String, "", "Task that was scored."),
    Column("target_language", pl.String, "", "Language that was scored."),
)
SOURCE_NAME = Column("source", pl.String, "", "Name of the source, of any kind.")
SOURCE_KIND = Column("source_kind", pl.String, "", "Kind of the source: `cell` is an adapter trained on one cell.")
REGIME = Column("regime", pl.String, "", "Relation of source to target: MT-ML, MT-CL, CT-ML, CT-CL or `all transfer`.")
CONFIDENCE = Column("confidence", pl.Float64, "0..1", "Level of the intervals (setting).")
REMARK = Column("remark", pl.String, "", "What must be said of an imported delta, such as a baseline run otherwise.")
REASON = Column("reason", pl.String, "", "Why a number of the row is null or to be read with care.")


@dataclass(frozen=True, slots=True)
class AnalysisTables:
    """All tables; each is also an attribute: ``tables.regimes`` is ``tables["regimes"]``."""

    frames: Mapping[str, pl.DataFrame]
    """Frames by the names in the registry, in its order."""

    def __getitem__(self, name: str) -> pl.DataFrame:
        """Return a table by its name."""
        return self.frames[name]

    def __getattr__(self, name: str) -> pl.DataFrame:
        """Return a table by its name."""
        if name.startswith("_") or name not in self.frames:
            raise AttributeError(f"there is no table {name!r}; expected one of {list(self.frames)}")
        return self.frames[name]

    @property
    def single_source(self) -> pl.DataFrame:
        """The transfer table without sources of other kinds, for matrices, figures and sentences."""
        return self.transfer.filter(pl.col("source_task").is_not_null())

    def named(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """Yield every table with its name; that of variants only where there are some."""
        yield from ((name, frame) for name, frame in self.frames.items() if name != "variants" or frame.height)
