"""How much memory goes to weights, adapter slots, keys and values, and a step."""

from __future__ import annotations

from dataclasses import dataclass

from transfergrid.config.settings import EngineConfig
from transfergrid.engine.models.device import GIB
from transfergrid.engine.models.facts import DTYPE_BYTES, ModelFacts
from transfergrid.grid import UserError

BLOCK_TOKENS = {"cpu": 32, "cuda": 16}
"""Tokens per KV block: the smallest that vLLM's attention has at full speed."""
STEP_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Most tokens of one step: enough for full-speed GEMMs; more only costs memory (docs/performance.md)."""
SOFTMAX_BYTES = {"cpu": 0, "cuda": GIB}
"""Room for a chunk of logits and their log-probabilities; on the CPU it is tens of megabytes."""
ONLINE_BYTES = {"fp8": 1.0, "bitsandbytes": 0.6}
"""Bytes per weight of a linear layer that vLLM quantises while it loads, scales included."""
MIN_STEP_TOKENS = 64
TOKENS_PER_SEQUENCE = 8
"""A step of N tokens may hold N / 8 sequences: most choices are longer."""
_KV_STEPS = 8  # contexts and branches that stay alive, in steps' worth of tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSizes:
    """How the memory is shared out."""

    max_loras: int
    """Adapter slots on the device."""
    max_cpu_loras: int
    """Adapters kept in host memory: those in slots and the ones being loaded ahead."""
    token_budget: int
    """Most tokens of one step."""
    max_sequences: int
    """Most sequences of one step."""
    max_model_len: int
    """Longest sequence, tokens."""
    block_size: int
    """Tokens per KV block."""
    kv_cache_bytes: int
    """Keys and values of all blocks."""


def choose_sizes(
    facts: ModelFacts,
    config: EngineConfig,
    *,
    device: str,
    memory_bytes: int,
    slot_values: int,
    longest_tokens: int | None = None,
) -> EngineSizes:
    """Share a device's memory out; every choice is overridden by its setting.

    Args:
        facts: Size of the base.
        config: Settings; ``dtype`` is resolved.
        device: ``cpu`` or ``cuda``.
        memory_bytes: Memory to share out, before the weights are loaded.
        slot_values: Weights of one adapter slot.
        longest_tokens: Longest sequence that is going to be scored; None: what the model takes.

    Raises:
        UserError: If the weights and one sequence do not fit, or a sequence is longer than the model takes.
    """
    width = DTYPE_BYTES[config.dtype]
    max_model_len = _model_len(facts, config, longest_tokens)
    free = memory_bytes - _weight_bytes(facts, config) // config.tensor_parallel_size - SOFTMAX_BYTES[device]
    max_loras = config.max_loras or (2 if free > 20 * width * slot_values else 1)
    free -= (2 * max_loras + 2) * width * slot_values
    token_bytes = width * facts.n_kv_values_per_token // config.tensor_parallel_size
    # a step's largest activations: gate, up, their product and the residuals, and float32 logits of a chunk of rows
    step_bytes = 16 * width * facts.hidden_size
    budget = config.token_budget or min(STEP_TOKENS[device], max(0, free // 2) // (step_bytes + 2 * token_bytes))
    room = min(_kv_bytes(budget, max_model_len, token_bytes), max(0, free // 2))
    kv_bytes = int(config.kv_cache_gib * GIB) if config.kv_cache_gib else room
    block = BLOCK_TOKENS[device]
    if budget < MIN_STEP_TOKENS or kv_bytes < token_bytes * (max_model_len + 2 * block):
        raise _too_large(memory_bytes, max_model_len, can_raise=device == "cuda" and config.gpu_memory_utilization < 1)
    return EngineSizes(
        max_loras=max_loras,
        max_cpu_loras=max_loras + 2,
        token_budget=budget,
        max_sequences=max(16, budget // TOKENS_PER_SEQUENCE),
        max_model_len=max_model_len,
        block_size=block,
        kv_cache_bytes=kv_bytes,
    )


def _too_large(memory_bytes: int, max_model_len: int, *, can_raise: bool) -> UserError:
    """Return the error of a model that does not fit; ``can_raise``: a GPU has memory that is not used yet."""
    more = ", raise engine.gpu_memory_utilization" if can_raise else ""
    return UserError(
        f"the model does not fit: {memory_bytes / GIB:.1f} GiB do not hold its weights, a step and the keys and "
        f"values of {max_model_len} tokens; lower engine.max_model_len or max_loras{more}, or use a smaller model"
    )


def _weight_bytes(facts: ModelFacts, config: EngineConfig) -> int:
    """Return the size of the weights on the device: of a quantised checkpoint as it lies on disk."""
    if facts.quantised_bytes is not None:
        return facts.quantised_bytes
    width = DTYPE_BYTES[config.dtype]
    layer_width = min(width, ONLINE_BYTES.get(config.quantization or "", width))
    return int(layer_width * facts.n_layer_parameters) + 2 * width * facts.vocab_size * facts.hidden_size


def _model_len(facts: ModelFacts, config: EngineConfig, longest_tokens: int | None) -> int:
    """Return the longest sequence to prepare for."""
    wanted = config.max_model_len or longest_tokens or facts.max_positions
    if wanted > facts.max_positions:
        raise UserError(
            f"engine.max_model_len {wanted} is more than the model takes; expected at most {facts.max_positions}"
        )
    return wanted


def _kv_bytes(budget: int, max_model_len: int, token_bytes: int) -> int:
    """Return room for the steps' worth of tokens that stay alive, and four of the longest sequences."""
    return token_bytes * (_KV_STEPS * budget + 4 * max_model_len)
