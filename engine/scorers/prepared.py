"""Prepared items of scorers that plan nothing, and checks of the items that a scorer gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.interfaces import Prepared, TokenisedItem
from transfergrid.grid import UserError

Own = TypeVar("Own", bound=Prepared)


@dataclass(frozen=True, slots=True)
class WholeItems(Prepared):
    """Items as they came: every choice is scored with its whole context, and nothing is shared."""

    items: tuple[TokenisedItem, ...]

    @classmethod
    def of(cls, items: Sequence[TokenisedItem]) -> WholeItems:
        """Keep some items."""
        n_tokens = sum(len(item.context) + len(tokens) - 1 for item in items for tokens in item.continuations)
        return cls(len(items), n_tokens, n_tokens, tuple(items))


def require_own(prepared: Prepared, kind: type[Own]) -> Own:
    """Return prepared items as the kind that a scorer makes.

    Raises:
        ScoringError: If another kind of scorer prepared them.
    """
    if not isinstance(prepared, kind):
        raise ScoringError(f"items prepared by another scorer ({type(prepared).__name__}); prepare them with this")
    return prepared


def refuse_greedy(greedy: bool, engine: str) -> None:
    """Refuse what a scorer cannot say.

    Raises:
        ScoringError: If it is asked.
    """
    if greedy:
        raise ScoringError(
            f"the engine {engine!r} does not say whether greedy decoding would give a text, which this task asks; use "
            "--engine vllm"
        )


def require_fit(items: Iterable[TokenisedItem], longest: int) -> None:
    """Check that no item has more than ``longest`` input tokens.

    Raises:
        UserError: If one has; names the first.
    """
    for item in items:
        n_tokens = item.n_inputs
        if n_tokens > longest:
            raise UserError(
                f"item {item.item_id!r} has {n_tokens} tokens, the engine was started for {longest}; raise "
                "engine.max_model_len"
            )
