"""The size of a request as it is shown: figures by model, and by kind of source."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from transfergrid.store.adaptive import EXPECTED_CHANGE, EXPECTED_MEAN_PP, EXPECTED_SD_PP
from transfergrid.wording import format_bytes, format_duration


@dataclass(frozen=True, slots=True)
class KindEstimate:
    """The part of a model's size that one kind of source has."""

    what: str
    """``base``, ``cell``, ``mixture``, ``merge``, or ``variant`` with its name."""
    n_adapters: int
    n_adapters_to_train: int
    n_adapter_bytes: int
    """Of what is to be made."""
    n_items: int
    """Item scorings that are left."""
    n_unique_tokens: int
    """Tokens left with every distinct prefix of a cell computed once."""
    expected_s: float | None
    """Scoring time at the rate measured in this run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEstimate:
    """The size of one model's part of a request."""

    model: str
    n_adapters: int
    n_adapters_to_train: int
    n_adapter_bytes: int
    """Of the adapters that are to be trained."""
    n_training_bytes: int
    """Memory of full fine-tuning: weights, gradients, AdamW and the best epoch in float32; 0: none is to be made."""
    n_cells: int
    """(source, target) pairs that were asked for."""
    n_finished: int
    """Pairs of these in the store; their keys are compared when they are scored."""
    n_items: int
    """Item scorings that are left; with stopping, this and what follows from it are what is expected."""
    n_requests: int
    """(item, choice) scorings that are left."""
    n_repeated_tokens: int
    """Tokens left if every choice repeated its context."""
    n_unique_tokens: int
    """Tokens left with every distinct prefix of a cell computed once."""
    n_unscorable_items: int
    """Items of one pass over the targets that are too long."""
    n_truncated_items: int
    """Items of one pass over the targets whose context is cut on the left."""
    n_score_bytes: int
    """Of the rows that are left to store."""
    expected_s: float | None
    """Scoring time at the rate measured in this run; None before anything is measured."""
    kinds: tuple[KindEstimate, ...] = ()
    """One entry per kind of source where there are others than the base and adapters of one cell."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The size of a request."""

    models: tuple[ModelEstimate, ...]
    unavailable: Mapping[str, str]
    """Reason by model that cannot be planned."""
    expected_share: float | None = None
    """Share of the adapters' items that is expected to be scored if pairs may stop; None: they may not."""

    def as_json(self) -> dict[str, Any]:
        """Return the estimate for a program."""
        share = {} if self.expected_share is None else {"expected_share": self.expected_share}
        return {"models": [asdict(model) for model in self.models], "unavailable": dict(self.unavailable), **share}

    def rows(self) -> pl.DataFrame:
        """Return one row per model."""
        return pl.DataFrame([asdict(model) for model in self.models]).drop("kinds")

    def __rich__(self) -> RenderableType:
        """Render one column per model for a few, one row per model in blocks of figures for more."""
        if len(self.models) > _FEW_MODELS:
            starts = range(0, len(_FIGURES), _BLOCK)
            tables = [_by_model(self.models, _FIGURES[start : start + _BLOCK]) for start in starts]
        else:
            tables = [_by_figure(self.models)] if self.models else []
        tables += [_by_kind(model) for model in self.models if model.kinds]
        lines = [f"{model}: {reason}" for model, reason in self.unavailable.items()]
        lines += [
            f"{each.model}: full fine-tuning takes {format_bytes(each.n_training_bytes)} of memory beside the base"
            for each in self.models
            if each.n_training_bytes
        ]
        if self.expected_share is not None:
            lines.append(
                f"adaptive: {self.expected_share:.0%} of the adapters' items are expected to be scored and are counted "
                f"here, if adapters change {EXPECTED_CHANGE:.0%} of the answers and true deltas are {EXPECTED_MEAN_PP} "
                f"pp, standard deviation {EXPECTED_SD_PP} pp"
            )
        return Group(*tables, *(Text(line) for line in lines))


_TITLE = "What is left to do"
_FEW_MODELS = 2
"""Models that stand side by side in 80 columns."""
_HEAD_WIDTH = 8
"""Characters of a line above such a figure."""
_BLOCK = 4
"""Figures that stand beside a model's name in 80 columns."""

_Figure = tuple[str, Callable[[ModelEstimate], str]]
_FIGURES: tuple[_Figure, ...] = (
    ("(source, target) cells", lambda model: f"{model.n_cells:,}"),
    ("done already", lambda model: f"{model.n_finished:,}"),
    ("item scorings", lambda model: f"{model.n_items:,}"),
    ("requests (item x choice)", lambda model: f"{model.n_requests:,}"),
    ("items too long", lambda model: f"{model.n_unscorable_items:,}"),
    ("items cut", lambda model: f"{model.n_truncated_items:,}"),
    ("tokens, contexts repeated", lambda model: f"{model.n_repeated_tokens:,}"),
    ("tokens, each prefix once", lambda model: f"{model.n_unique_tokens:,}"),
    ("adapters to make", lambda model: f"{model.n_adapters_to_train:,} of {model.n_adapters:,}"),
    ("adapters on disk", lambda model: format_bytes(model.n_adapter_bytes)),
    ("scores on disk", lambda model: format_bytes(model.n_score_bytes)),
    (
        "scoring time",
        lambda model: "not measured yet" if model.expected_s is None else format_duration(model.expected_s),
    ),
)


def _by_figure(models: Sequence[ModelEstimate]) -> Table:
    table = Table(title=_TITLE)
    table.add_column("")
    for model in models:
        table.add_column(Text(model.model), justify="right", overflow="fold")
    for name, show in _FIGURES:
        table.add_row(name, *(show(model) for model in models))
    return table


def _by_model(models: Sequence[ModelEstimate], figures: Sequence[_Figure]) -> Table:
    table = Table(title=_TITLE if figures[0] is _FIGURES[0] else None, pad_edge=False)
    table.add_column("model", overflow="fold")
    for name, _ in figures:
        table.add_column(textwrap.fill(name, _HEAD_WIDTH), justify="right", no_wrap=True)
    for model in models:
        table.add_row(Text(model.model), *(show(model) for _, show in figures))
    return table


def _by_kind(model: ModelEstimate) -> Table:
    table = Table(title=Text(f"By kind of source, {model.model}"))
    for name in ("", "to make", "on disk", "item scorings", "tokens, each prefix once", "scoring time"):
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    for each in model.kinds:
        made = f"{each.n_adapters_to_train:,} of {each.n_adapters:,}" if each.n_adapters else "-"
        seconds = "-" if each.expected_s is None else format_duration(each.expected_s)
        size = format_bytes(each.n_adapter_bytes)
        table.add_row(each.what, made, size, f"{each.n_items:,}", f"{each.n_unique_tokens:,}", seconds)
    return table
