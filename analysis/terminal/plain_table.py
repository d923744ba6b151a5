"""The look that all tables in a terminal share."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text


def plain_table(title: Text | str | None = None, *, style: str | None = None) -> Table:
    """Return a table without columns and edges, its title on the left in a style such as ``bold``."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), title_style=style)
    table.title, table.title_justify = title, "left"
    return table
