"""Items to token ids, once per model, as lm-evaluation-harness 0.4.13 does it.

Source: EleutherAI/lm-evaluation-harness 0.4.13, ``TemplateLM._encode_pair`` and ``TemplateLM.loglikelihood`` in
lm_eval/api/model.py, ``HFLM.tok_encode`` in lm_eval/models/huggingface.py, ``ConfigurableTask.construct_requests`` in
lm_eval/api/task.py. Differences: a continuation without tokens is encoded apart instead of failing, an item is refused
when it is too long unless asked otherwise, and a context that is cut on the left keeps its BOS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from transfergrid.benchmarks.items import Item
from transfergrid.engine.interfaces import TokenisedItem
from transfergrid.engine.models.tokenizer import TokenisationSettings, render_contexts

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unscorable:
    """An item that is not scored, and why."""

    item_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenisationCounts:
    """What happened to some items on their way to tokens."""

    n_items: int = 0
    n_requests: int = 0
    """(item, choice) pairs."""
    n_not_prefix: int = 0
    """Requests whose context, encoded alone, is not the start of the joint encoding; they are cut by its length."""
    n_encoded_apart: int = 0
    """Requests whose joint encoding is no longer than the context; the continuation is encoded alone."""
    n_truncated_items: int = 0
    n_truncated_tokens: int = 0
    n_unscorable: int = 0


@dataclass(frozen=True, slots=True)
class TokenisedItems:
    """Tokenised items, in the order of the items, and what was counted on the way."""

    results: tuple[TokenisedItem | Unscorable, ...]
    counts: TokenisationCounts


@dataclass(frozen=True, slots=True)
class _Cut:
    """One item's tokens before its length is looked at."""

    context: Tokens
    continuations: tuple[Tokens, ...]
    n_not_prefix: int
    n_encoded_apart: int


def tokenise_items(tokenizer: Any, items: Sequence[Item], settings: TokenisationSettings) -> TokenisedItems:
    """Tokenise items, each context together with each of its choices.

    Args:
        tokenizer: A transformers tokenizer.
        items: Contexts without a chat template.
        settings: Template, longest sequence and what to do with longer ones.

    Returns:
        One result per item.

    Raises:
        UserError: If a chat template is asked for and the tokenizer has none.
    """
    contexts = render_contexts(tokenizer, [item.context for item in items], settings)
    cuts = list(_cut_items(tokenizer, contexts, [_continuations(item, settings) for item in items]))
    bos = tokenizer.bos_token_id
    results = tuple(_fit(item.item_id, cut, settings, bos) for item, cut in zip(items, cuts, strict=True))
    truncated = [
        result.n_truncated_tokens
        for result in results
        if isinstance(result, TokenisedItem) and result.n_truncated_tokens
    ]
    counts = TokenisationCounts(
        n_items=len(items),
        n_requests=sum(len(item.choices) for item in items),
        n_not_prefix=sum(cut.n_not_prefix for cut in cuts),
        n_encoded_apart=sum(cut.n_encoded_apart for cut in cuts),
        n_truncated_items=len(truncated),
        n_truncated_tokens=sum(truncated),
        n_unscorable=sum(isinstance(result, Unscorable) for result in results),
    )
    return TokenisedItems(results, counts)


def _continuations(item: Item, settings: TokenisationSettings) -> tuple[str, ...]:
    """Return the texts to score: without the delimiter under a chat template."""
    return item.choices if settings.chat_template else item.continuations


def _prefix_token(tokenizer: Any) -> int:
    """Return the token that stands in for an empty context: BOS, or EOS where the family has no BOS."""
    token: int = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return token


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[Tokens]:
    """Encode texts in two batches: with the tokenizer's special tokens, and without for texts that begin with them."""
    prefix = tokenizer.decode(_prefix_token(tokenizer))
    encoded: list[Tokens] = [()] * len(texts)
    for has_prefix in (False, True):
        positions = [at for at, text in enumerate(texts) if text.startswith(prefix) is has_prefix]
        batch = _encode_batch(tokenizer, [texts[at] for at in positions], add_special_tokens=not has_prefix)
        for at, tokens in zip(positions, batch, strict=True):
            encoded[at] = tokens
    return encoded


