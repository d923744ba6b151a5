"""The default scorer: one vLLM engine in memory, steps of our planner, adapters swapped between passes."""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from transfergrid.engine.adapters.applied import require_effect, require_modules
from transfergrid.engine.adapters.folder import WEIGHTS_FILE, require_unchanged
from transfergrid.engine.interfaces import (
    Adapter,
    AdapterError,
    EngineLostError,
    ItemLoglikelihoods,
    Prepared,
)
from transfergrid.engine.planning.answers import first_answer
from transfergrid.engine.planning.packing import N_IN_FLIGHT, AdapterReference
from transfergrid.engine.planning.planner import PlanLimits
from transfergrid.engine.scorers.passes import PlannedScorer, PreparedSteps, probe_step
from transfergrid.engine.scorers.prepared import require_own
from transfergrid.engine.scorers.sizes import EngineSizes


class VllmScorer(PlannedScorer):
    """Scores prepared items under the base or any adapter; implements ``interfaces.Scorer``.

    Made by ``start_vllm``. One pass runs at a time: starting another ends the one before.
    """

    def __init__(self, llm: Any, sizes: EngineSizes) -> None:
        self.sizes = sizes
        self._llm: Any = llm
        super().__init__(PlanLimits(**self._ask("scoring_limits")), sizes.max_model_len)
        self._adapter_ids: dict[str, int] = {}
        self._proven: set[str] = set()
        self._weights: str | None = None
        """Content hash of the full fine-tune in the model; None: the base."""
        self._probe = probe_step(self._ask("vocabulary_size"), self.limits.block_size)
        self._base_probe = self._run(self._probe, None)  # a model whose layers have no kernel here fails now
        self._pass = 0

    def score(
        self, prepared: Prepared, adapter: Adapter | None = None, *, greedy: bool = False
    ) -> Iterator[ItemLoglikelihoods]:
        """Yield every item once, as soon as it is done, in no fixed order; None scores the base.

        With ``greedy``, results say too which continuations greedy decoding would give.

        Raises:
            ScoringError: If the items were prepared by another kind of scorer.
            AdapterError: If the adapter changed since it was checked, is not applied as saved, or changes no score of a
                probe.
        """
        own = require_own(prepared, PreparedSteps)
        self._pass += 1
        return self._score_pass(own, adapter, self._pass, greedy=greedy)

    def prefetch(self, adapter: Adapter) -> None:
        """Start to load the adapter that is scored next; returns at once."""
        if not adapter.is_full:
            self._ask("prefetch_adapter", self._reference(adapter))

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sequence[Any], adapter: Adapter | None = None
    ) -> list[list[int]]:
        """Return the tokens that vLLM's own scheduler generates after every prompt; ends a pass that runs.

        Raises:
            AdapterError: As ``score`` does.
        """
        from vllm.lora.request import LoRARequest

        self._pass += 1
        reference = self._apply(adapter)
        request = None if reference is None else LoRARequest(*reference)
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            list(sampling),
            lora_request=request,
            use_tqdm=False,
        )
        self._ask("clear_spoilt_blocks")
        return [list(output.outputs[0].token_ids) for output in outputs]

    def peak_memory_bytes(self) -> int:
        """Return the largest memory of the first worker so far."""
        return int(self._ask("peak_memory_bytes"))

    def close(self) -> None:
        """Free the model."""
        llm, self._llm = self._llm, None
        close_llm(llm)

    def _score_pass(
        self, prepared: PreparedSteps, adapter: Adapter | None, number: int, *, greedy: bool
    ) -> Iterator[ItemLoglikelihoods]:
        """Run the steps of one pass."""
        plan = prepared.plan
        reference = self._apply(adapter)
        logprobs = np.full(plan.n_slots, np.nan, dtype=np.float32)
        chosen = np.zeros(plan.n_slots, dtype=bool) if greedy else None
        tickets: deque[int] = deque()
        for index in range(len(prepared.packed)):
            if number != self._pass:
                raise RuntimeError("another pass was started before this one ended; they share the KV blocks")
            for packed in prepared.packed[index + len(tickets) : index + N_IN_FLIGHT]:
                tickets.append(self._ask("score_step", packed, reference, greedy))
            slots, scores = plan.steps[index].score_slots, self._scores(tickets.popleft())
            logprobs[slots] = scores[: len(slots)]
            if chosen is not None:
                chosen[slots] = scores[len(slots) :] > 0
            yield from plan.loglikelihoods(logprobs, index, chosen)

    def _apply(self, adapter: Adapter | None) -> AdapterReference | None:
        """Put what is scored into place; return how steps name the adapter, None: what is in the model's own layers."""
        full = adapter if adapter is not None and adapter.is_full else None
        self._put_weights(full)
        return None if adapter is None or full else self._prove(adapter)

    def _put_weights(self, full: Adapter | None) -> None:
        """Put a full fine-tune's weights, or the base's own, into the model if others are there.

        Raises:
            AdapterError: If they cannot be loaded, changed since they were checked, or score as the base does.
            EngineLostError: If the base scores a probe in another way than before.
        """
        wanted = None if full is None else full.content_hash
        if wanted == self._weights:
            return
        self._weights = ""  # those of neither, should loading fail
        try:
            self._ask("load_weights", None if full is None else str(full.path / WEIGHTS_FILE))
        finally:
            if full is not None:
                require_unchanged(full)
        is_base = np.array_equal(self._run(self._probe, None), self._base_probe)
        if full is None and not is_base:
            raise EngineLostError(
                "the base does not score a probe as before, now that a full fine-tune was taken out again; what is "
                "scored is kept, give the same command again"
            )
        if full is not None and is_base:
            raise AdapterError(
                f"full fine-tune {full.name!r} changes no score of a probe: its weights are the base's in the engine's "
                "number format; train it further, or with a higher training.learning_rate"
            )
        self._weights = wanted

    def _prove(self, adapter: Adapter) -> AdapterReference:
        """Check once per adapter that its layers are in place and that it changes the scores of a probe."""
        reference = self._reference(adapter)
        if adapter.content_hash not in self._proven:
            try:
                applied = self._ask("adapter_modules", reference)
            finally:
                require_unchanged(adapter)  # also where reading it failed: then this is why
            require_modules(adapter, applied)
            require_effect(adapter, self._run(self._probe, reference), self._base_probe)
            self._proven.add(adapter.content_hash)
        return reference

    def _reference(self, adapter: Adapter) -> AdapterReference:
        """Return an adapter in the workers' words; one id per content, whatever its name."""
        number = self._adapter_ids.setdefault(adapter.content_hash, len(self._adapter_ids) + 1)
        return f"{number}-{adapter.name}", number, str(adapter.path)

    def _run(self, packed: bytes, reference: AdapterReference | None) -> npt.NDArray[np.float32]:
        """Run one step and return its log-probabilities."""
        return self._scores(self._ask("score_step", packed, reference))

    def _scores(self, ticket: int) -> npt.NDArray[np.float32]:
        """Wait for a step and return its log-probabilities."""
        return np.frombuffer(self._ask("step_scores", ticket), dtype="<f4")

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of all workers and return what the first one that has an answer says."""
        if self._llm is None:
            raise RuntimeError("the scorer is closed")
        return first_answer(self._llm.collective_rpc(method, args=arguments))


def close_llm(llm: Any | None) -> None:
    """End an engine and free what it holds; None is an engine that was ended already.

    vLLM's Triton operators keep the addresses of every adapter slot for the life of the process, and with them the
    slots: another model's slot at the same address would be read with their strides.
    """
    if llm is None:
        return
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    llm.llm_engine.engine_core.shutdown()
    del llm
    operators = sys.modules.get("vllm.lora.ops.triton_ops.utils")
    for name in ("_LORA_A_PTR_DICT", "_LORA_B_PTR_DICT"):
        getattr(operators, name, {}).clear()
    gc.collect()
    cleanup_dist_env_and_memory()
