"""Flips between two scorings, by hand."""

from __future__ import annotations

import pytest

from transfergrid.perf.flips import count_flips


def test_flips_are_counted_by_both_metrics() -> None:
    # item 1: acc flips from 0 to 1, acc_norm stays at 1 (-6/2 < -8/4; -9/2 < -8/4)
    # item 2: nothing flips
    flips = count_flips([(-6.0, -8.0), (-1.0, -2.0)], [(-9.0, -8.0), (-1.5, -2.0)], [(2, 4), (1, 1)])
    assert (flips.n_items, flips.n_flips_acc, flips.n_flips_acc_norm) == (2, 1, 0)
    assert (flips.median_diff_nats, flips.max_diff_nats) == (0.25, 3.0)


def test_scorings_of_other_items_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        count_flips([(-1.0, -2.0)], [], [(1, 1)])
