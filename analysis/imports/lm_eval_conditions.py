"""Conditions of a run of lm-evaluation-harness; an adapter's must be those of its baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transfergrid.store.files import hash_text
from transfergrid.wording import one_line

LIMIT = "limit"
HASHES = "task hashes"
BY_ITEM = (LIMIT, HASHES)
"""Conditions that pairing by item takes care of: it leaves out other items and finds other documents."""

_QUANTISATION = ("load_in_4bit", "load_in_8bit", "quantization", "gptqmodel", "autogptq", "gguf_file")
_ARGUMENTS = (
    "revision",
    "tokenizer",
    "add_bos_token",
    "prefix_token_id",
    "softmax_dtype",
    "enable_thinking",
    "think_end_token",
    "chat_template_args",
    "max_model_len",
)
_TOP_LEVEL = ("fewshot_as_multiturn", "max_length")
_CONFIG = ("limit", "model_revision", "model_sha")


def read_conditions(
    content: Mapping[str, Any], arguments: Mapping[str, Any], tasks: Sequence[str]
) -> dict[str, str | None]:
    """Return the conditions of one task's or group's scores as text.

    Args:
        content: A results file.
        arguments: Its ``model_args``.
        tasks: The task, or the group and its tasks.

    Returns:
        Text by name; None is a value, such as no chat template. What the file does not say is left out.
    """
    config = content["config"]
    found: dict[str, Any] = {name: content[name] for name in _TOP_LEVEL if name in content}
    found |= {name: config[name] for name in _CONFIG if name in config}
    found |= {name: arguments.get(name) for name in _ARGUMENTS}
    if found["tokenizer"] in (arguments.get("pretrained"), arguments.get("model")):
        found["tokenizer"] = None
    found["backend"] = config.get("model")
    for name in ("chat_template", "system_instruction"):
        if name in content:
            found[name] = content.get(f"{name}_sha") or (content[name] and hash_text(str(content[name])))
    dtype = config.get("model_dtype") or arguments.get("dtype")
    if dtype not in (None, "auto"):
        found["dtype"] = str(dtype).removeprefix("torch.")
    quantisation = {name: str(value) for name, value in arguments.items() if _is_quantisation(name, value)}
    found["quantisation"] = quantisation or None
    for name, section in (("n-shot", "n-shot"), ("task version", "versions"), (HASHES, "task_hashes")):
        values = content.get(section)
        if isinstance(values, Mapping):
            known = {task: values[task] for task in tasks if task in values}
            if known:
                found[name] = known if len(known) > 1 else next(iter(known.values()))
    return {name: None if value is None else str(value) for name, value in found.items()}


def _is_quantisation(name: str, value: object) -> bool:
    return (name in _QUANTISATION or name.startswith("bnb_")) and str(value).lower() not in ("false", "none")


def differences(
    found: Mapping[str, str | None], other: Mapping[str, str | None], *, leave_out: Sequence[str] = ()
) -> Iterator[str]:
    """Yield ``n-shot '5', baseline '0'`` for every condition that both runs say and that differs."""
    for name in sorted((found.keys() & other.keys()) - set(leave_out)):
        if found[name] != other[name]:
            yield f"{name} {_shown(found[name])}, baseline {_shown(other[name])}"


def _shown(value: str | None) -> str:
    return "none" if value is None else repr(one_line(value, 40))
