"""Steps survive the way to the workers."""

from __future__ import annotations

import numpy as np
import pytest

from transfergrid.engine.planning.packing import pack_step, unpack_step
from transfergrid.engine.planning.planner import Step, StepSequence


def random_step(random: np.random.Generator) -> Step:
    def ints(count: int) -> np.ndarray:
        return random.integers(0, 50_000, count, dtype=np.int32)

    sequences = tuple(
        StepSequence(ints(n_tokens), int(random.integers(0, n_tokens)), tuple(ints(-(-n_tokens // 32)).tolist()))
        for n_tokens in random.integers(1, 200, random.integers(1, 9)).tolist()
    )
    n_scores = int(random.integers(0, 40))
    copies = tuple((int(source), int(target)) for source, target in ints(2 * int(random.integers(0, 4))).reshape(-1, 2))
    return Step(sequences, copies, np.sort(ints(n_scores)), ints(n_scores), ints(n_scores))


@pytest.mark.parametrize("seed", range(20))
def test_packed_steps_come_back_as_they_were_less_what_is_computed_already(seed: int) -> None:
    step = random_step(np.random.default_rng(seed))
    back = unpack_step(pack_step(step))
    new = [sequence.token_ids[sequence.n_computed :] for sequence in step.sequences]
    assert np.array_equal(back.token_ids, np.concatenate(new))
    assert back.n_new.tolist() == list(map(len, new))
    assert back.n_computed.tolist() == [sequence.n_computed for sequence in step.sequences]
    assert back.block_ids.tolist() == [block for sequence in step.sequences for block in sequence.block_ids]
    assert back.n_blocks.tolist() == [len(sequence.block_ids) for sequence in step.sequences]
    assert [tuple(copy) for copy in back.block_copies.tolist()] == list(step.block_copies)
    for name in ("score_rows", "score_tokens"):
        assert np.array_equal(getattr(back, name), getattr(step, name))
