"""Runs a plan on paper: KV blocks hold prefixes instead of keys and values, and every read is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from transfergrid.engine.interfaces import ItemLoglikelihoods, TokenisedItem
from transfergrid.engine.planning.planner import Plan, Step

Prefix = tuple[int, ...]


def logprob_of(prefix: Sequence[int], token: int) -> float:
    """A made-up log-probability that depends on every token before."""
    digest = hashlib.blake2b(repr((tuple(prefix), token)).encode(), digest_size=4).digest()
    return -int.from_bytes(digest, "little") / 2**30


def expected_sums(item: TokenisedItem) -> list[float]:
    """Sums of the made-up log-probabilities, choice by choice, without any plan."""
    sums = []
    for continuation in item.continuations:
        path = item.context + continuation
        sums.append(sum(logprob_of(path[:at], path[at]) for at in range(len(item.context), len(path))))
    return sums


class SimulatedCache:
    """KV blocks of a plan; raises AssertionError on the first wrong read, write or copy."""

    def __init__(self, plan: Plan) -> None:
        self.block_size = plan.limits.block_size
        self.n_blocks = plan.limits.n_blocks
        self.blocks: dict[int, list[Prefix | None]] = {}

    def _cells(self, block_ids: tuple[int, ...], low: int, high: int) -> list[tuple[int, int]]:
        return [(block_ids[at // self.block_size], at % self.block_size) for at in range(low, high)]

    def run(self, step: Step) -> list[Prefix]:
        """Do one step and return the prefix of each of its new rows."""
        sources = {source for source, _ in step.block_copies}
        destinations = [destination for _, destination in step.block_copies]
        assert len(set(destinations)) == len(destinations)
        assert not sources & set(destinations)
        for source, destination in step.block_copies:
            self.blocks[destination] = list(self.blocks[source])
        for sequence in step.sequences:
            self._check_prefix(sequence.token_ids.tolist()[: sequence.n_computed], sequence.block_ids)
        written: set[tuple[int, int]] = set()
        rows: list[Prefix] = []
        for sequence in step.sequences:
            path = tuple(sequence.token_ids.tolist())
            assert len(sequence.block_ids) == -(-len(path) // self.block_size)
            assert all(1 <= block <= self.n_blocks for block in sequence.block_ids)
            cells = self._cells(sequence.block_ids, sequence.n_computed, len(path))
            assert cells and not written & set(cells)
            written |= set(cells)
            for at, (block, offset) in enumerate(cells, start=sequence.n_computed):
                self.blocks.setdefault(block, [None] * self.block_size)[offset] = path[: at + 1]
                rows.append(path[: at + 1])
        for sequence in step.sequences:
            self._check_prefix(sequence.token_ids.tolist(), sequence.block_ids)
        return rows

    def _check_prefix(self, tokens: list[int], block_ids: tuple[int, ...]) -> None:
        for at, (block, offset) in enumerate(self._cells(block_ids, 0, len(tokens)), start=1):
            assert self.blocks[block][offset] == tuple(tokens[:at]), (
                f"block {block} does not hold its sequence's prefix"
            )


def run_plan(plan: Plan) -> tuple[list[ItemLoglikelihoods], list[Prefix]]:
    """Run a plan on paper and return its results and the prefixes it computed."""
    cache = SimulatedCache(plan)
    logprobs = np.full(plan.n_slots, np.nan)
    results: list[ItemLoglikelihoods] = []
    computed: list[Prefix] = []
    for index, step in enumerate(plan.steps):
        assert 1 <= step.n_new_tokens <= plan.limits.max_step_tokens
        assert len(step.sequences) <= plan.limits.max_step_sequences
        rows = cache.run(step)
        assert np.all(np.diff(step.score_rows) >= 0)
        for row, token, slot in zip(step.score_rows, step.score_tokens, step.score_slots, strict=True):
            assert np.isnan(logprobs[slot]), "a slot is scored once"
            logprobs[slot] = logprob_of(rows[row], int(token))
        computed += rows
        results += plan.loglikelihoods(logprobs, index)
    assert not np.isnan(logprobs).any()
    return results, computed
