"""Tokenised items as a radix tree, cut into chains: every distinct prefix belongs to exactly one chain.

A chain is what one sequence computes: it leaves its parent chain at some depth and runs on to a leaf. Paths are
inserted in the order of the items; the first path through a node carries it (a heavy-path decomposition that keeps the
items' order), so a context runs on into its item's first choice and the other choices branch off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.interfaces import TokenisedItem
from transfergrid.engine.planning.steps import Int32Array, Int64Array


@dataclass(frozen=True, slots=True)
class Requests:
    """Every (item, choice) as one row of tokens, context and continuation."""

    tokens: Int32Array
    """All requests' tokens, one after the other."""
    starts: Int64Array
    """Shape [R]: where each request starts in ``tokens``."""
    context_lengths: Int64Array
    """Shape [R]: tokens of the context."""
    path_lengths: Int64Array
    """Shape [R]: tokens that are inputs, all but the last."""
    item_offsets: Int64Array
    """Shape [items + 1]: where each item's requests start."""

    @property
    def n_requests(self) -> int:
        """Number of (item, choice) requests."""
        return len(self.starts)


@dataclass(frozen=True, slots=True)
class Chains:
    """The tree's chains, numbered depth first: a parent before its children, a subtree without gaps."""

    parents: Int32Array
    """Shape [N]: the chain each one branches off; -1 for a root."""
    branch_depths: Int64Array
    """Shape [N]: tokens taken from the parent; the chain computes from here on."""
    lengths: Int64Array
    """Shape [N]: tokens of the whole path."""
    token_starts: Int64Array
    """Shape [N]: where the path starts in the requests' ``tokens``."""
    request_chains: Int32Array
    """Shape [R]: a chain whose path begins with the request's path."""

    @property
    def n_tokens(self) -> int:
        """Nodes of the tree: tokens that must be computed."""
        return int((self.lengths - self.branch_depths).sum())


class ScoredRows(NamedTuple):
    """The distinct (row, token) pairs to score, ascending by row; a pair's position is its slot."""

    rows: Int64Array
    """Shape [slots]: number of the row among all the chains' computed tokens, chain after chain."""
    tokens: Int32Array
    """Shape [slots]: the scored token."""
    request_slots: Int32Array
    """Slots of every request's continuation, request after request."""
    request_offsets: Int64Array
    """Shape [R + 1]: where each request starts in ``request_slots``."""


def flatten_items(items: Sequence[TokenisedItem]) -> Requests:
    """Lay all requests of some items side by side.

    Raises:
        ScoringError: If an item has no context token, no choice, or a choice without a token.
    """
    for item in items:
        if not item.context or not item.continuations or not all(item.continuations):
            raise ScoringError(
                f"item {item.item_id!r} cannot be planned; expected 1 or more tokens in the context and in each of "
                f"its choices, got {len(item.context)} and {[len(tokens) for tokens in item.continuations]}"
            )
    n_choices = np.array([len(item.continuations) for item in items], dtype=np.int64)
    contexts = np.array([len(item.context) for item in items], dtype=np.int64).repeat(n_choices)
    continuations = np.array([len(tokens) for item in items for tokens in item.continuations], dtype=np.int64)
    offsets = _offsets(contexts + continuations)
    tokens = np.empty(offsets[-1], dtype=np.int32)
    position = 0
    for item in items:
        context = np.array(item.context, dtype=np.int32)
        for continuation in item.continuations:
            middle = position + len(context)
            tokens[position:middle] = context
            position = middle + len(continuation)
            tokens[middle:position] = continuation
    return Requests(tokens, offsets[:-1], contexts, contexts + continuations - 1, _offsets(n_choices))


def build_chains(requests: Requests) -> Chains:
    """Build the radix tree of the requests' paths and cut it into chains."""
    order = _sorted_requests(requests)
    leaves, first_uses, leaf_of_sorted, common = _leaves(requests, order)
    parents, depths = _insert(first_uses, common)
    numbers = _depth_first(parents, first_uses)
    representatives = order[leaves]
    by_number = np.argsort(numbers)
    request_chains = np.empty(requests.n_requests, dtype=np.int32)
    request_chains[order] = numbers[leaf_of_sorted]
    has_parent = parents >= 0
    parents[has_parent] = numbers[parents[has_parent]]
    return Chains(
        parents=parents[by_number].astype(np.int32),
        branch_depths=depths[by_number],
        lengths=requests.path_lengths[representatives][by_number],
        token_starts=requests.starts[representatives][by_number],
        request_chains=request_chains,
    )


def find_scored_rows(requests: Requests, chains: Chains) -> ScoredRows:
    """Find the row and token of every continuation's tokens; equal ones share a slot."""
    row_starts = _offsets(chains.lengths - chains.branch_depths)[:-1] - chains.branch_depths
    owners, lows, highs, owner_requests = _row_spans(requests, chains)
    counts = highs - lows
    depths = np.arange(counts.sum()) - (_offsets(counts)[:-1] - lows).repeat(counts)
    rows = row_starts[owners].repeat(counts) + depths
    targets = requests.tokens[requests.starts[owner_requests].repeat(counts) + depths + 1]
    pairs, slots = np.unique((rows << 32) | targets, return_inverse=True)
    return ScoredRows(
        rows=pairs >> 32,
        tokens=(pairs & 0xFFFFFFFF).astype(np.int32),
        request_slots=slots.astype(np.int32),
        request_offsets=_offsets(requests.path_lengths - requests.context_lengths + 1),
    )


