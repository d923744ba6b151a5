"""The scorer whose model lives in a ``grid serve`` elsewhere: plans here, passes there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from transfergrid.engine.adapters.applied import require_effect, require_modules
from transfergrid.engine.interfaces import (
    Adapter,
    AdapterError,
    EngineLostError,
    ItemLoglikelihoods,
    Prepared,
)
from transfergrid.engine.planning.planner import PlanLimits
from transfergrid.engine.scorers.passes import PlannedScorer, PreparedSteps, probe_step
from transfergrid.engine.scorers.prepared import refuse_greedy, require_own
from transfergrid.engine.server.client import MissingAdapterError, ServerChangedError, ServerClient
from transfergrid.engine.server.retries import TransientError
from transfergrid.engine.server.wire import ServerFacts

Logprobs = npt.NDArray[np.float32]


class ServerScorer(PlannedScorer):
    """Scores prepared items through a server; implements ``interfaces.Scorer``.

    A pass is one request. A request that breaks off is sent again; items that were given already are not given twice.
    """

    def __init__(self, client: ServerClient, facts: ServerFacts) -> None:
        super().__init__(PlanLimits(**facts.limits), facts.max_model_len)
        self._client = client
        self._facts = facts
        self._probe = probe_step(facts.vocab_size, self.limits.block_size)
        self._base_probe: Logprobs | None = None
        self._loads: dict[str, Future[None]] = {}
        """Adapters by their name on the server: loaded, or being loaded."""
        self._proven: set[str] = set()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="server-adapters")

    def score(
        self, prepared: Prepared, adapter: Adapter | None = None, *, greedy: bool = False
    ) -> Iterator[ItemLoglikelihoods]:
        """Yield every item once, as soon as it is done, in no fixed order; None scores the base.

        Raises:
            ScoringError: If the items were prepared by another kind of scorer, or greedy matches are asked for.
            AdapterError: If the server cannot load the adapter, or does not apply it as saved.
            EngineLostError: If the server is gone, or was started again otherwise.
        """
        refuse_greedy(greedy, "server")
        return self._score_pass(require_own(prepared, PreparedSteps), adapter)

    def prefetch(self, adapter: Adapter) -> None:
        """Start to load the adapter that is scored next; returns at once."""
        self._start_load(adapter)

    def close(self) -> None:
        """Unload this client's adapters from the server, which goes on running."""
        self._loader.shutdown()
        with suppress(EngineLostError):
            while self._loads:
                self._client.unload_adapter(self._loads.popitem()[0])
        self._client.close()

    def _score_pass(self, prepared: PreparedSteps, adapter: Adapter | None) -> Iterator[ItemLoglikelihoods]:
        """Run one pass; start it again after failures that pass."""
        logprobs = np.full(prepared.plan.n_slots, np.nan, dtype=np.float32)
        n_given, n_failures = 0, 0
        while n_given < len(prepared.packed):
            try:
                name = None if adapter is None else self._prove(adapter)
                for index, values in enumerate(self._steps(prepared.packed, name)):
                    logprobs[prepared.plan.steps[index].score_slots] = values
                    if index >= n_given:
                        n_given, n_failures = index + 1, 0
                        yield from prepared.plan.loglikelihoods(logprobs, index)
            except (TransientError, MissingAdapterError, ServerChangedError) as error:
                n_failures += 1
                self._recover(error, adapter, n_failures)

    def _steps(self, packed: Sequence[bytes], name: str | None) -> Iterator[Logprobs]:
        for payload in self._client.score(packed, adapter=name, instance=self._facts.instance):
            yield np.frombuffer(payload, dtype="<f4")

    def _recover(self, error: Exception, adapter: Adapter | None, n_failures: int) -> None:
        """Get ready to send a pass again.

        Raises:
            EngineLostError: If it failed too often, or the server is not what it was.
        """
        self._client.pause(n_failures, error)
        if isinstance(error, MissingAdapterError) and adapter is not None:  # another client unloaded it
            self._forget(_server_name(adapter))
        facts = self._client.facts()
        if facts.instance == self._facts.instance:
            return
        if replace(facts, instance=self._facts.instance) != self._facts:
            raise EngineLostError(
                f"the server at {self._client.url} was started again with other settings; give the same command again: "
                "finished cells are kept"
            ) from error
        self._facts = facts
        self._base_probe = None
        for name in list(self._loads):
            self._forget(name)

    def _prove(self, adapter: Adapter) -> str:
        """Load an adapter, check once that the server applies the same files, and return its name there."""
        name = _server_name(adapter)
        self._start_load(adapter).result()
        if name in self._proven:
            return name
        self._unload_others(name)
        modules, content_hash = self._client.describe_adapter(name)
        if content_hash != adapter.content_hash:
            raise AdapterError(
                f"adapter {adapter.name!r} is another one at the server's {str(adapter.path)!r}; let both see the same "
                "files"
            )
        require_modules(adapter, modules)
        if self._base_probe is None:
            (self._base_probe,) = self._steps([self._probe], None)
        (probe,) = self._steps([self._probe], name)
        require_effect(adapter, probe, self._base_probe)
        self._proven.add(name)
        return name

    def _start_load(self, adapter: Adapter) -> Future[None]:
        """Load an adapter unless that was begun already."""
        name = _server_name(adapter)
        if name not in self._loads:
            self._loads[name] = self._loader.submit(self._client.load_adapter, name, adapter.path)
        return self._loads[name]

    def _unload_others(self, name: str) -> None:
        """Unload adapters that are done with; one that was fetched in advance stays."""
        for other in [other for other in self._loads if other in self._proven and other != name]:
            self._forget(other)
            self._client.unload_adapter(other)

    def _forget(self, name: str) -> None:
        self._loads.pop(name, None)
        self._proven.discard(name)


def _server_name(adapter: Adapter) -> str:
    """Return an adapter's name on the server: unique per content, whatever its readable part."""
    return f"{adapter.name.partition('@')[0]}@{adapter.content_hash[:16]}"
