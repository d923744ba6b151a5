"""A scorer without a model, for tests of what stands above the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.interfaces import Adapter, ItemLoglikelihoods, Prepared, TokenisedItem
from transfergrid.engine.scorers.prepared import WholeItems, require_own

ScoreFunction = Callable[[TokenisedItem, int, Adapter | None], float]
"""Item, index of the choice and adapter to a log-likelihood in nats."""


def hashed_loglikelihood(item: TokenisedItem, choice: int, adapter: Adapter | None) -> float:
    """Return a made-up log-likelihood that depends on the tokens and on the adapter's weights only, in (-20, 0]."""
    weights = "" if adapter is None else adapter.content_hash
    text = repr((item.context, item.continuations[choice], weights))
    digest = hashlib.blake2b(text.encode(), digest_size=6).digest()
    return -20.0 * int.from_bytes(digest, "little") / 2**48


@dataclass(slots=True)
class FakeScorer:
    """Scores by a function; the same items and adapter give the same numbers in every process.

    It yields items in reverse order, which the interface allows, so that nothing above comes to rely on an order.
    """

    function: ScoreFunction = hashed_loglikelihood
    scored: list[str | None] = field(default_factory=list)
    """Names of the adapters that were scored, in order; None is the base."""
    prefetched: list[str] = field(default_factory=list)
    """Names of the adapters that were asked for in advance, in order."""
    is_closed: bool = False

    def prepare(self, items: Sequence[TokenisedItem], *, halve_steps: bool = False) -> WholeItems:
        """Keep the items."""
        return WholeItems.of(items)

    def score(
        self, prepared: Prepared, adapter: Adapter | None = None, *, greedy: bool = False
    ) -> Iterator[ItemLoglikelihoods]:
        """Yield every item once.

        Raises:
            ScoringError: If the items were prepared by another kind of scorer, or this one is closed.
        """
        if self.is_closed:
            raise ScoringError("this scorer is closed; make a new one")
        own = require_own(prepared, WholeItems)
        self.scored.append(None if adapter is None else adapter.name)
        for index in reversed(range(own.n_items)):
            item = own.items[index]
            sums = tuple(self.function(item, choice, adapter) for choice in range(len(item.continuations)))
            yield ItemLoglikelihoods(index, sums, tuple(value > -10 for value in sums) if greedy else None)

    def prefetch(self, adapter: Adapter) -> None:
        """Note the adapter."""
        self.prefetched.append(adapter.name)

    def close(self) -> None:
        """Refuse to score from now on."""
        self.is_closed = True
