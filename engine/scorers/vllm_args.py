"""What goes to vLLM unseen by us: arguments of a checked list, and only to the version we know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transfergrid.config.settings import GridConfig, ModelConfig
from transfergrid.config.values import is_folder
from transfergrid.engine.workers.version import set_vllm_environment
from transfergrid.grid import UserError

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


_EXECUTORS = ("mp", "ray", "uni", "external_launcher")
_REFUSABLE = ("dtype", "quantization", "tensor_parallel_size")
_LONGEST_SENTENCE = 400  # characters; vLLM lists every name it knows


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
        if name == "distributed_executor_backend" and value not in _EXECUTORS:  # vLLM imports any other name
            raise UserError(f"engine.vllm_args.{name} is {value!r}; expected one of {list(_EXECUTORS)}")
    return dict(arguments)


def check_remote_code(config: GridConfig, names: Sequence[str], *, is_allowed: bool) -> list[str]:
    """Return the Python code of others that will run; nothing where ``trust_remote_code`` is not set.

    No name asks for all models; ``is_allowed``: the user said so on the command line, beside the configuration.

    Raises:
        UserError: If code would run and is not allowed; names the code.
    """
    if config.engine.vllm_args.get("trust_remote_code") is not True:
        return []
    models = [model for model in config.models if not names or model.name in names]
    found = [f"{model.name}: {_remote_code(model)}" for model in models]
    if not is_allowed:
        raise UserError(
            f"engine.vllm_args.trust_remote_code runs Python code that comes with a model, with all rights of this "
            f"account ({'; '.join(found)}); read it, then give --allow-remote-code, or take the setting out"
        )
    return [f"runs code of {each}" for each in found]


def _remote_code(model: ModelConfig) -> str:
    """Say which Python files of a model would run."""
    folder = Path(model.path).expanduser()
    if not is_folder(folder):
        return f"the Python files of {model.path!r} at {model.revision or 'its newest commit'}"
    files = sorted(file.name for file in folder.glob("*.py"))
    return ", ".join(files) if files else f"no Python file in {str(folder)!r}, but what its config.json names"


def check_engine_settings(arguments: Mapping[str, Any]) -> None:
    """Have vLLM make its configuration of engine arguments, which it refuses before any weights are read.

    Raises:
        UserError: If vLLM refuses them; with the settings in question and what vLLM says.
    """
    set_vllm_environment()
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model_loader

    try:
        get_model_loader(EngineArgs(**arguments).create_engine_config().load_config)
    except (ValueError, NotImplementedError) as error:
        set_by_user = {
            name: value
            for name, value in arguments.items()
            if name in PASSED_ARGUMENTS or (name in _REFUSABLE and value not in (None, 1))
        }
        settings = ", ".join(f"{name}: {value}" for name, value in set_by_user.items())
        raise UserError(
            f"vLLM refuses model {arguments['model']!r} with these settings of the engine section ({settings}): "
            f"{_sentence(error)}; change the settings, or use another model"
        ) from error


def _sentence(error: Exception) -> str:
    """Return what vLLM says is wrong, in one line; pydantic's errors wrap it."""
    from pydantic import ValidationError

    text = str(error)
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        text = f"{field}: {first['msg']}" if field else first["msg"]
    line = " ".join(text.split()).removeprefix("Value error, ").rstrip(".")
    return line if len(line) <= _LONGEST_SENTENCE else f"{line[:_LONGEST_SENTENCE]}..."
