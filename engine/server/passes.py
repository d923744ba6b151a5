"""Passes of planned steps in vLLM's server: one at a time, while the scheduler holds no requests.

A pass writes KV blocks that the scheduler knows nothing of. So the scheduler is paused first (vLLM's own
``pause_generation``, made for weight updates: requests in flight finish, new ones wait) and resumed afterwards.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE
from transfergrid.engine.planning.answers import first_answer
from transfergrid.engine.planning.packing import N_IN_FLIGHT, AdapterReference
from transfergrid.engine.server.wire import FAILED, SCORES, WAITING, pack_frame
from transfergrid.store.files import hash_files

HEARTBEAT_S = 5.0
"""Longest silence on a connection whose pass is not done."""
MAX_WAITING = 32
"""Passes that may wait for their turn; more are sent away for a while."""

_DONE = b""


@dataclass(slots=True)
class Passes:
    """The passes of one server."""

    heartbeat_s: float = HEARTBEAT_S
    n_waiting: int = 0
    """Passes that run or wait."""
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def is_full(self) -> bool:
        """Whether another pass should come back later."""
        return self.n_waiting >= MAX_WAITING

    async def run(self, engine: Any, steps: Sequence[bytes], adapter: AdapterReference | None) -> AsyncIterator[bytes]:
        """Yield one frame per step, and heartbeats while there is none; ends early when the client stops reading."""
        frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.n_waiting += 1
        task = asyncio.create_task(self._produce(engine, steps, adapter, frames))
        try:
            while True:
                try:
                    frame = await asyncio.wait_for(frames.get(), self.heartbeat_s)
                except TimeoutError:
                    frame = pack_frame(WAITING)
                if frame == _DONE:
                    return
                yield frame
        finally:
            self.n_waiting -= 1
            task.cancel()

    async def _produce(
        self, engine: Any, steps: Sequence[bytes], adapter: AdapterReference | None, frames: asyncio.Queue[bytes]
    ) -> None:
        """Run the steps when it is their turn; an engine's failure becomes the last frame."""
        try:
            async with self._turn:
                try:
                    await engine.pause_generation(mode="wait", clear_cache=False)
                    try:
                        tickets: deque[int] = deque()
                        for index in range(len(steps)):
                            for step in steps[index + len(tickets) : index + N_IN_FLIGHT]:
                                answers = await engine.collective_rpc("score_step", args=(step, adapter))
                                tickets.append(first_answer(answers))
                            scores = await engine.collective_rpc("step_scores", args=(tickets.popleft(),))
                            frames.put_nowait(pack_frame(SCORES, first_answer(scores)))
                    finally:  # the scheduler's requests get the same blocks
                        await asyncio.shield(engine.collective_rpc("clear_spoilt_blocks"))
                finally:
                    await asyncio.shield(engine.resume_generation())
        except Exception as error:
            failure = {"message": f"{type(error).__name__}: {error}", "is_lost": bool(engine.errored)}
            frames.put_nowait(pack_frame(FAILED, json.dumps(failure).encode()))
        finally:
            frames.put_nowait(_DONE)


async def describe_adapter(engine: Any, adapter: AdapterReference) -> dict[str, Any]:
    """Return the layers that carry a loaded adapter, and the hash of the files it came from."""
    modules = first_answer(await engine.collective_rpc("adapter_modules", args=(adapter,)))
    files = [Path(adapter[2]) / name for name in (CONFIG_FILE, WEIGHTS_FILE)]
    return {"modules": modules, "content_hash": await asyncio.to_thread(hash_files, files)}