def _encode_batch(tokenizer: Any, texts: list[str], *, add_special_tokens: bool) -> list[Tokens]:
    """Encode texts with one call of the tokenizer."""
    if not texts:
        return []
    encoding = tokenizer(
        texts,
        add_special_tokens=add_special_tokens,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    return list(map(tuple, encoding["input_ids"]))


def _cut_items(tokenizer: Any, contexts: Sequence[str], continuations: Sequence[tuple[str, ...]]) -> Iterator[_Cut]:
    """Encode every context alone and with each continuation, and cut the latter by the length of the former.

    White space at the end of a context goes to its continuations. An empty context is the prefix token.
    """
    stripped = [context.rstrip() for context in contexts]
    texts = [
        tuple(context[len(start) :] + text for text in choices)
        for context, start, choices in zip(contexts, stripped, continuations, strict=True)
    ]
    alone = _encode(tokenizer, stripped)
    joint = iter(_encode(tokenizer, [start + text for start, row in zip(stripped, texts, strict=True) for text in row]))
    prefix = _prefix_token(tokenizer)
    for start, row, context_tokens in zip(stripped, texts, alone, strict=True):
        wholes = [next(joint) for _ in row]
        if not start:
            apart = _encode_batch(tokenizer, list(row), add_special_tokens=False)
            yield _cut_without_context(prefix, apart)
        elif any(len(whole) <= len(context_tokens) for whole in wholes):
            yield _cut_joint(context_tokens, wholes, _encode_batch(tokenizer, list(row), add_special_tokens=False))
        else:
            yield _cut_joint(context_tokens, wholes, wholes)


def _cut_without_context(prefix: int, encoded: Sequence[Tokens]) -> _Cut:
    """Put the prefix token before continuations that do not begin with it."""
    return _Cut((prefix,), tuple(tokens[tokens[:1] == (prefix,) :] for tokens in encoded), 0, 0)


def _cut_joint(context: Tokens, wholes: Sequence[Tokens], apart: Sequence[Tokens]) -> _Cut:
    """Cut joint encodings by the context's length; where nothing is left, take the continuation encoded alone."""
    length = len(context)
    is_empty = [len(whole) <= length for whole in wholes]
    return _Cut(
        context=context,
        continuations=tuple(
            alone if empty else whole[length:] for whole, alone, empty in zip(wholes, apart, is_empty, strict=True)
        ),
        n_not_prefix=sum(
            not empty and whole[:length] != context for whole, empty in zip(wholes, is_empty, strict=True)
        ),
        n_encoded_apart=sum(is_empty),
    )


def _fit(item_id: str, cut: _Cut, settings: TokenisationSettings, bos: int | None) -> TokenisedItem | Unscorable:
    """Return the item if it fits the longest sequence, cut where that is allowed."""
    lengths = [len(tokens) for tokens in cut.continuations]
    if 0 in lengths:
        return Unscorable(item_id, f"choice {lengths.index(0)} has no tokens")
    longest, room = max(lengths), settings.max_length - max(lengths) + 1
    if room < 1:
        return Unscorable(
            item_id,
            f"choice {lengths.index(longest)} alone has {longest} tokens; at most {settings.max_length} fit with a "
            "context token",
        )
    excess = len(cut.context) - room
    if excess <= 0:
        return TokenisedItem(item_id=item_id, context=cut.context, continuations=cut.continuations)
    if settings.truncation == "refuse":
        return Unscorable(
            item_id,
            f"context and longest choice have {len(cut.context)} + {longest} tokens, "
            f"{excess} more than fit into {settings.max_length}",
        )
    head = cut.context[:1] if room > 1 and cut.context[0] == bos else ()
    context = head + cut.context[excess + len(head) :]
    return TokenisedItem(item_id=item_id, context=context, continuations=cut.continuations, n_truncated_tokens=excess)