def _offsets(counts: Int64Array) -> Int64Array:
    """Return the running sum, starting at 0."""
    return np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(counts, dtype=np.int64)))


def _sorted_requests(requests: Requests) -> Int64Array:
    """Return the requests in lexicographic order of their paths, equal ones in their own order."""
    data = requests.tokens.astype(">u4").tobytes()
    ends = (requests.starts + requests.path_lengths) * 4
    keys = [data[low:high] for low, high in zip((requests.starts * 4).tolist(), ends.tolist(), strict=True)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def _common_lengths(requests: Requests, order: Int64Array) -> list[int]:
    """Return the length of the common start of every two neighbours in the order."""
    starts, lengths = requests.starts[order].tolist(), requests.path_lengths[order].tolist()
    tokens, common = requests.tokens, []
    for left, right in zip(range(len(order)), range(1, len(order)), strict=False):
        length = min(lengths[left], lengths[right])
        differs = tokens[starts[left] : starts[left] + length] != tokens[starts[right] : starts[right] + length]
        first = int(differs.argmax())
        common.append(first if differs[first] else length)
    return common


def _leaves(requests: Requests, order: Int64Array) -> tuple[Int64Array, list[int], Int64Array, list[int]]:
    """Keep the paths that are no start of another one.

    Returns:
        Positions of the leaves in the order; the first request that uses each leaf; the leaf of every position;
        common starts of neighbouring leaves.
    """
    common = _common_lengths(requests, order)
    lengths = requests.path_lengths[order]
    is_leaf = np.ones(len(order), dtype=bool)
    is_leaf[:-1] = lengths[:-1] > np.array(common, dtype=np.int64)
    leaves = np.flatnonzero(is_leaf)
    leaf_of_position = np.cumsum(is_leaf) - is_leaf
    # a path that starts its successor has at least as much in common with it as with any path before
    starts_of_leaves = _offsets(np.diff(leaves, prepend=-1))[:-1]
    kept = [common[start - 1] for start in starts_of_leaves[1:].tolist()]
    return leaves, np.minimum.reduceat(order, starts_of_leaves).tolist(), leaf_of_position, kept


def _insert(first_uses: list[int], common: list[int]) -> tuple[Int64Array, Int64Array]:
    """Return every leaf's parent and branch depth when leaves are inserted in the order of their first use.

    A new leaf branches off the inserted neighbour with which it has most in common; the neighbours at its insertion
    are those left after taking out all later ones, found by taking leaves out of a linked list, last one first.
    """
    n_leaves = len(first_uses)
    order = sorted(range(n_leaves), key=first_uses.__getitem__)
    before, after = list(range(-1, n_leaves - 1)), [*range(1, n_leaves), -1]
    shared = [0, *common, 0]  # shared[i]: with the left neighbour that is still in the list
    neighbours, depths = [-1] * n_leaves, [0] * n_leaves
    for leaf in reversed(order):
        left, right = before[leaf], after[leaf]
        with_left, with_right = shared[leaf], shared[right] if right >= 0 else 0
        neighbours[leaf], depths[leaf] = (left, with_left) if with_left >= with_right else (right, with_right)
        if left >= 0:
            after[left] = right
        if right >= 0:
            before[right] = left
            shared[right] = min(with_left, with_right)
    parents = [-1] * n_leaves
    for leaf in order:
        parent, depth = neighbours[leaf], depths[leaf]
        while depth and depths[parent] >= depth:
            parent = parents[parent]
        parents[leaf] = parent if depth else -1
    return np.array(parents, dtype=np.int64), np.array(depths, dtype=np.int64)


def _depth_first(parents: Int64Array, first_uses: list[int]) -> Int64Array:
    """Number the leaves' chains depth first, siblings in the order of their first use."""
    children: dict[int, list[int]] = {}
    for chain in sorted(range(len(first_uses)), key=first_uses.__getitem__, reverse=True):
        children.setdefault(int(parents[chain]), []).append(chain)
    numbers = np.empty(len(first_uses), dtype=np.int64)
    stack = children.get(-1, [])
    for number in range(len(first_uses)):
        chain = stack.pop()
        numbers[chain] = number
        stack += children.get(chain, ())
    return numbers


def _row_spans(requests: Requests, chains: Chains) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
    """Split every request's scored rows by the chain that computes them.

    Returns:
        Chain, first depth, depth after the last, and request of every span, request after request.
    """
    parents, branch_depths = chains.parents.tolist(), chains.branch_depths.tolist()
    spans: list[tuple[int, int, int, int]] = []
    bounds = zip(
        chains.request_chains.tolist(),
        (requests.context_lengths - 1).tolist(),
        requests.path_lengths.tolist(),
        strict=True,
    )
    for request, (chain, low, high) in enumerate(bounds):
        first_span = len(spans)
        while high > low:
            begin = branch_depths[chain]
            if begin < high:
                spans.append((chain, max(begin, low), high, request))
                high = max(begin, low)
            chain = parents[chain]
        spans[first_span:] = spans[first_span:][::-1]
    columns = np.array(spans, dtype=np.int64).reshape(-1, 4).T
    return columns[0], columns[1], columns[2], columns[3]
