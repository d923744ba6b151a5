"""Adaptive evaluation: in which order the items of a cell are scored, and when a (source, target) pair stops.

Every pair is looked at after 100, 150, ... of its n items. It stops where it could hardly become significant at n:
where ``(|d| n / m + .64 sqrt(c (n - m))) / sqrt(n c) < 2`` after m items with a net change d and a change rate c. That
is the z that the final test would have if what is left went on as before, and .64 standard deviations better. A pair
never stops for success, so the one test at n keeps its level: stopping can only take rejections away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from transfergrid.store.files import hash_text

FIRST_LOOK, LOOK_EVERY = 100, 50
"""Items before the first look, and between two looks."""
FUTILE_Z = 2.0
"""A pair stops where its final test is not expected to get to this z."""
LUCK = 0.64
"""Standard deviations by which the items that are left may do better than those that were seen."""


Slice = TypeVar("Slice")
FloatArray = npt.NDArray[np.float64]


class Design(NamedTuple):
    """How far an adaptive evaluation goes."""

    max_items: int | None = None
    """Most items of a pair; None: all of the target's."""

    def n_planned(self, n_all: int) -> int:
        """Return the items of a pair that never stops, n."""
        return n_all if self.max_items is None else min(self.max_items, n_all)


class Seen(NamedTuple):
    """What was seen of a pair."""

    n_items: int = 0
    """First items of the order that were scored, whether or not they have a value."""
    n_paired: int = 0
    """Of these: with a value of adapter and base."""
    net: float = 0.0
    """Sum of the differences, adapter less base."""
    squares: float = 0.0
    """Sum of the squared differences: the changed items, where values are 0 and 1."""

    def plus(self, values: Mapping[str, float | None], base: Mapping[str, float | None]) -> Seen:
        """Return what is seen with the values of some more items, by their ids."""
        pairs = ((value, base.get(item)) for item, value in values.items())
        changes = [value - other for value, other in pairs if value is not None and other is not None]
        net, squares = self.net + sum(changes), self.squares + sum(change**2 for change in changes)
        return Seen(self.n_items + len(values), self.n_paired + len(changes), net, squares)


def seeded_order(item_ids: Iterable[str]) -> list[str]:
    """Return ids in the order in which they are scored: by a hash, the same in every language, model and run."""
    return sorted(item_ids, key=hash_text)


def common_slice(item_ids: Iterable[str]) -> Sequence[str]:
    """Return the ids that every pair has, stopped or not: those before the first look."""
    return seeded_order(item_ids)[:FIRST_LOOK]


def is_futile(seen: Seen, n: int) -> bool:
    """Whether a pair stops; one whose items have no values of the base does not, since nothing is known of it."""
    if not seen.n_paired:
        return False
    return bool(hoped_z(np.array([seen.net]), np.array([seen.squares]), seen.n_paired, n)[0] < FUTILE_Z)


def hoped_z(net: FloatArray, squares: FloatArray, m: int, n: int) -> FloatArray:
    """Return the z that pairs may hope for at n items, having net changes and squared changes after m of them.

    Without a change it is 0: d is 0, c cancels, and what is left of the rule is ``.64 sqrt(1 - m / n)``, below 2.
    """
    rate = squares / m
    hoped: FloatArray = np.abs(net) * n / m + LUCK * np.sqrt(rate * max(n - m, 0))
    z: FloatArray = np.divide(hoped, np.sqrt(n * rate), out=np.zeros_like(hoped), where=rate > 0)
    return z


EXPECTED_CHANGE = 0.12
"""Share of the answers that an adapter changes, as assumed before anything is scored."""
EXPECTED_MEAN_PP, EXPECTED_SD_PP = 0.8, 1.4
"""True deltas of pairs, as assumed before anything is scored."""
_N_SIMULATED = 4000


class Simulated(NamedTuple):
    """Pairs that went through a design."""

    n_items: FloatArray
    """Shape [N]: items that were scored."""
    net: FloatArray
    """Shape [N]: net change over these."""
    changed: FloatArray
    """Shape [N]: changed items of these."""


def simulate(delta_pp: FloatArray, n: int, change_rate: float, generator: np.random.Generator) -> Simulated:
    """Draw pairs with these true deltas, shape [N], and stop them as the design does."""
    up, down = (np.clip((change_rate + sign * delta_pp / 100) / 2, 0, 1) for sign in (1, -1))
    net, changed, items = np.zeros(len(delta_pp)), np.zeros(len(delta_pp)), np.zeros(len(delta_pp))
    going = np.arange(len(delta_pp))
    looks = [*range(FIRST_LOOK, n, LOOK_EVERY), n]
    for before, m in zip([0, *looks], looks, strict=False):
        plus = generator.binomial(m - before, up[going])
        minus = generator.binomial(m - before - plus, down[going] / np.maximum(1 - up[going], 1e-9))
        net[going] += plus - minus
        changed[going] += plus + minus
        items[going] = m
        going = going[hoped_z(net[going], changed[going], m, n) >= FUTILE_Z]
    return Simulated(items, net, changed)


@cache
def expected_items(n: int) -> float:
    """Return the mean number of items that a pair with n of them is expected to get."""
    generator = np.random.default_rng(0)
    deltas = generator.normal(EXPECTED_MEAN_PP, EXPECTED_SD_PP, _N_SIMULATED)
    return float(simulate(deltas, n, EXPECTED_CHANGE, generator).n_items.mean()) if n > FIRST_LOOK else float(n)


def next_stop(seen: Seen, n_all: int, design: Design | None, *, is_base: bool) -> int | None:
    """Return up to which item a pair is scored next; None: it is done.

    Args:
        seen: What was scored of it so far.
        n_all: Items of the target.
        design: None: all items are scored at once.
        is_base: The base itself, which all pairs are compared with, is scored on all items.
    """
    n = n_all if design is None or is_base else design.n_planned(n_all)
    if seen.n_items >= n:
        return None
    if design is None or is_base or n <= FIRST_LOOK:
        return n
    if seen.n_items < FIRST_LOOK:
        return FIRST_LOOK
    if is_futile(seen, n):
        return None
    n_looks = (seen.n_items - FIRST_LOOK) // LOOK_EVERY + 1
    return min(FIRST_LOOK + n_looks * LOOK_EVERY, n)


class Joined(NamedTuple, Generic[Slice]):
    """The stored slices of a cell."""

    fitting: list[Slice]
    """Those that follow each other from the first item on."""
    others: list[Slice]
    """Those whose items are there already, or before which one is missing."""


def join_slices(slices: Iterable[Slice], extent: Callable[[Slice], tuple[int, int]]) -> Joined[Slice]:
    """Put slices in order; ``extent`` returns a slice's first item and its number of items."""
    joined: Joined[Slice] = Joined([], [])
    end = 0
    for each in sorted(slices, key=lambda each: (extent(each)[0], -extent(each)[1])):
        start, n_items = extent(each)
        fits = start == end and (n_items > 0 or not joined.fitting)
        (joined.fitting if fits else joined.others).append(each)
        end += n_items if fits else 0
    return joined
