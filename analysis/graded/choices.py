"""The choices of item rows: what is compared, ties, and the gold choice's log-likelihood."""

from __future__ import annotations

import numpy as np
import polars as pl

from transfergrid.analysis.arrays import BoolArray, FloatArray, IntArray

_CHUNK = 2**16
"""Rows whose arrays stay in the processor's cache."""


class ItemChoices:
    """The choices of a model's item rows."""

    def __init__(self, frame: pl.DataFrame) -> None:
        """Take gold, log-likelihoods and lengths from rows in SCORE_SCHEMA."""
        self.lengths = frame["loglikelihoods_nats"].list.len().fill_null(0).cast(pl.Int64).to_numpy().astype(np.intp)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])[:-1]
        filled = frame if self.lengths.all() else frame.filter(pl.Series(self.lengths > 0))
        # one place more than there are choices: what is looked up where a row has none
        self.values = np.append(filled["loglikelihoods_nats"].explode().fill_null(np.nan).to_numpy(), np.nan)
        self.chars = np.append(filled["choice_chars"].explode().fill_null(1).to_numpy(), 1)
        self.gold = frame["gold"].fill_null(0).to_numpy().astype(np.intp)

    def ties(self, *, by_length: BoolArray) -> BoolArray:
        """Return whether two choices share the best value, shape [rows]; some rows' are per character."""
        filled = np.flatnonzero(self.lengths)
        found = np.zeros(len(self.lengths), dtype=np.bool_)
        for start in range(0, len(filled), _CHUNK):
            rows = filled[start : start + _CHUNK]
            found[rows] = self._ties(rows, by_length[rows])
        return found

    def _ties(self, rows: IntArray, by_length: BoolArray) -> BoolArray:
        lengths, starts = self.lengths[rows], self.starts[rows] - self.starts[rows[0]]
        span = slice(self.starts[rows[0]], self.starts[rows[-1]] + lengths[-1])
        values = self.values[span]
        if by_length.any():
            values = np.where(np.repeat(by_length, lengths), values / self.chars[span], values)
        if (lengths == lengths[0]).all():  # sums over the first axis are several times faster
            by_choice = np.ascontiguousarray(values.reshape(-1, lengths[0]).T)
            of_all: BoolArray = (by_choice == by_choice.max(axis=0)).sum(axis=0) > 1
            return of_all
        best = np.maximum.reduceat(values, starts)
        found: BoolArray = np.add.reduceat((values == np.repeat(best, lengths)).astype(np.int32), starts) > 1
        return found

    def compared(self, rows: IntArray, *, by_length: bool, width: int) -> FloatArray:
        """Return the statistic whose largest value is the prediction, in nats, shape [width, n]; -inf: no such choice.

        With ``by_length`` it is log-likelihood per character times the item's mean characters.
        """
        choice = np.arange(max(width, 1))[:, None]
        there = choice < self.lengths[rows]
        places = np.where(there, self.starts[rows] + choice, 0)
        found = self.values[places]
        if by_length:
            chars = np.where(there, self.chars[places], 0)
            mean = chars.sum(axis=0) / np.maximum(self.lengths[rows], 1)
            found = found / np.maximum(chars, 1) * mean
        return np.where(there, found, -np.inf)

    def per_char(self, rows: IntArray, width: int) -> FloatArray:
        """Return log-likelihoods per character, shape [width, n]; NaN: no such choice."""
        choice = np.arange(width)[:, None]
        places = np.where(choice < self.lengths[rows], self.starts[rows] + choice, len(self.values) - 1)
        found: FloatArray = self.values[places] / np.maximum(self.chars[places], 1)
        return found
