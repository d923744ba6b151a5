"""A model's tokenizer: loaded, its chat template rendered, context and continuation encoded."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from transfergrid.config.values import TEMPLATE_DATE
from transfergrid.engine.models.chat_template import render_chats
from transfergrid.grid import UserError
from transfergrid.wording import one_line

Tokens = tuple[int, ...]
_PROBES = ("a", "1", ".", "é", "的")


def load_tokenizer(folder: Path) -> Any:
    """Load a resolved model's tokenizer.

    Raises:
        UserError: If the folder holds none that transformers can read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        tokenizer.decode(tokenizer(list(_PROBES))["input_ids"][0])  # a setting of the wrong kind shows only here
        return tokenizer
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # tokenizer.json's reader raises Exception itself, and a panic in Rust is none
        raise UserError(
            f"no usable tokenizer in model folder {str(folder)!r}: {type(error).__name__}: {one_line(error)}; fetch "
            "the tokenizer's files again"
        ) from error


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
    date: datetime.date = TEMPLATE_DATE
    """The day that a chat template with a clock sees."""
    shots_as_turns: bool = False
    """Under a chat template, solved items are turns of user and assistant; else all text is one user message."""


def render_contexts(
    tokenizer: Any,
    contexts: Sequence[str | tuple[str, ...]],
    settings: TokenisationSettings,
    *,
    asked_by: str = "prompts.eval_chat_template",
) -> list[str]:
    """Return contexts as the model reads them: in the chat template where one is asked for.

    Args:
        tokenizer: A transformers tokenizer.
        contexts: Texts without a template; under one, also turns of user and assistant, the last one of the user.
        settings: Whether there is a template, its variables and its clock.
        asked_by: Setting that asks for the template, for the message.

    Raises:
        UserError: If a chat template is asked for that is missing, fails, or leaves out text.
    """
    if not settings.chat_template:
        return list(map(str, contexts))
    chats = [(context,) if isinstance(context, str) else context for context in contexts]
    return render_chats(tokenizer, chats, settings.template_arguments, settings.date, asked_by=asked_by)


class EncodedItem(NamedTuple):
    """One context and its continuations, cut out of their joint encodings."""

    context: Tokens
    continuations: tuple[Tokens, ...]
    n_not_prefix: int = 0
    """Continuations whose context, encoded alone, is not the start of the joint encoding; cut by its length."""
    n_encoded_apart: int = 0
    """Continuations whose joint encoding is no longer than the context; encoded alone."""
    wrong_cut: int | None = None
    """Position of a continuation that cannot be cut where its text begins; None: all are right."""


def encode_items(
    tokenizer: Any,
    contexts: Sequence[str],
    continuations: Sequence[Sequence[str]],
    *,
    special_tokens: bool | None = None,
) -> Iterator[EncodedItem]:
    """Encode every context together with each of its continuations, and cut where the context alone ends.

    White space at the end of a context goes to its continuations. What a tokenizer appends to every text (EOS) is
    taken away first.

    Args:
        tokenizer: A transformers tokenizer.
        contexts: Shape [N].
        continuations: Shape [N], each with one text or more.
        special_tokens: Whether the tokenizer adds its special tokens. None: as in the evaluation, unless the text
            begins with them, and an empty context is the prefix token (BOS, or EOS where the family has no BOS).

    Raises:
        UserError: If a context is empty and the tokenizer has no token to stand for it.

    Source:
        EleutherAI/lm-evaluation-harness 0.4.13, ``TemplateLM._encode_pair`` in lm_eval/api/model.py. There a tokenizer
        that appends EOS loses the first token of every continuation.
    """
    starts = [context.rstrip() for context in contexts]
    texts = [
        [context[len(start) :] + text for text in row]
        for context, start, row in zip(contexts, starts, continuations, strict=True)
    ]
    encode = _Encoder(tokenizer, special_tokens)
    alone = encode(starts)
    joint = iter(encode([start + text for start, row in zip(starts, texts, strict=True) for text in row]))
    for start, row, context in zip(starts, texts, alone, strict=True):
        wholes = [next(joint) for _ in row]
        if not start and special_tokens is None:
            yield _cut_without_context(encode, row)
        else:
            yield _cut_joint(encode, start, context, row, wholes)


