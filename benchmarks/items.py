"""The item: one question with its choices, as the engine scores it and the trainer learns it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SHOT_END = "\n\n"
"""Text after a solved item in a prompt."""

Messages = tuple[tuple[str, str], ...]
"""Role and text of every message of a chat; a last one of the assistant is begun."""


@dataclass(frozen=True, slots=True)
class Request:
    """A text that is scored after a prompt of its own."""

    prompt: str | Messages | None
    """None: there is no prompt; the text is scored from its beginning, in windows where it is long."""
    continuation: str
    """With the delimiter before it."""


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
    """Shape [C], 2 or more: the answer options without the delimiter. 1 where a text is scored and none is chosen."""
    gold: int
    """Index of the right choice, 0..C-1."""
    delimiter: str = " "
    """Text between the context and a choice."""
    shots: tuple[tuple[str, str], ...] = ()
    """Contexts and right choices of the solved items that stand before this one."""

    messages: Messages = ()
    """The chat that lm-evaluation-harness made, shots included. ``context`` then has its texts, and ``delimiter`` is
    the one under the template."""
    requests: tuple[Request, ...] = ()
    """What lm-evaluation-harness asks where not every choice follows the same prompt: of a task whose choices are
    prompts one per choice, the others as `counted` takes them. ``context`` and ``delimiter`` are not asked then."""

    counted: str = ""
    """How lm-evaluation-harness makes a value of its answer, as JSON; empty: by the gold."""
    code: str = ""
    """File of the function that ``counted`` names, which has its hash."""

    @property
    def asks_greedy(self) -> bool:
        """Whether it is one text after a prompt, of which the harness asks if greedy decoding would give it."""
        return len(self.requests) == 1 and self.requests[0].prompt is not None

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
    def learnt(self) -> tuple[str, str]:
        """Context and continuation of the right choice."""
        if not self.requests:
            return self.context, self.continuations[self.gold]
        right = self.requests[self.gold]
        assert not isinstance(right.prompt, tuple)  # items that are learnt are not asked as chats
        return right.prompt or "", right.continuation

    @property
    def choice_chars(self) -> tuple[int, ...]:
        """Shape [C]: length of what is scored of every choice in characters (code points), without the delimiter."""
        return tuple(map(len, self.measured))

    @property
    def measured(self) -> tuple[str, ...]:
        """Shape [C]: the texts that are scored, without the delimiter: the choices, unless these are prompts."""
        if len(self.requests) != len(self.choices):
            return self.choices
        return tuple(each.continuation.removeprefix(self.delimiter) for each in self.requests)


def item_of_harness(item_id: str, choices: tuple[str, ...], gold: int, asked: Mapping[str, Any]) -> Item:
    """Return an item from what a row says of how lm-evaluation-harness asks it."""
    return Item(
        item_id=item_id,
        context=asked.get("context", ""),
        choices=choices,
        gold=gold,
        delimiter=asked.get("delimiter", ""),
        messages=_messages(asked.get("messages", ())),
        requests=tuple(
            Request(_messages(prompt) if isinstance(prompt, list) else prompt, continuation)
            for prompt, continuation in asked.get("requests", ())
        ),
        counted=asked.get("counted", ""),
        code=asked.get("code", ""),
    )


def _messages(given: Iterable[Sequence[str]]) -> Messages:
    return tuple((role, text) for role, text in given)
