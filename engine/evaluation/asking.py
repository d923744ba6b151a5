"""Items whose texts follow prompts of their own: taken apart for a scorer, asked once where equal, and joined again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from transfergrid.engine.interfaces import Adapter, ItemLoglikelihoods, Prepared, Scorer, TokenisedItem, asked_parts

_Places = tuple[tuple[int, ...], ...]
"""Shape [R][W]: of an item's requests and their windows, among the parts that are asked."""


@dataclass(frozen=True, slots=True)
class PartedItems(Prepared):
    """Prepared items of which some are asked in parts; every request repeats its context, even where one is equal."""

    parts: Prepared
    places: tuple[_Places, ...]
    """Of every item."""
    users: Mapping[int, Sequence[int]]
    """Items that a part belongs to."""
    asks_greedy: bool


def prepare_items(scorer: Scorer, items: Sequence[TokenisedItem], *, halve_steps: bool = False) -> Prepared:
    """Plan items; of those with requests every distinct (context, continuation) is asked once.

    Takes what ``Scorer.prepare`` does.
    """
    if not any(item.requests for item in items):
        return scorer.prepare(items, halve_steps=halve_steps)
    distinct: dict[tuple[object, object], int] = {}
    parts: list[TokenisedItem] = []
    places: list[_Places] = []
    users: dict[int, list[int]] = {}
    for index, item in enumerate(items):
        places.append(tuple(tuple(_place(part, distinct, parts) for part in windows) for windows in _requests(item)))
        for place in {place for windows in places[-1] for place in windows}:
            users.setdefault(place, []).append(index)
    planned = scorer.prepare(parts, halve_steps=halve_steps)
    n_repeated = sum(len(part.context) + len(each) - 1 for part in asked_parts(items) for each in part.continuations)
    asks_greedy = any(item.asks_greedy for item in items)
    return PartedItems(
        len(items), planned.n_computed_tokens, n_repeated, planned, tuple(places), users, asks_greedy=asks_greedy
    )


def _requests(item: TokenisedItem) -> Sequence[Sequence[TokenisedItem]]:
    """Return an item's requests; an item with one context makes one of every continuation."""
    return item.requests or [[replace(item, continuations=(each,))] for each in item.continuations]


def _place(part: TokenisedItem, distinct: dict[tuple[object, object], int], parts: list[TokenisedItem]) -> int:
    """Return where a part is asked, adding it where it is new."""
    place = distinct.setdefault((part.context, part.continuations), len(parts))
    if place == len(parts):
        parts.append(part)
    return place


def score_items(scorer: Scorer, prepared: Prepared, adapter: Adapter | None) -> Iterator[ItemLoglikelihoods]:
    """Yield every item once; of those with requests one log-likelihood per request, windows summed.

    Takes and raises what ``Scorer.score`` does.
    """
    if not isinstance(prepared, PartedItems):
        yield from scorer.score(prepared, adapter)
        return
    found: dict[int, ItemLoglikelihoods] = {}
    for result in scorer.score(prepared.parts, adapter, greedy=prepared.asks_greedy):
        found[result.index] = result
        for index in prepared.users[result.index]:
            places = prepared.places[index]
            if all(place in found for windows in places for place in windows):
                yield _join(index, [[found[place] for place in windows] for windows in places])


def _join(index: int, requests: Sequence[Sequence[ItemLoglikelihoods]]) -> ItemLoglikelihoods:
    sums = tuple(math.fsum(part.loglikelihoods_nats[0] for part in windows) for windows in requests)
    if any(part.are_greedy is None for windows in requests for part in windows):
        return ItemLoglikelihoods(index, sums)
    return ItemLoglikelihoods(index, sums, tuple(all(map(_is_greedy, windows)) for windows in requests))


def _is_greedy(part: ItemLoglikelihoods) -> bool:
    return bool(part.are_greedy and part.are_greedy[0])