class _Encoder:
    """A tokenizer without what it appends to every text."""

    def __init__(self, tokenizer: Any, special_tokens: bool | None) -> None:
        self.tokenizer = tokenizer
        self.special_tokens = special_tokens
        prefix = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        self._prefix_text = None if prefix is None else tokenizer.decode(prefix)
        self._n_appended: dict[bool, int] = {}

    def __call__(self, texts: Sequence[str]) -> list[Tokens]:
        """Encode texts in at most two batches: those that get special tokens, and the others."""
        encoded: list[Tokens] = [()] * len(texts)
        special = [self.adds_to(text) for text in texts]
        for adds in set(special):
            positions = [at for at, each in enumerate(special) if each is adds]
            batch = self.batch([texts[at] for at in positions], special_tokens=adds)
            for at, tokens in zip(positions, batch, strict=True):
                encoded[at] = tokens
        return encoded

    def adds_to(self, text: str) -> bool:
        """Whether the tokenizer adds its special tokens to a text."""
        if self.special_tokens is not None:
            return self.special_tokens
        return self._prefix_text is None or not text.startswith(self._prefix_text)

    def batch(self, texts: Sequence[str], *, special_tokens: bool) -> list[Tokens]:
        """Encode texts with one call of the tokenizer."""
        if special_tokens not in self._n_appended:
            self._n_appended[special_tokens] = len(appended_tokens(self.tokenizer, special_tokens=special_tokens))
        n_appended = self._n_appended[special_tokens]
        return [tokens[: len(tokens) - n_appended] for tokens in _encode(self.tokenizer, texts, special_tokens)]

    def is_cut_right(self, text: str, at_character: int, at_token: int) -> bool:
        """Whether a cut leaves every token on the side of its text; a token on both sides may be on either."""
        if not self.tokenizer.is_fast:
            return False
        spans = self.tokenizer(text, add_special_tokens=self.adds_to(text), return_offsets_mapping=True, verbose=False)[
            "offset_mapping"
        ]
        before = all(start < at_character for start, end in spans[:at_token] if end > start)
        n_appended = self._n_appended[self.adds_to(text)]
        after = all(end > at_character for start, end in spans[at_token : len(spans) - n_appended] if end > start)
        return before and after


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[Tokens]:
    """Encode whole texts as the harness does: without special tokens where a text begins with the prefix token."""
    prefix = tokenizer.eos_token if tokenizer.bos_token is None else tokenizer.bos_token
    return [
        tuple(tokenizer.encode(text, **({"add_special_tokens": False} if prefix and text.startswith(prefix) else {})))
        for text in texts
    ]


def prefix_token(tokenizer: Any) -> int:
    """Return the token that stands before a text without a context: BOS, or EOS where the family has no BOS.

    Raises:
        UserError: If there is neither.
    """
    token = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if token is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path!r} has neither a BOS nor an EOS token to stand for an "
            "empty context; expected contexts with text, or a tokenizer that names one of the two"
        )
    return int(token)


def rolling_windows(tokens: Tokens, prefix: int, max_length: int) -> Iterator[tuple[Tokens, Tokens]]:
    """Yield context and continuation of the windows of a text; every token is scored once, the first after the prefix.

    The last window, if it is shorter, has as much context as fits; the others have one token of it.

    Source:
        ``get_rolling_token_windows`` with ``context_len=1`` and ``make_disjoint_window`` in lm_eval/utils.py of
        EleutherAI/lm-evaluation-harness 0.4.13.
    """
    for start in range(0, len(tokens), max_length):
        end = min(start + max_length, len(tokens))
        yield (prefix,) if not start else tokens[end - max_length - 1 : start], tokens[start:end]


def _encode(tokenizer: Any, texts: Sequence[str], special_tokens: bool) -> list[Tokens]:
    if not texts:
        return []
    encoding = tokenizer(
        list(texts),
        add_special_tokens=special_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return list(map(tuple, encoding["input_ids"]))


def appended_tokens(tokenizer: Any, *, special_tokens: bool = True) -> Tokens:
    """Return the tokens that a tokenizer appends to every text: those in which texts of other ends agree."""
    probes = _encode(tokenizer, _PROBES, special_tokens)
    shortest = min(map(len, probes))
    agreeing = (len({tokens[len(tokens) - n :] for tokens in probes}) == 1 for n in range(1, shortest + 1))
    length = sum(itertools.takewhile(bool, agreeing))
    return probes[0][len(probes[0]) - length :] if length < shortest else ()  # all the same: an unknown token each


def _cut_without_context(encode: _Encoder, row: Sequence[str]) -> EncodedItem:
    """Put the prefix token before continuations that do not begin with it."""
    start = (prefix_token(encode.tokenizer),)
    encoded = encode.batch(row, special_tokens=False)
    return EncodedItem(start, tuple(tokens[tokens[:1] == start :] for tokens in encoded))


def _cut_joint(
    encode: _Encoder, start: str, context: Tokens, row: Sequence[str], wholes: Sequence[Tokens]
) -> EncodedItem:
    """Cut joint encodings by the context's length; where nothing is left, take the continuation encoded alone."""
    length = len(context)
    vanished = [len(whole) <= length for whole in wholes]
    apart = encode.batch(row, special_tokens=False) if any(vanished) else wholes
    shifted = [at for at, whole in enumerate(wholes) if not vanished[at] and whole[:length] != context]
    wrong = (at for at in shifted if not encode.is_cut_right(start + row[at], len(start), length))
    return EncodedItem(
        context=context,
        continuations=tuple(
            alone if gone else whole[length:] for whole, alone, gone in zip(wholes, apart, vanished, strict=True)
        ),
        n_not_prefix=len(shifted),
        n_encoded_apart=sum(vanished),
        wrong_cut=next(wrong, None),
    )
