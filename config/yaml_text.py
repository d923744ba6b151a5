"""YAML as people write it: a key that stands twice is refused, where a plain reader keeps the last."""

from __future__ import annotations

from typing import Any

import yaml

from transfergrid.grid import UserError


class _RepeatedKeyError(yaml.YAMLError):
    """A key that stands twice in one mapping."""


class _Loader(yaml.SafeLoader):
    """Safe loader that compares the keys of a mapping as they are written, before a merge (``<<``) adds others."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the next mapping, refusing a repeated key."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise _RepeatedKeyError(f"key {key.value!r} stands in line {lines[key.value]} and again in line {line}")
            lines[key.value] = line
        return node


def parse_yaml(text: str, origin: str) -> Any:
    """Return what a YAML text holds; None for an empty one.

    Args:
        text: The text.
        origin: What was read, for the start of messages.

    Raises:
        UserError: If it is not YAML, or a mapping has a key twice; names the lines.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except _RepeatedKeyError as error:
        raise UserError(f"{origin}: {error}; only the last would count, keep one") from error
    except yaml.YAMLError as error:
        raise UserError(f"{origin} is not YAML: {' '.join(str(error).split())}") from error
