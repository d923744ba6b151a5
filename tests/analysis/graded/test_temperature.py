import numpy as np
import pytest

from tests.analysis.graded import slow
from transfergrid.analysis.graded.temperature import (
    base_temperature,
    match_temperature,
    probabilities,
    shifted,
)


def test_half_the_median_margin_by_hand() -> None:
    z = np.array([[0.0, -3.0, -9.0], [-4.0, -3.0, -5.0], [-1.0, -2.0, -np.inf]])
    # margins of the gold: 3, -1, 1
    assert base_temperature(z.T, np.array([0, 0, 0])) == 0.5
    assert base_temperature(np.zeros((2, 3)), np.array([0, 1, 0])) == 0


def test_probabilities_and_their_derivatives_equal_softmax_and_finite_differences() -> None:
    base, _, gold = slow.draw(np.random.default_rng(0), 20)
    base[3, (gold[3] + 1) % 4] = -np.inf  # a choice that cannot be
    base[4, gold[4]] = -np.inf
    z, step = shifted(base.T), 1e-4
    found = probabilities(z, gold, 0.7)
    expected = slow.softmax(np.where(np.isfinite(base), base, -1e9) * 0.7)
    np.testing.assert_allclose(found.gold, expected[np.arange(20), gold], atol=1e-12)
    np.testing.assert_allclose(found.top, expected.max(axis=1), atol=1e-12)
    up, down = (probabilities(z, gold, 0.7 * np.exp(sign * step)) for sign in (1, -1))
    for value, slope, bend in ((0, 2, 4), (1, 3, 5)):
        np.testing.assert_allclose(found[slope], (up[value] - down[value]) / (2 * step), atol=1e-7)
        np.testing.assert_allclose(found[bend], (up[value] - 2 * found[value] + down[value]) / step**2, atol=1e-6)


@pytest.mark.parametrize("heat", [0.01, 0.75, 1.25, 40.0])
def test_matched_temperatures_equal_root_finding(heat: float) -> None:
    base, adapter, gold = slow.draw(np.random.default_rng(1), 60, heat=heat)
    t0 = slow.base_temperature(base, gold)
    sharpness = np.array([probabilities(shifted(base.T), gold, 1 / t0).top.mean()])
    (found,) = match_temperature(
        shifted(adapter.T)[:, None], np.ones((1, 60), bool), sharpness=sharpness, inverse=1 / t0
    )
    assert 1 / found == pytest.approx(slow.match(base / t0, adapter, gold).temperature, rel=1e-7)


def test_a_side_that_cannot_be_as_sure_matches_no_temperature() -> None:
    base, adapter, _ = slow.draw(np.random.default_rng(2), 30)
    sides = shifted(np.stack([np.zeros_like(base.T), adapter.T], axis=1))
    scored = np.array([[True] * 30, [False] * 30])
    found = match_temperature(sides, scored, sharpness=np.array([0.8, 0.8]), inverse=1.0)
    assert np.isnan(found).all()
