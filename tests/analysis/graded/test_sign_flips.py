"""The fast sign flips against their definition: temperatures matched by root finding in every flip."""

import numpy as np
import pytest
from scipy import stats

from tests.analysis.graded import slow
from transfergrid.analysis.graded import sign_flips
from transfergrid.analysis.graded.sign_flips import FlipColumns, draw_signs, flip_columns, sign_flip_tests
from transfergrid.analysis.graded.temperature import match_temperature, probabilities, shifted


def columns(base: np.ndarray, adapters: np.ndarray, gold: np.ndarray) -> FlipColumns:
    """Columns of adapters, shape [P, I, C], against a base at temperature 1."""
    first = probabilities(shifted(base.T), gold, 1.0)
    scored = np.ones(adapters.shape[:2], dtype=bool)
    sharpness = np.full(len(adapters), first.top.mean())
    z = shifted(np.moveaxis(adapters, 2, 0))
    inverse = match_temperature(z, scored, sharpness=sharpness, inverse=1.0)
    return flip_columns(first, probabilities(z, gold, inverse[:, None]), scored)


@pytest.mark.parametrize(("n_items", "largest", "spread"), [(10, 0.6, 0.12), (32, 0.3, 0.06), (400, 0.05, 0.015)])
def test_statistics_of_flips_are_near_those_of_matching_anew(n_items: int, largest: float, spread: float) -> None:
    base, adapter, gold = slow.draw(np.random.default_rng(n_items), n_items)
    data = columns(base, adapter[None], gold)
    signs = draw_signs(n_items, 1023 if n_items == 10 else 250, seed=0)
    flips = sign_flips._flips(data, slice(0, 1), signs)
    fast = sign_flips._statistics(flips, np.zeros_like(flips.n))[0]
    matched = adapter / slow.match(base, adapter, gold).temperature
    exact = slow.flip_statistics(base, matched, gold, signs)
    assert fast[0] == pytest.approx(exact[0], abs=1e-3)  # nothing flipped: no expansion
    assert np.abs(fast - exact).max() < largest
    assert (fast - exact).std() < spread


@pytest.mark.parametrize("gain", [0.0, 0.5, 1.5])
def test_ten_items_are_flipped_in_every_way_and_p_equals_the_slow_enumeration(gain: float) -> None:
    base, adapter, gold = slow.draw(np.random.default_rng(5), 10, gain=gain)
    found = sign_flip_tests(columns(base, adapter[None], gold), confidence=0.95, seed=0)
    matched = adapter / slow.match(base, adapter, gold).temperature
    signs = draw_signs(10, 1999, seed=0)
    assert len({tuple(each) for each in signs}) == 1024
    exact = np.abs(slow.flip_statistics(base, matched, gold, signs))
    p_value = (exact >= exact[0] * (1 - 1e-9)).mean()
    assert found.p_value[0] == pytest.approx(p_value, abs=0.02, rel=0.1)


def test_the_interval_holds_the_means_that_are_not_rejected() -> None:
    generator = np.random.default_rng(6)
    for n_items in (12, 60):
        base, _, gold = slow.draw(generator, n_items)
        adapters = np.stack([slow.draw(generator, n_items)[1] for _ in range(30)])
        data = columns(base, adapters, gold)
        found = sign_flip_tests(data, confidence=0.95, seed=0)
        holds_zero = (found.low <= 0) & (found.high >= 0)
        assert (holds_zero == (found.p_value > 0.05)).mean() > 0.96
        assert (found.low < data.columns[0].mean(axis=1)).all()


def test_rare_statistics_have_small_p_near_the_t_distribution() -> None:
    base, adapter, gold = slow.draw(np.random.default_rng(7), 400, gain=0.5)
    found = sign_flip_tests(columns(base, adapter[None], gold), confidence=0.95, seed=0)
    each = slow.match(base, adapter, gold)
    by_t = 2 * stats.t.sf(each.mean / each.se, 399)
    assert by_t < 1e-5
    assert 0.1 * by_t < found.p_value[0] < 10 * by_t
    assert found.p_below[0] == found.p_value[0] / 2


def test_nothing_changed_is_p_1_and_has_the_rule_of_three_and_one_item_no_test() -> None:
    base, _, gold = slow.draw(np.random.default_rng(8), 40)
    found = sign_flip_tests(columns(base, base[None], gold), confidence=0.95, seed=0)
    assert [each[0] for each in found] == pytest.approx([1.0, 0.5, -3 / 40, 3 / 40])
    data = columns(base, base[None], gold)
    data.scored[:, 1:] = False
    assert np.isnan([each[0] for each in sign_flip_tests(data, confidence=0.95, seed=0)]).all()


def test_items_that_are_not_there_do_not_count() -> None:
    base, adapter, gold = slow.draw(np.random.default_rng(9), 40)
    few = columns(base[:30], adapter[None, :30], gold[:30])
    padded = FlipColumns(
        np.pad(few.scored, ((0, 0), (0, 10))), np.pad(few.columns, ((0, 0), (0, 0), (0, 10))), few.slopes, few.bends
    )
    one, other = (sign_flip_tests(each, confidence=0.95, seed=0) for each in (few, padded))
    for field in range(4):
        assert one[field][0] == pytest.approx(other[field][0], abs=0.04)
