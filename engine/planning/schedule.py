"""Chains laid out over steps and KV blocks.

Depth first: what comes first in the tree's order and is ready goes into the step, so few blocks are alive; what is
ready further on fills the step up. A chain is ready when its parent has computed the branch in an earlier step. Its
blocks before the branch are its ancestors'; the block that holds the branch is copied unless the branch lies on a block
boundary. Blocks go back as soon as no chain that is still to come needs them.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.planning.radix import Chains

MIN_CUT_TOKENS = 64
"""A chain is not cut to fill less than this, unless a step is smaller."""
MAX_PASSED_OVER = 64
"""Ready chains that are too long for a step's rest and are passed over before the step is closed."""


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """What one step and the KV cache can hold.

    Raises:
        ScoringError: If a limit is below 1.
    """

    max_step_tokens: int
    """Most new tokens of one step."""
    max_step_sequences: int
    """Most sequences of one step."""
    n_blocks: int
    """Logical KV blocks, numbered 1..n_blocks."""
    block_size: int
    """Tokens per KV block."""

    def __post_init__(self) -> None:
        """Refuse limits that fit nothing."""
        if min(self.max_step_tokens, self.max_step_sequences, self.n_blocks, self.block_size) < 1:
            raise ScoringError(f"{self!r} fits no step; expected 1 or more of each")

    def halved(self) -> PlanLimits:
        """Return limits with half the tokens per step."""
        return replace(self, max_step_tokens=max(1, self.max_step_tokens // 2))


class Piece(NamedTuple):
    """Tokens ``begin`` to ``end`` of one chain's path, computed in one step."""

    chain: int
    begin: int
    end: int
    block_ids: tuple[int, ...]


class StepLayout(NamedTuple):
    """What one step computes, and the block copies before it."""

    pieces: list[Piece]
    block_copies: list[tuple[int, int]]


class Schedule(NamedTuple):
    """All steps, and the most blocks that are taken at once."""

    steps: list[StepLayout]
    peak_blocks: int


def schedule_chains(chains: Chains, limits: PlanLimits) -> Schedule:
    """Lay chains out over steps.

    Raises:
        ScoringError: If the KV blocks cannot hold some chain with what it branches off.
    """
    return _Scheduler(chains, limits).run()


@dataclass(slots=True)
class _Needs:
    """Blocks that chains take, counted once for all; all lists have one entry per chain."""

    first: list[int]
    """Index in the path of the first block that is the chain's own."""
    own: list[int]
    """Own blocks while the chain is computed."""
    kept: list[int]
    """Own blocks that its children need after that."""
    below: list[int]
    """Most further blocks that finishing its children one after the other takes at once."""
    subtree_end: list[int]
    """Number after the last chain of the subtree."""
    children: list[list[int]]
    """Children in ascending order of their branch."""

    @classmethod
    def count(cls, chains: Chains, block_size: int) -> _Needs:
        """Count from the leaves up."""
        parents = chains.parents.tolist()
        n_chains = len(parents)
        first = (chains.branch_depths // block_size).tolist()
        own = (-(-chains.lengths // block_size) - chains.branch_depths // block_size).tolist()
        up_to_branch = (-(-chains.branch_depths // block_size)).tolist()
        kept, below, subtree_end = [0] * n_chains, [0] * n_chains, list(range(1, n_chains + 1))
        for chain in range(n_chains - 1, -1, -1):
            parent = parents[chain]
            if parent >= 0:
                kept[parent] = max(kept[parent], up_to_branch[chain] - first[parent])
                below[parent] = max(below[parent], own[chain], kept[chain] + below[chain])
                subtree_end[parent] = max(subtree_end[parent], subtree_end[chain])
        children: list[list[int]] = [[] for _ in range(n_chains)]
        for chain in np.argsort(chains.branch_depths, kind="stable").tolist():
            if parents[chain] >= 0:
                children[parents[chain]].append(chain)
        return cls(first, own, kept, below, subtree_end, children)

    def peak(self, chain: int) -> int:
        """Most blocks that finishing a chain with all below it takes at once."""
        return max(self.own[chain], self.kept[chain] + self.below[chain])


@dataclass(slots=True)
class _Open:
    """A chain that has blocks."""

    path_blocks: tuple[int, ...]
    n_held: int
    """Own blocks that are not given back yet."""
    n_done: int
    """Tokens of the path that are computed or in the present step."""
    n_released: int = 0
    """Children that have become ready."""
    n_unfinished: int = 0
    """Leading children, by branch, among which the deepest is not finished yet."""


class _Scheduler:
    """State of one layout."""

    def __init__(self, chains: Chains, limits: PlanLimits) -> None:
        """Count what chains need and refuse what can never fit."""
        self.limits = limits
        self.needs = _Needs.count(chains, limits.block_size)
        self.parents: list[int] = chains.parents.tolist()
        self.depths: list[int] = chains.branch_depths.tolist()
        self.lengths: list[int] = chains.lengths.tolist()
        self.free = list(range(limits.n_blocks, 0, -1))
        self.ready = [chain for chain, parent in enumerate(self.parents) if parent < 0]
        self.open: dict[int, _Open] = {}
        self.finished = bytearray(len(self.parents))
        self.most_below = max(self.needs.below, default=0)
        self.least_free = len(self.free)
        most = max(map(self.needs.peak, self.ready), default=0)
        if most > self.limits.n_blocks:
            raise ScoringError(
                f"a KV cache of {self.limits.n_blocks} blocks of {self.limits.block_size} tokens cannot hold an item "
                f"that needs {most} blocks; raise engine.kv_cache_gib or lower engine.max_model_len"
            )

    def run(self) -> Schedule:
        """Fill step after step until every chain is computed."""
        steps = []
        while self.ready:
            step = self._fill_step()
            steps.append(step)
            self.least_free = min(self.least_free, len(self.free))
            self._end_step(step)
        return Schedule(steps, self.limits.n_blocks - self.least_free)

    def _fill_step(self) -> StepLayout:
        """Take ready chains in the tree's order while tokens, sequences and blocks last."""
        step, passed_over = StepLayout([], []), []
        n_left = self.limits.max_step_tokens
        min_cut = min(MIN_CUT_TOKENS, self.limits.max_step_tokens)
        while self.ready and n_left and len(step.pieces) < self.limits.max_step_sequences:
            chain = heapq.heappop(self.ready)
            n_missing = self.lengths[chain] - (self.open[chain].n_done if chain in self.open else self.depths[chain])
            fits = n_missing <= n_left or n_left >= min_cut
            if not fits or not (chain in self.open or self._admit(chain, step)):
                passed_over.append(chain)
                if step.pieces and len(passed_over) >= MAX_PASSED_OVER:
                    break
                continue
            step.pieces.append(self._take(chain, min(n_missing, n_left)))
            n_left -= min(n_missing, n_left)
        for chain in passed_over:
            heapq.heappush(self.ready, chain)
        return step

    def _take(self, chain: int, n_tokens: int) -> Piece:
        """Compute the next tokens of a chain that has its blocks."""
        state = self.open[chain]
        begin, state.n_done = state.n_done, state.n_done + n_tokens
        n_blocks = -(-state.n_done // self.limits.block_size)
        return Piece(chain, begin, state.n_done, state.path_blocks[:n_blocks])

    def _admit(self, chain: int, step: StepLayout) -> bool:
        """Give a chain its blocks if everything that is open can still be finished after that."""
        if not self._can_admit(chain):
            return False
        first, n_own = self.needs.first[chain], self.needs.own[chain]
        own = tuple(self.free.pop() for _ in range(n_own))
        inherited: tuple[int, ...] = ()
        if (parent := self.parents[chain]) >= 0:
            blocks = self.open[parent].path_blocks
            inherited = blocks[:first]
            if self.depths[chain] % self.limits.block_size:
                step.block_copies.append((blocks[first], own[0]))
        self.open[chain] = _Open(
            path_blocks=inherited + own,
            n_held=n_own,
            n_done=self.depths[chain],
            n_unfinished=len(self.needs.children[chain]),
        )
        return True

    def _can_admit(self, chain: int) -> bool:
        """Whether all open chains can be finished one after the other once this chain has its blocks.

        The banker's rule: a chain's children may need blocks that only the end of other chains gives back. In the
        usual case the rest serves even the neediest chain, and there is nothing to work out.
        """
        needs, n_rest = self.needs, len(self.free) - self.needs.own[chain]
        if n_rest >= self.most_below:
            return True
        if n_rest < 0:
            return False
        kept = {chain: needs.kept[chain]}
        n_rest += needs.own[chain] - needs.kept[chain]
        for other, state in self.open.items():
            computed = state.n_done == self.lengths[other]
            kept[other] = min(state.n_held, needs.kept[other]) if computed else needs.kept[other]
            n_rest += state.n_held - kept[other]
        for other in sorted(kept, key=lambda number: (needs.subtree_end[number], -number)):
            if needs.below[other] > n_rest:
                return False
            n_rest += kept[other]
        return True

    def _end_step(self, step: StepLayout) -> None:
        """Make children ready, put cut chains back, give blocks back."""
        for piece in step.pieces:
            state, children = self.open[piece.chain], self.needs.children[piece.chain]
            while state.n_released < len(children) and self.depths[children[state.n_released]] <= piece.end:
                heapq.heappush(self.ready, children[state.n_released])
                state.n_released += 1
            if piece.end < self.lengths[piece.chain]:
                heapq.heappush(self.ready, piece.chain)
            else:
                self._give_back(piece.chain)

    def _give_back(self, chain: int) -> None:
        """Free the blocks of a computed chain that no unfinished child needs, and its ancestors' after it."""
        while chain >= 0:
            state, children = self.open[chain], self.needs.children[chain]
            while state.n_unfinished and self.finished[children[state.n_unfinished - 1]]:
                state.n_unfinished -= 1
            n_kept = 0
            if state.n_unfinished:
                deepest = self.depths[children[state.n_unfinished - 1]]
                n_kept = -(-deepest // self.limits.block_size) - self.needs.first[chain]
            own = state.path_blocks[self.needs.first[chain] :]
            self.free.extend(own[n_kept : state.n_held])
            state.n_held = n_kept
            if state.n_unfinished:
                return
            self.finished[chain] = True
            del self.open[chain]
            chain = self.parents[chain]
            if chain >= 0 and self.open[chain].n_done < self.lengths[chain]:
                return
