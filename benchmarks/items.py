"""The item: one question with its choices, as the engine scores it and the trainer learns it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One multiple-choice question in one prompt format.

    The text that is scored for choice ``c`` is ``context + delimiter + choices[c]``.
    """

    item_id: str
    """Id of the question, the same in every language."""
    context: str
    """Prompt text that is conditioned on, before any chat template."""
    choices: tuple[str, ...]
    """Shape [C], 2 or more: the answer options without the delimiter."""
    gold: int
    """Index of the right choice, 0..C-1."""
    delimiter: str = " "
    """Text between the context and a choice."""

    @property
    def continuations(self) -> tuple[str, ...]:
        """Shape [C]: delimiter + choice."""
        return tuple(self.delimiter + choice for choice in self.choices)

    @property
    def choice_chars(self) -> tuple[int, ...]:
        """Shape [C]: length of every choice in characters (code points), without the delimiter."""
        return tuple(len(choice) for choice in self.choices)
