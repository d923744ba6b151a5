"""The default scorer: one vLLM engine in memory, steps of our planner, adapters swapped between passes."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from transfergrid.config.settings import TARGET_MODULES, EngineConfig
from transfergrid.engine.adapters.check import (
    is_null_adapter,
    read_linear_shapes,
    require_modules,
    require_unchanged,
    served_rank,
)
from transfergrid.engine.interfaces import (
    Adapter,
    AdapterError,
    ItemLoglikelihoods,
    Prepared,
    ScoringError,
    TokenisedItem,
)
from transfergrid.engine.models.decoder import text_arguments
from transfergrid.engine.models.device import (
    EngineSizes,
    available_memory_bytes,
    choose_sizes,
    device_type,
    resolve_dtype,
    share_of_device,
)
from transfergrid.engine.models.resolve import read_model_facts
from transfergrid.engine.planning.packing import AdapterReference, pack_step
from transfergrid.engine.planning.planner import Plan, PlanLimits, Step, StepSequence, plan_items
from transfergrid.engine.scorers.vllm_args import (
    check_engine_settings,
    check_vllm_args,
    check_vllm_version,
    set_vllm_environment,
)
from transfergrid.grid import UserError

WORKERS = {
    "cpu": "transfergrid.engine.workers.cpu.CpuScoringWorker",
    "cuda": "transfergrid.engine.workers.cuda.ScoringWorker",
}
"""Our vLLM worker by device."""

LORA_MODULES = (*TARGET_MODULES, "qkv_proj", "gate_up_proj")
"""Layers that get adapter slots, in the checkpoint's words and vLLM's; lm_head stays plain."""

_PROBE_TOKENS = 48


@dataclass(frozen=True, slots=True)
class PreparedSteps:
    """A plan with its steps packed for the workers once."""

    plan: Plan
    packed: tuple[bytes, ...]

    @property
    def n_items(self) -> int:
        """Number of items."""
        return self.plan.n_items

    @property
    def n_computed_tokens(self) -> int:
        """Tokens that one adapter's pass computes."""
        return self.plan.n_computed_tokens

    @property
    def n_repeated_tokens(self) -> int:
        """Tokens a pass would compute if every choice repeated its context."""
        return self.plan.n_repeated_tokens


