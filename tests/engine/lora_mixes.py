"""Batches of tokens by adapter id (0: base) as they come up: one adapter, all different, uniform, skewed."""

from __future__ import annotations

import numpy as np

_IDS = (0, 7, 3, 9)


def _drawn(shares: tuple[float, ...]) -> tuple[int, ...]:
    """Return 40 tokens drawn with the shares of the base and three adapters."""
    return tuple(np.random.default_rng(0).choice(_IDS, size=40, p=shares).tolist())


MIXES = {
    "identical": (7,) * 40,
    "base": (0,) * 40,
    "distinct": _IDS * 10,
    "uniform": _drawn((0.25, 0.25, 0.25, 0.25)),
    "skewed": _drawn((0.05, 0.85, 0.05, 0.05)),
}
"""Adapter ids per token by the mix's name."""
