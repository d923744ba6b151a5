"""Graded transfer by its definition: one item, one pair, one flip at a time, temperatures by root finding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import optimize


def softmax(u: np.ndarray) -> np.ndarray:
    weights = np.exp(u - u.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


class Matched(NamedTuple):
    mean: float
    """Mean change of the gold's probability from the first side to the second, the second's temperature matched."""
    se: float
    temperature: float


def match(first: np.ndarray, second: np.ndarray, gold: np.ndarray) -> Matched:
    """Compare two sides, shape [I, C] each, the first at temperature 1; the standard error by leaving out nothing."""
    items = np.arange(len(gold))
    before = softmax(first)
    wanted = before.max(axis=1).mean()
    log_t = optimize.brentq(lambda x: softmax(second / np.exp(x)).max(axis=1).mean() - wanted, -9, 9, xtol=1e-13)
    after = softmax(second / np.exp(log_t))
    step = 1e-5
    near = softmax(second / np.exp(log_t - step))
    ratio = (near[items, gold] - after[items, gold]).mean() / (near.max(axis=1) - after.max(axis=1)).mean()
    change = after[items, gold] - before[items, gold]
    values = change - ratio * (after.max(axis=1) - before.max(axis=1))
    return Matched(change.mean(), values.std(ddof=1) / len(gold) ** 0.5, float(np.exp(log_t)))


def base_temperature(z: np.ndarray, gold: np.ndarray) -> float:
    margins = [abs(row[g] - max(np.delete(row, g))) for row, g in zip(z, gold, strict=True)]
    return float(np.median(margins)) / 2


def flip_statistics(first: np.ndarray, second: np.ndarray, gold: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Return the studentised statistic of every flip of the sides, shape [B]."""
    found = []
    for flip in signs:
        kept = (flip > 0)[:, None]
        each = match(np.where(kept, first, second), np.where(kept, second, first), gold)
        found.append(each.mean / each.se)
    return np.array(found)


def draw(
    generator: np.random.Generator, n_items: int, *, noise: float = 0.6, gain: float = 0.0, heat: float = 1.25
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw base and adapter, shape [I, C], and gold: exchangeable but for a temperature and a gain at the gold."""
    gold = generator.integers(0, 4, n_items)
    lasting = 2 * generator.normal(size=(n_items, 4))
    lasting[np.arange(n_items), gold] += 1
    base, adapter = (lasting + noise * generator.normal(size=lasting.shape) for _ in range(2))
    adapter[np.arange(n_items), gold] += gain
    return base, heat * adapter, gold
