"""A worker: the process of a cluster that does units; one base model in one thread, results as a stream."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from transfergrid.grid import UserError

_BATCH_WAIT_S = 0.2
_MAX_BATCH = 64


class ModelRefusedError(UserError):
    """A base model that this worker cannot load; another one might."""


class Probe(NamedTuple):
    """A file that shows a worker whether it sees the run folder."""

    path: Path
    content: str

    def is_seen(self) -> bool:
        """Whether the file is there with its content."""
        try:
            return self.path.read_text(encoding="ascii") == self.content
        except (OSError, ValueError):
            return False


class Greeting(NamedTuple):
    """What a worker answers once its process runs."""

    life: str
    """Differs after every start of the worker's process."""
    sees_run: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a unit ended; the last message of its stream."""

    reason: str = ""


class Done(Outcome):
    """Every job is finished or was reported as failed."""


class Refused(Outcome):
    """The worker cannot load the model."""


class Broken(Outcome):
    """The worker or the engine failed unexpectedly."""


class Fatal(Outcome):
    """A fault that another worker would meet too, such as a full disk."""


Send = Callable[[Any], None]


class UnitRunner(Protocol):
    """Does units in a worker; keeps the base model of the last one."""

    def run(self, unit: Any, send: Send) -> None:
        """Do a unit; send events and results.

        Raises:
            ModelRefusedError: If the model cannot be loaded here.
            UserError: If another worker would fail as well.
        """


MakeRunner = Callable[[str], UnitRunner]
"""Makes the runner of a worker from its name; must survive pickling."""


class UnitHost:
    """A worker, as an actor of Ray.

    All work is done in one thread of its own, because engines bind themselves to the thread that loaded them, and so
    that progress is sent while it runs.
    """

    def __init__(self, name: str, make_runner: MakeRunner) -> None:
        if not os.environ.get("CUDA_VISIBLE_DEVICES"):
            os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # workers of one machine share its cores
        self._name = name
        self._life = os.urandom(8).hex()
        self._make_runner = make_runner
        self._runner: UnitRunner | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="units")

    def hello(self, probe: Probe) -> Greeting:
        """Return which process this is and whether it sees the run folder."""
        return Greeting(self._life, probe.is_seen())

    def run(self, unit: Any) -> Iterator[list[Any]]:
        """Do a unit; yield what it sends in batches, the outcome last."""
        messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread.submit(self._run, unit, messages.put)
        while True:
            batch = _next_batch(messages)
            yield batch
            if isinstance(batch[-1], Outcome):
                return

    def _run(self, unit: Any, send: Send) -> None:
        try:
            if self._runner is None:
                self._runner = self._make_runner(self._name)
            self._runner.run(unit, send)
        except ModelRefusedError as error:
            send(Refused(str(error)))
        except UserError as error:
            send(Fatal(str(error)))
        except BaseException as error:
            send(Broken(f"{type(error).__name__}: {error}"))
        else:
            send(Done())


def _next_batch(messages: queue.SimpleQueue[Any]) -> list[Any]:
    """Wait for a message; add those that come soon after it."""
    batch = [messages.get()]
    while len(batch) < _MAX_BATCH and not isinstance(batch[-1], Outcome):
        try:
            batch.append(messages.get(timeout=_BATCH_WAIT_S))
        except queue.Empty:
            break
    return batch
