"""A model's chat template, rendered as transformers does it: in its sandbox, within bounds, its clock stopped."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from transfergrid.benchmarks.sandbox import BoundedEnvironment, compile_template, render
from transfergrid.grid import UserError
from transfergrid.wording import one_line

CLOCK = "strftime_now"
"""The function by which a template asks for the time."""
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
_SHOWN_LENGTH = 60
_ROLES = ("user", "assistant")


def may_read_clock(folder: Path) -> bool:
    """Whether a chat template in a model's folder names the clock; only such prompts depend on ``prompts.date``."""
    files = [folder / name for name in _TEMPLATE_FILES]
    files += sorted(folder.glob("additional_chat_templates/*.jinja"))
    return any(CLOCK.encode() in file.read_bytes() for file in files if file.is_file())


def render_chats(
    tokenizer: Any, chats: Sequence[Sequence[str]], arguments: Mapping[str, Any], date: datetime.date, *, asked_by: str
) -> list[str]:
    """Render chats in the chat template, each followed by the assistant's header.

    Args:
        tokenizer: A transformers tokenizer.
        chats: Texts of user and assistant in turn, the last one of the user.
        arguments: Further variables of the template.
        date: The day that a template with a clock sees, at midnight.
        asked_by: Setting that asks for the template, for the message.

    Raises:
        UserError: If there is no template, it fails, it computes more than it may, or it leaves out text of a chat.

    Source:
        ``apply_chat_template`` of transformers 5.19, whose environment the template is compiled in.
    """
    otherwise = f"set {asked_by} to false, or give the tokenizer another chat template"
    template = _compiled(tokenizer, otherwise)
    clock = datetime.datetime.combine(date, datetime.time())
    variables = {CLOCK: clock.strftime, **tokenizer.special_tokens_map, **arguments}
    texts = []
    for chat in chats:
        messages = [{"role": role, "content": text} for role, text in zip(itertools.cycle(_ROLES), chat, strict=False)]
        try:
            text = render(
                template, variables, messages=messages, tools=None, documents=None, add_generation_prompt=True
            )
        except Exception as error:  # a template may do anything
            raise UserError(
                f"the chat template of {tokenizer.name_or_path!r} fails at {_shown_chat(chat)}: {_reason(error)}; "
                f"{otherwise}"
            ) from error
        if lost := [turn for turn in chat if turn.strip() not in text]:
            raise UserError(
                f"the chat template of {tokenizer.name_or_path!r} leaves out or changes text of the prompt "
                f"{_cut(lost[0])!r}: it gives {_cut(text)!r}; {otherwise}"
            )
        texts.append(text)
    return texts


def render_messages(
    tokenizer: Any,
    messages: Sequence[tuple[str, str]],
    arguments: Mapping[str, Any],
    date: datetime.date,
    *,
    otherwise: str,
    prompt: bool | None = None,
) -> str:
    """Render a chat of lm-evaluation-harness as its ``hf`` backend does, with the clock stopped.

    Args:
        tokenizer: A transformers tokenizer.
        messages: Role and text; the last one of the assistant is begun and goes on.
        arguments: Further variables of the template.
        date: The day that a template with a clock sees, at midnight.
        otherwise: What to do without a template, for the message.
        prompt: Whether the assistant's header follows; None: unless the last message is the assistant's.

    Raises:
        UserError: If there is no template, or it fails.
    """
    name = tokenizer.name_or_path
    if not tokenizer.chat_template:
        raise UserError(f"the tokenizer of {name!r} has no chat template; {otherwise}, or use a model that has one")
    begins = messages[-1][0] != "assistant" if prompt is None else prompt
    try:
        return str(
            tokenizer.apply_chat_template(
                [{"role": role, "content": text} for role, text in messages],
                tokenize=False,
                add_generation_prompt=begins,
                continue_final_message=not begins,
                **{CLOCK: datetime.datetime.combine(date, datetime.time()).strftime, **arguments},
            )
        )
    except Exception as error:  # a template may do anything
        others = [message for message in messages if message[0] != "system"]
        if len(others) < len(messages):  # as the harness does
            return render_messages(tokenizer, others, arguments, date, otherwise=otherwise, prompt=begins)
        raise UserError(
            f"the chat template of {name!r} fails: {one_line(error)}; {otherwise}, or use another model"
        ) from error


def _shown_chat(chat: Sequence[str]) -> str:
    return "a single user message" if len(chat) == 1 else f"{len(chat)} turns of user and assistant"


def _compiled(tokenizer: Any, otherwise: str) -> jinja2.Template:
    """Compile a tokenizer's template.

    Raises:
        UserError: If it has none, or it is not valid.
    """
    name = tokenizer.name_or_path
    if not tokenizer.chat_template:
        raise UserError(f"the tokenizer of {name!r} has no chat template; {otherwise}")
    try:
        return compile_template(_environment(), tokenizer.get_chat_template())
    except Exception as error:  # no default among several, not Jinja, not even text
        raise UserError(f"the chat template of {name!r} cannot be read: {_reason(error)}; {otherwise}") from error


@cache
def _environment() -> BoundedEnvironment:
    """Return transformers' environment of chat templates with our bounds.

    Raises:
        RuntimeError: If transformers no longer renders in a sandbox.
    """
    from transformers.utils.chat_template_utils import _compile_jinja_template

    theirs = _compile_jinja_template("").environment
    if not isinstance(theirs, ImmutableSandboxedEnvironment):
        raise RuntimeError(f"transformers renders chat templates in {type(theirs).__name__}, not in a sandbox")
    ours = BoundedEnvironment(
        trim_blocks=theirs.trim_blocks,
        lstrip_blocks=theirs.lstrip_blocks,
        keep_trailing_newline=theirs.keep_trailing_newline,
        undefined=theirs.undefined,
        extensions=[type(extension) for extension in theirs.extensions.values()],
    )
    ours.take_filters(theirs.filters)
    ours.globals["raise_exception"] = theirs.globals["raise_exception"]
    return ours


def _reason(error: Exception) -> str:
    """Return what a template failed at, in one line; what it says itself needs no name of the error."""
    text = _cut(" ".join(str(error).split()), 4 * _SHOWN_LENGTH)
    return (
        text
        if type(error) is jinja2.TemplateError or isinstance(error, UserError)
        else f"{type(error).__name__}: {text}"
    )


def _cut(text: str, length: int = _SHOWN_LENGTH) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
