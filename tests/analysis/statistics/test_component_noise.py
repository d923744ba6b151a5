import numpy as np
import pytest

from transfergrid.analysis.statistics.component_noise import noise_of_components
from transfergrid.analysis.statistics.reml import fit_reml


def test_the_noise_of_every_component_equals_the_slow_definition() -> None:
    generator = np.random.default_rng(1)
    source, target = np.repeat(np.arange(6), 8), np.tile(np.arange(8), 6)
    kept = generator.permutation(48)[:43]
    codes = {"source": source[kept], "target": target[kept]}
    y = (generator.normal(0, 1, 6)[source] + generator.normal(0, 2, 8)[target])[kept] + generator.normal(0, 1, 43)
    found = fit_reml(y, codes)
    values = generator.normal(0, 0.2, (20, 30)).astype(np.float32)
    rows = generator.permutation(43)[:20]
    z = [np.eye(int(each.max()) + 1)[each] for each in codes.values()]
    parts = [*(each @ each.T for each in z), np.eye(43)]
    inverse = np.linalg.inv(sum(v * part for v, part in zip(found.variances, parts, strict=True)))
    one = inverse.sum(axis=1)
    p = inverse - np.outer(one, one) / one.sum()
    noise = np.zeros((43, 43))
    noise[np.ix_(rows, rows)] = values.astype(float) @ values.T.astype(float)
    b = [np.trace(p @ part @ p @ noise) for part in parts]
    information = [[np.trace(p @ first @ p @ second) for second in parts] for first in parts]
    slow = np.linalg.solve(information, b)
    assert noise_of_components(found, codes, [(rows, values)]) == pytest.approx(slow, rel=1e-4)


def test_where_every_source_meets_every_target_what_noise_adds_is_taken_off_again() -> None:
    """Noise that all sources of a target share adds its variance to the target's component, and to nothing else."""
    generator = np.random.default_rng(2)
    source, target = np.repeat(np.arange(30), 40), np.tile(np.arange(40), 30)
    y = generator.normal(0, 1, 30)[source] + generator.normal(0, 2, 40)[target] + generator.normal(0, 1, 1200)
    shared = generator.normal(0, 1, (40, 200)).astype(np.float32) / np.float32(200**0.5)
    found = fit_reml(y, {"source": source, "target": target})
    noise = noise_of_components(found, {"source": source, "target": target}, [(np.arange(1200), shared[target])])
    assert noise == pytest.approx([0, 1, 0], abs=0.02)
