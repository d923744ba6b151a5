"""vLLM started as this project needs it: its arguments, its size, its worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transfergrid.config.settings import TARGET_MODULES, EngineConfig
from transfergrid.engine.adapters.check import served_rank
from transfergrid.engine.models.decoder import text_arguments
from transfergrid.engine.models.device import available_memory_bytes, device_type, resolve_dtype, share_of_device
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.scorers.sizes import EngineSizes, choose_sizes
from transfergrid.engine.scorers.vllm import VllmScorer
from transfergrid.engine.scorers.vllm_args import check_engine_settings, check_vllm_args
from transfergrid.engine.workers.version import check_vllm_version, set_vllm_environment

WORKERS = {
    "cpu": "transfergrid.engine.workers.cpu.CpuScoringWorker",
    "cuda": "transfergrid.engine.workers.cuda.ScoringWorker",
}
"""Our vLLM worker by device."""
LORA_MODULES = (*TARGET_MODULES, "qkv_proj", "gate_up_proj")
"""Layers that get adapter slots, in the checkpoint's words and vLLM's; lm_head stays plain."""


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
