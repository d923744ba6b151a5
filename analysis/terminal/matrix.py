"""The transfer matrix in colour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from transfergrid.analysis.terminal.colours import diverging_style, strong_limit

_CELL_WIDTH = 6
METRICS = {"accuracy": "mean_pp", "graded": "graded_mean_pp"}
"""Column of the matrices by what is shown."""
_WORDS = {"accuracy": "delta", "graded": "graded transfer"}


@dataclass(frozen=True, slots=True)
class MatrixView:
    """Every task's donor x recipient matrix of languages; as many columns side by side as the terminal takes."""

    matrices: pl.DataFrame
    """Table of `language_matrix_table`."""
    metric: str = "accuracy"
    """One of `METRICS`."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield one matrix per task, in blocks of columns that fit."""
        if self.matrices.is_empty():
            yield Text("matrix: no MT-CL deltas, so there are no language pairs")
            return
        column, word = METRICS[self.metric], _WORDS[self.metric]
        matrices = self.matrices.drop_nulls(column)
        if matrices.is_empty():
            yield Text(f"matrix: no {word}; 'grid analyze transfer --csv' says why")
            return
        limit = strong_limit(matrices[column].to_list())
        for (task,), part in matrices.partition_by("task", as_dict=True, maintain_order=True).items():
            yield Text(f"{task} (mean MT-CL {word} in pp; row: source, column: target)", style="bold")
            yield from _matrix_blocks(part.with_columns(mean_pp=column), limit, options.max_width)
        yield Text(
            f"Blue helps, orange harms, strongest colour from {limit:.1f} pp; '.': no {word}. "
            "Standard errors: --csv or --json."
        )


def _matrix_blocks(part: pl.DataFrame, limit: float, width: int) -> Iterator[RenderableType]:
    values = {(source, target): mean for source, target, mean in part.select("source", "target", "mean_pp").iter_rows()}
    sources, targets = (sorted(part[side].unique()) for side in ("source", "target"))
    label = max(map(len, [*sources, *targets])) + 1
    cell = max(_CELL_WIDTH, label)
    n_fit = max((width - label) // cell, 1)
    for start in range(0, len(targets), n_fit):
        block = targets[start : start + n_fit]
        lines = [Text(" " * label + "".join(f"{target:>{cell}}" for target in block))]
        lines += [_matrix_line(source, block, values, limit=limit, widths=(label, cell)) for source in sources]
        yield Group(*lines, Text(""))


def _matrix_line(
    source: str,
    targets: Sequence[str],
    values: Mapping[tuple[str, str], float],
    *,
    limit: float,
    widths: tuple[int, int],
) -> Text:
    line = Text(f"{source:<{widths[0]}}", no_wrap=True)
    for target in targets:
        value = values.get((source, target))
        if value is None:
            line.append(f"{'.':>{widths[1]}}")
        else:
            line.append(f"{value:>+{widths[1]}.1f}", style=diverging_style(value, limit))
    return line
