"""What pydantic found wrong with a configuration or a task's file, as one message for its author."""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from transfergrid.wording import closest_hint


def _section_keys(root: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Return the keys that the section around a location takes."""
    section: Any = root
    for part in location[:-1]:
        if _is_section(section):
            section = _without_null(section.model_fields[part].annotation)
        elif get_origin(section) is dict:
            section = _without_null(get_args(section)[1])
        else:
            section = _without_null(get_args(section)[0])
    return sorted(section.model_fields)


def _is_section(annotation: Any) -> bool:
    """Return whether a setting is a section with settings of its own."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _without_null(annotation: Any) -> Any:
    """Return the type of a setting that may be null: ``Model`` for ``Model | None``."""
    options = [option for option in get_args(annotation) if option is not NoneType]
    return options[0] if NoneType in get_args(annotation) and len(options) == 1 else annotation


def _describe(fault: Any, root: type[BaseModel]) -> str:
    """Return one fault as ``path: what is wrong, the value, what is accepted``."""
    location = fault["loc"]
    path = ".".join(str(part) for part in location) or "file"
    if fault["type"] == "extra_forbidden":
        keys = _section_keys(root, location)
        return f"{path}: unknown key {location[-1]!r}; expected one of {keys}{closest_hint(location[-1], keys)}"
    if fault["type"] == "literal_error":
        accepted = [word.strip(" '") for word in fault["ctx"]["expected"].replace(" or ", ", ").split(",")]
        hint = closest_hint(fault["input"], accepted)
        return f"{path}: {_shown(fault['input'])} is not accepted; expected one of {accepted}{hint}"
    if fault["type"] == "value_error":
        return f"{path}: {fault['msg'].removeprefix('Value error, ')}"
    if fault["type"] in _EXPECTED:
        return f"{path}: expected {_EXPECTED[fault['type']]}, not {_shown(fault['input'])}{_yaml_hint(fault)}"
    return f"{path}: {fault['msg']}, not {_shown(fault['input'])}"


def _shown(value: Any) -> str:
    """Return a value as it is written in Python, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits or brackets
        return f"a {type(value).__name__} too long to show"
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}..."


_EXPECTED = {
    "tuple_type": "a list",
    "dict_type": "a mapping of settings",
    "model_type": "a mapping of settings",
    "string_type": "text",
}
"""What YAML calls the kinds that pydantic has Python's names for."""
_SHOWN_LENGTH = 80


def _yaml_hint(fault: Any) -> str:
    """Say how a value of the wrong kind is written."""
    value = fault["input"]
    if fault["type"] == "tuple_type" and isinstance(value, str | int):
        return f"; write [{value}]"
    if fault["type"] == "string_type" and isinstance(value, bool):
        words = "yes or on" if value else "no or off"
        return f"; YAML reads an unquoted {words} as {str(value).lower()}: put the word in quotes"
    return ""


def _real_faults(error: ValidationError) -> list[Any]:
    """Return a validation's faults without the "too short" ones that only follow from a fault inside the same list."""
    faults = error.errors()
    around = {fault["loc"][:depth] for fault in faults for depth in range(len(fault["loc"]))}
    return [fault for fault in faults if fault["type"] != "too_short" or fault["loc"] not in around]


def describe_faults(error: ValidationError, root: type[BaseModel], origin: str) -> str:
    """Return one message that names every fault of a validation."""
    faults = _real_faults(error)
    shown = "".join(f"\n  - {_describe(fault, root)}" for fault in faults)
    return f"{origin} has {len(faults)} fault(s):{shown}"
