"""A model's tokenizer: loaded, its chat template rendered, context and continuation encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from transfergrid.grid import UserError


def load_tokenizer(folder: Path) -> Any:
    """Load a resolved model's tokenizer.

    Raises:
        UserError: If the folder holds none that transformers can read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"no usable tokenizer in model folder {str(folder)!r}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenisationSettings:
    """How items become tokens."""

    max_length: int
    """Most tokens of one sequence of inputs; the last scored token is no input."""
    chat_template: bool = False
    """Wrap every context as one user message; the delimiter before a choice is then left out."""
    truncation: Literal["refuse", "left"] = "refuse"
    """Item too long: do not score it, or cut its context on the left."""
    template_arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further variables of the chat template, for example ``date_string``."""


def render_contexts(
    tokenizer: Any,
    contexts: Sequence[str],
    settings: TokenisationSettings,
    *,
    asked_by: str = "prompts.eval_chat_template",
) -> list[str]:
    """Wrap contexts in the chat template, each as one user message followed by the assistant's header.

    Args:
        tokenizer: A transformers tokenizer.
        contexts: Texts without a template.
        settings: Whether there is a template, and its variables.
        asked_by: Setting that asks for the template, for the message.

    Raises:
        UserError: If a chat template is asked for and the tokenizer has none.
    """
    if not settings.chat_template:
        return list(contexts)
    if not tokenizer.chat_template:
        raise UserError(f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; set {asked_by} to false")
    messages = [[{"role": "user", "content": context}] for context in contexts]
    rendered: list[str] = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **settings.template_arguments
    )
    return rendered