class VllmScorer:
    """Scores prepared items under the base or any adapter; implements ``protocol.Scorer``.

    Made by ``start_vllm``. One pass runs at a time: starting another ends the one before.
    """

    def __init__(self, llm: Any, sizes: EngineSizes) -> None:
        self.sizes = sizes
        self._llm: Any = llm
        self._limits = PlanLimits(**self._ask("scoring_limits"))
        self._adapter_ids: dict[str, int] = {}
        self._proven: set[str] = set()
        self._probe = probe_step(self._ask("vocabulary_size"), self._limits.block_size)
        self._base_probe: npt.NDArray[np.float32] | None = None
        self._pass = 0

    @property
    def limits(self) -> PlanLimits:
        """What one step and the KV cache hold."""
        return self._limits

    def prepare(self, items: Sequence[TokenisedItem], *, token_budget: int | None = None) -> PreparedSteps:
        """Plan the items of a batch of cells once; the result serves every adapter.

        Args:
            items: In the order in which results are wanted.
            token_budget: Most tokens of one step where that is to be less than the engine takes.

        Raises:
            UserError: If an item is longer than the engine was started for.
            ScoringError: If an item lacks tokens, or the KV cache cannot hold one item.
        """
        limits = self._limits if token_budget is None else replace(self._limits, max_step_tokens=token_budget)
        return prepare_steps(items, limits, max_model_len=self.sizes.max_model_len)

    def score(self, prepared: Prepared, adapter: Adapter | None = None) -> Iterator[ItemLoglikelihoods]:
        """Yield every item once, as soon as it is done, in no fixed order; None scores the base.

        Raises:
            ScoringError: If the items were prepared by another kind of scorer.
            AdapterError: If the adapter changed since it was checked, is not applied as saved, or changes no score of a
                probe.
        """
        if not isinstance(prepared, PreparedSteps):
            raise ScoringError(f"items prepared by another scorer ({type(prepared).__name__}); prepare them with this")
        self._pass += 1
        return self._score_pass(prepared, adapter, self._pass)

    def prefetch(self, adapter: Adapter) -> None:
        """Start to load the adapter that is scored next; returns at once."""
        self._ask("prefetch_adapter", self._reference(adapter))

    def peak_memory_bytes(self) -> int:
        """Return the largest memory of the first worker so far."""
        return int(self._ask("peak_memory_bytes"))

    def close(self) -> None:
        """Free the model."""
        if self._llm is None:
            return
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()
        cleanup_dist_env_and_memory()

    def _score_pass(
        self, prepared: PreparedSteps, adapter: Adapter | None, number: int
    ) -> Iterator[ItemLoglikelihoods]:
        """Run the steps of one pass."""
        reference = None if adapter is None else self._prove(adapter)
        logprobs = np.full(prepared.plan.n_slots, np.nan, dtype=np.float32)
        for index, packed in enumerate(prepared.packed):
            if number != self._pass:
                raise RuntimeError("another pass was started before this one ended; they share the KV blocks")
            logprobs[prepared.plan.steps[index].score_slots] = self._run(packed, reference)
            yield from prepared.plan.loglikelihoods(logprobs, index)

    def _prove(self, adapter: Adapter) -> AdapterReference:
        """See once per adapter that its layers are in place and that it changes the scores of a probe."""
        reference = self._reference(adapter)
        if adapter.content_hash not in self._proven:
            try:
                applied = self._ask("adapter_modules", reference)
            finally:
                require_unchanged(adapter)  # also where reading it failed: then this is why
            require_modules(adapter, applied)
            if self._base_probe is None:
                self._base_probe = self._run(self._probe, None)
            require_effect(adapter, self._run(self._probe, reference), self._base_probe)
            self._proven.add(adapter.content_hash)
        return reference

    def _reference(self, adapter: Adapter) -> AdapterReference:
        """Return an adapter in the workers' words; one id per content, whatever its name."""
        number = self._adapter_ids.setdefault(adapter.content_hash, len(self._adapter_ids) + 1)
        return f"{number}-{adapter.name}", number, str(adapter.path)

    def _run(self, packed: bytes, reference: AdapterReference | None) -> npt.NDArray[np.float32]:
        """Run one step and return its log-probabilities."""
        return np.frombuffer(self._ask("score_step", packed, reference), dtype="<f4")

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of all workers and return what the first one that has an answer says."""
        if self._llm is None:
            raise RuntimeError("the scorer is closed")
        answers = self._llm.collective_rpc(method, args=arguments)
        return next((answer for answer in answers if answer is not None), None)


def start_vllm(
    model_folder: Path,
    config: EngineConfig | None = None,
    *,
    max_rank: int | None = 32,
    longest_tokens: int | None = None,
) -> VllmScorer:
    """Load a base model into one vLLM engine.

    Args:
        model_folder: Local folder of the base.
        config: Settings of the engine.
        max_rank: Largest rank of the adapters to come; None: no adapter can be scored.
        longest_tokens: Longest sequence to come; None: what the model takes.

    Raises:
        UserError: If vLLM has another version or refuses the settings, the model does not fit, or an engine argument is
            not taken.
    """
    sizes, arguments = plan_engine(
        model_folder, config or EngineConfig(), max_rank=max_rank, longest_tokens=longest_tokens
    )
    set_vllm_environment()
    import vllm

    check_vllm_version(vllm.__version__)
    check_engine_settings(arguments)
    return VllmScorer(vllm.LLM(**arguments), sizes)


def plan_engine(
    model_folder: Path, config: EngineConfig, *, max_rank: int | None, longest_tokens: int | None
) -> tuple[EngineSizes, dict[str, Any]]:
    """Share out this machine's memory for a base model; loads nothing.

    Args:
        model_folder: Local folder of the base.
        config: Settings of the engine.
        max_rank: Largest rank of the adapters to come; None: no adapter can be scored.
        longest_tokens: Longest sequence to come; None: what the model takes.

    Returns:
        The sizes, and vLLM's engine arguments.

    Raises:
        UserError: If the model does not fit, or an engine argument is not taken.
    """
    device = device_type()
    config = config.model_copy(update={"dtype": resolve_dtype(config.dtype, device)})
    facts, shapes = read_model_facts(model_folder), read_linear_shapes(model_folder)
    memory_bytes = available_memory_bytes(device, config.gpu_memory_utilization)
    rank = None if max_rank is None else served_rank(max_rank)
    sizes = choose_sizes(
        facts,
        config,
        device=device,
        memory_bytes=memory_bytes,
        slot_values=(rank or 0) * sum(map(sum, shapes.values())),
        longest_tokens=longest_tokens,
    )
    if device == "cuda":  # vLLM only sees at its start whether as much is free: it is told how large the KV cache is
        config = config.model_copy(update={"gpu_memory_utilization": share_of_device(memory_bytes)})
    return sizes, engine_arguments(model_folder, config, sizes, device=device, max_rank=rank)


def engine_arguments(
    model_folder: Path, config: EngineConfig, sizes: EngineSizes, *, device: str, max_rank: int | None
) -> dict[str, Any]:
    """Return vLLM's engine arguments; ``grid serve`` starts the server with the same.

    Raises:
        UserError: If a pass-through argument is not taken.
    """
    lora = {
        "enable_lora": True,
        "max_loras": sizes.max_loras,
        "max_cpu_loras": sizes.max_cpu_loras,
        "max_lora_rank": max_rank,
        "lora_target_modules": list(LORA_MODULES),
    }
    return {
        **check_vllm_args(config.vllm_args),
        **({} if max_rank is None else lora),
        **text_arguments(model_folder),
        "model": str(model_folder),
        "skip_tokenizer_init": True,
        "worker_cls": WORKERS[device],
        "dtype": config.dtype,
        "quantization": config.quantization,
        "tensor_parallel_size": config.tensor_parallel_size,
        "max_model_len": sizes.max_model_len,
        "max_num_seqs": sizes.max_sequences,
        "max_num_batched_tokens": sizes.token_budget,
        "block_size": sizes.block_size,
        "kv_cache_memory_bytes": sizes.kv_cache_bytes,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "disable_hybrid_kv_cache_manager": True,  # one block table for all layers, sliding windows included
        "enable_prefix_caching": False,  # the planner shares prefixes, token by token
        "async_scheduling": False,
        "enforce_eager": True,
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
    }


def prepare_steps(items: Sequence[TokenisedItem], limits: PlanLimits, *, max_model_len: int) -> PreparedSteps:
    """Plan items within an engine's limits and pack the steps.

    Raises:
        UserError: If an item is longer than the engine was started for.
        ScoringError: If an item lacks tokens, or the KV cache cannot hold one item.
    """
    for item in items:
        n_tokens = len(item.context) + max(map(len, item.continuations)) - 1
        if n_tokens > max_model_len:
            raise UserError(
                f"item {item.item_id!r} has {n_tokens} tokens, the engine was started for "
                f"{max_model_len}; raise engine.max_model_len"
            )
    plan = plan_items(items, limits)
    return PreparedSteps(plan, tuple(map(pack_step, plan.steps)))


def require_effect(adapter: Adapter, probe: npt.NDArray[np.float32], base: npt.NDArray[np.float32]) -> None:
    """See that an adapter changes the scores of a probe unless every B of it is zero.

    Args:
        adapter: The adapter.
        probe: Log-probabilities of the probe under it.
        base: Log-probabilities of the probe under the base.

    Raises:
        AdapterError: If it changes none, or changes some without weights.
    """
    changed = not np.array_equal(probe, base)
    if changed == is_null_adapter(adapter):
        raise AdapterError(
            f"adapter {adapter.name!r} {'changes' if changed else 'does not change'} the scores of a probe, so "
            "its weights are not applied as saved; save it again, or report this as a bug"
        )


def probe_step(vocab_size: int, block_size: int) -> bytes:
    """Return a packed step that scores one sequence of tokens from all over the vocabulary."""
    tokens = np.linspace(0, vocab_size - 1, _PROBE_TOKENS, dtype=np.int32)
    n_blocks = -(-_PROBE_TOKENS // block_size)
    rows = np.arange(_PROBE_TOKENS - 1, dtype=np.int32)
    sequence = StepSequence(tokens[:-1], 0, tuple(range(1, n_blocks + 1)))
    return pack_step(Step((sequence,), (), rows, tokens[1:], rows))
