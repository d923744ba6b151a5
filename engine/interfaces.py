"""What the engine's parts hand to each other: tokenised items, adapters, scorers and their makers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from transfergrid.grid import UserError


class AdapterError(UserError):
    """An adapter that is missing, broken, of another base, or not applied."""


class EngineLostError(UserError):
    """An engine elsewhere that is gone or not the one expected: nothing can be scored now, what is scored is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenisedItem:
    """One item as token ids, the same for every adapter of a model."""

    item_id: str
    context: tuple[int, ...]
    """Shape [T], 1 or more: tokens that are conditioned on."""
    continuations: tuple[tuple[int, ...], ...]
    """Shape [C][K]: tokens that are scored, one tuple of 1 or more per choice."""
    n_truncated_tokens: int = 0
    """Context tokens cut on the left because the item was too long."""
    requests: tuple[tuple[TokenisedItem, ...], ...] = ()
    """Shape [R][W]: of an item whose continuations follow prompts of their own, and which then has no context and no
    continuations itself: every request as the windows of its text, whose log-likelihoods add up."""
    asks_greedy: bool = False
    """Whether it matters, too, which continuations greedy decoding would give."""

    @property
    def n_inputs(self) -> int:
        """Longest sequence of inputs; the last scored token is none."""
        return len(self.context) + max(map(len, self.continuations)) - 1


def asked_parts(items: Iterable[TokenisedItem]) -> list[TokenisedItem]:
    """Return what a scorer is asked for some items: themselves, or the windows of their requests."""
    return [part for item in items for part in (itertools.chain(*item.requests) if item.requests else (item,))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """LoRA weights in peft's folder format, or a full fine-tune in such a folder; checked."""

    name: str
    """Unique per set of weights: a readable name and the start of the content hash."""
    path: Path
    content_hash: str
    """SHA-256 over adapter_config.json and the weights."""
    rank: int
    layers: frozenset[str] = frozenset()
    """Linear layers whose A is not zero, named from ``layers.`` on; empty where nothing of it is served."""
    strength: float = 0.0
    """Largest scale x |A| x |B| of a layer, by the largest values of A and B; 0: scores as the base."""
    is_full: bool = False
    """Whether its weights take the place of the base's; it has no rank then, no layers and no strength."""


@dataclass(frozen=True, slots=True)
class ItemLoglikelihoods:
    """Result of one item under one adapter."""

    index: int
    """Position in the items that were prepared."""
    loglikelihoods_nats: tuple[float, ...]
    """Shape [C], float64 sums over the continuation's tokens; NaN where the model's output was not finite."""
    are_greedy: tuple[bool, ...] | None = None
    """Shape [C]: whether greedy decoding would give just this continuation; None: not asked for."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Items planned once, scored under many adapters; every kind of scorer keeps more."""

    n_items: int
    n_computed_tokens: int
    """Tokens that one adapter's pass computes."""
    n_repeated_tokens: int
    """Tokens a pass would compute if every choice repeated its context."""


class Scorer(Protocol):
    """One model in memory; scores prepared items under the base or any adapter."""

    def prepare(self, items: Sequence[TokenisedItem], *, halve_steps: bool = False) -> Prepared:
        """Plan the items of a batch of cells once; the result serves every adapter.

        Args:
            items: In the order in which results are wanted.
            halve_steps: Make the steps half as large, so that the same sums run in another order; a scorer without
                steps plans as before.
        """

    def score(
        self, prepared: Prepared, adapter: Adapter | None = None, *, greedy: bool = False
    ) -> Iterator[ItemLoglikelihoods]:
        """Yield every item once, as soon as it is done, in no fixed order; None scores the base.

        Raises:
            ScoringError: If ``greedy`` asks which continuations greedy decoding would give, and this scorer cannot say.
        """

    def prefetch(self, adapter: Adapter) -> None:
        """Start to load the adapter that is scored next; returns at once."""

    def close(self) -> None:
        """Free the model."""


class ScorerMaker(Protocol):
    """One way to score: makes the scorer of a base model; ``evaluation.engines`` lists them by name."""

    def key_parts(self) -> Mapping[str, Any]:
        """Return what of the engine decides the numbers: its name, its version and its "way" of scoring."""

    def device_name(self) -> str | None:
        """Return the name of the device that scores, for the record; None where it is not known."""

    def check_adapter(self, folder: Path, model_folder: Path, *, name: str) -> Adapter:
        """Check that an adapter can be used with a base, before anything is loaded.

        Raises:
            AdapterError: If it cannot.
        """

    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> Scorer:
        """Load a model.

        Args:
            model_folder: Local folder of the base.
            longest_tokens: Longest sequence to come.
            max_rank: Largest rank of the adapters to come.

        Raises:
            UserError: If the model, the length or the rank is beyond the limits of this way.
        """
