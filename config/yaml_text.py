"""YAML as people write it, read strictly: whatever a text holds, the answer is a plain value or one sentence.

A key that stands twice is refused, where a plain reader keeps the last. So are values that stand for more than they
show: aliases that multiply (a "billion laughs" file), a value that contains itself, numbers of thousands of digits.
"""

from __future__ import annotations

from typing import Any

import yaml

from transfergrid.grid import UserError

MAX_CHARACTERS = 2**18
"""Longest text that is read; a configuration with every setting has some 8,000."""
MAX_VALUES = 100_000
"""Most values that a text stands for once every alias is written out."""
MAX_DEPTH = 50
"""Most mappings and lists inside each other."""
_MAX_INTEGER = 2**63


class _RefusedError(yaml.YAMLError):
    """What is YAML but not accepted here."""


class _Loader(yaml.SafeLoader):
    """Safe loader that compares the keys of a mapping as they are written, before a merge (``<<``) adds others."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Return the next node, refusing one that lies too deep."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _RefusedError(f"it is nested deeper than {MAX_DEPTH} mappings and lists")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return the next mapping, refusing a repeated key."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise _RefusedError(
                    f"key {key.value!r} stands in line {lines[key.value]} and again in line {line}; "
                    "only the last would count, keep one"
                )
            lines[key.value] = line
        return node

    def get_single_node(self) -> yaml.Node | None:
        """Return the text's only node, refusing one that stands for too much."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _written_out(node, {}) > MAX_VALUES:
            raise _RefusedError(f"its aliases stand for more than {MAX_VALUES:,} values; write out fewer")
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Return a whole number, refusing one that no setting takes and Python may not even print."""
        value = super().construct_yaml_int(node) if len(node.value) <= MAX_DEPTH else _MAX_INTEGER
        if abs(value) >= _MAX_INTEGER:
            line = node.start_mark.line + 1
            raise _RefusedError(f"the number in line {line} has {len(node.value)} digits; expected at most 18")
        return int(value)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _written_out(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Return how many values a node stands for with its aliases written out.

    Args:
        node: The node; no deeper than ``MAX_DEPTH`` unless it contains itself.
        known: Counts of nodes that were seen, filled here; 0 while a node is being counted.
    """
    if node in known:
        if not known[node]:
            raise _RefusedError(f"the value in line {node.start_mark.line + 1} contains itself")
        return known[node]
    known[node] = 0
    if isinstance(node, yaml.ScalarNode):
        count = 1
        if not node.value.isascii() and any("\ud800" <= character <= "\udfff" for character in node.value):
            raise _RefusedError(f"line {node.start_mark.line + 1} holds half a character (a lone surrogate)")
    else:
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        count = 1 + sum(_written_out(part, known) for part in parts)
    known[node] = count
    return count


def parse_yaml(text: str, origin: str) -> Any:
    """Return what a YAML text holds; None for an empty one.

    Raises:
        UserError: If it is not YAML, is too long or too deep, has a key twice, aliases that multiply or contain
            themselves, or a number of more than 18 digits; names the lines where it can.
    """
    if len(text) > MAX_CHARACTERS:
        raise UserError(f"{origin} has {len(text):,} characters; expected at most {MAX_CHARACTERS:,}")
    try:
        return yaml.load(text, Loader=_Loader)
    except _RefusedError as error:
        raise UserError(f"{origin}: {error}") from error
    except (
        yaml.YAMLError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        TypeError,
        RecursionError,
    ) as error:
        # what the loader raises for values that do not fit their tag: "!!int ''", "!!bool x", a month 13
        raise UserError(f"{origin} is not YAML: {' '.join(str(error).split()) or type(error).__name__}") from error
