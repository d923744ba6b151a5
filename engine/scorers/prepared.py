"""Prepared items of scorers that plan nothing, and the check that a scorer gets items of its own kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.interfaces import Prepared, TokenisedItem

Own = TypeVar("Own", bound=Prepared)


@dataclass(frozen=True, slots=True)
class WholeItems:
    """Items as they came: every choice is scored with its whole context."""

    items: tuple[TokenisedItem, ...]

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.items)

    @property
    def n_computed_tokens(self) -> int:
        """Same as the repeated tokens: nothing is shared."""
        return self.n_repeated_tokens

    @property
    def n_repeated_tokens(self) -> int:
        """Tokens of every context with every choice."""
        return sum(len(item.context) + len(tokens) - 1 for item in self.items for tokens in item.continuations)


def require_own(prepared: Prepared, kind: type[Own]) -> Own:
    """Return prepared items as the kind that a scorer makes.

    Raises:
        ScoringError: If another kind of scorer prepared them.
    """
    if not isinstance(prepared, kind):
        raise ScoringError(f"items prepared by another scorer ({type(prepared).__name__}); prepare them with this")
    return prepared
