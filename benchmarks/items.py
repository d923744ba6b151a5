"""The item: one question with its choices, as the engine scores it and the trainer learns it."""

from __future__ import annotations

from dataclasses import dataclass

SHOT_END = "\n\n"
"""Text after a solved item in a prompt."""


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
    shots: tuple[tuple[str, str], ...] = ()
    """Contexts and right choices of the solved items that stand before this one."""

    messages: tuple[tuple[str, str], ...] = ()
    """Role and text of every message of a chat that lm-evaluation-harness made, shots included; a last one of the
    assistant is begun. ``context`` then has their texts, and ``delimiter`` is the one under the template."""

    counted: str = ""
    """How lm-evaluation-harness makes a value of its answer, as JSON; empty: by the gold."""
    code: str = ""
    """File of the function that ``counted`` names, which has its hash."""

    @property
    def prompt(self) -> str:
        """The context with its shots before it, as one text."""
        solved = (context + self.delimiter + answer + SHOT_END for context, answer in self.shots)
        return "".join((*solved, self.context))

    @property
    def turns(self) -> tuple[str, ...]:
        """The same as turns of user and assistant, the last one of the user."""
        return (*(text for shot in self.shots for text in shot), self.context)

    @property
    def continuations(self) -> tuple[str, ...]:
        """Shape [C]: delimiter + choice."""
        return tuple(self.delimiter + choice for choice in self.choices)

    def scored_texts(self, *, chat_template: bool) -> tuple[str, ...]:
        """Return the choices as they follow the prompt: under a template of ours without the delimiter."""
        return self.choices if chat_template and not self.messages else self.continuations

    @property
    def choice_chars(self) -> tuple[int, ...]:
        """Shape [C]: length of every choice in characters (code points), without the delimiter."""
        return tuple(len(choice) for choice in self.choices)
