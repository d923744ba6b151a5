"""What decides the numbers of a cell, as one hash and as the parts it is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from transfergrid.store.files import hash_json

WAY = "engine.way"
"""Part that says how adapters met the base; a cell scored one way is not scored again the other way."""

_DIGEST_LENGTH = 16
_SHOWN_LENGTH = 24


@dataclass(frozen=True, slots=True)
class RunKey:
    """All that decides the scores of one source; with a target's items, all that decides one cell's."""

    parts: Mapping[str, Any]
    """Nested JSON: model, tokenizer, prompts, limits, engine, adapter."""

    def digest(self, items_hash: str) -> str:
        """Return the key of one cell: 16 hexadecimal digits over the parts and the target's items."""
        return hash_json({**self.parts, "items": items_hash})[:_DIGEST_LENGTH]


def changed_parts(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return the parts of two keys that differ, each as ``name: stored -> wanted``; the way is left out."""
    old, new = dict(_flatten(stored)), dict(_flatten(wanted))
    return [
        f"{name}: {_shown(old.get(name))} -> {_shown(new.get(name))}"
        for name in dict.fromkeys((*old, *new))
        if name != WAY and old.get(name) != new.get(name)
    ]


def _flatten(parts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in parts.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}..."
