"""Passes take turns, beat while they wait, and stop when nobody reads on."""

from __future__ import annotations

import asyncio

from tests.engine.fake_server import LIMITS, FakeEngine
from tests.engine.server.test_scorer import items_of
from transfergrid.engine.planning.planner import PlanLimits
from transfergrid.engine.scorers.passes import PlannedScorer
from transfergrid.engine.server.passes import Passes
from transfergrid.engine.server.wire import SCORES, WAITING, unpack_frames

STEPS = PlannedScorer(PlanLimits(**LIMITS), 128).prepare(items_of(3)).packed


async def kinds(passes: Passes, engine: FakeEngine) -> bytes:
    frames = [frame async for frame in passes.run(engine, STEPS, None)]
    return b"".join(kind for kind, _ in unpack_frames(frames))


def test_two_passes_never_share_the_blocks() -> None:
    async def both(engine: FakeEngine) -> list[bytes]:
        passes = Passes()
        return await asyncio.gather(kinds(passes, engine), kinds(passes, engine))

    engine = FakeEngine(step_s=0.001)
    assert asyncio.run(both(engine)) == [SCORES * len(STEPS)] * 2
    one = ["pause wait", *["step"] * len(STEPS), "clear", "resume"]
    assert engine.calls == one * 2


def test_a_slow_step_is_bridged_by_heartbeats() -> None:
    found = asyncio.run(kinds(Passes(heartbeat_s=0.01), FakeEngine(step_s=0.1)))
    assert found.replace(WAITING, b"") == SCORES * len(STEPS)
    assert found.count(WAITING) >= len(STEPS)


def test_a_reader_who_leaves_ends_the_pass_and_the_scheduler_goes_on() -> None:
    async def leave(engine: FakeEngine) -> int:
        passes = Passes()
        frames = passes.run(engine, STEPS, None)
        await anext(frames)
        await frames.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0.1)
        assert await kinds(passes, engine) == SCORES * len(STEPS)
        return passes.n_waiting

    engine = FakeEngine(step_s=0.005)
    assert asyncio.run(leave(engine)) == 0
    first = engine.calls[: engine.calls.index("resume")]
    assert first.count("step") < len(STEPS)
    assert first[-1] == "clear"
    assert engine.calls.count("resume") == engine.calls.count("pause wait") == 2
