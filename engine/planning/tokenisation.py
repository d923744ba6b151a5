"""Items to token ids, once per model, as lm-evaluation-harness 0.4.13 does it.

Source: EleutherAI/lm-evaluation-harness 0.4.13, ``TemplateLM._encode_pair`` and ``TemplateLM.loglikelihood`` in
lm_eval/api/model.py, ``HFLM.tok_encode`` in lm_eval/models/huggingface.py, ``ConfigurableTask.construct_requests`` in
lm_eval/api/task.py. Differences: a continuation without tokens is encoded apart instead of failing; what a tokenizer
appends to every text is no part of it; an item is refused when it cannot be cut right, or is too long unless asked
otherwise; a context that is cut on the left keeps its BOS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transfergrid.benchmarks.items import Item, Messages, Request
from transfergrid.engine.interfaces import TokenisedItem
from transfergrid.engine.models.chat_template import render_messages
from transfergrid.engine.models.tokenizer import (
    EncodedItem,
    TokenisationSettings,
    encode_items,
    encode_texts,
    prefix_token,
    render_contexts,
    rolling_windows,
)


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


def tokenise_items(tokenizer: Any, items: Sequence[Item], settings: TokenisationSettings) -> TokenisedItems:
    """Tokenise items, each context together with each of its choices.

    Returns:
        One result per item.

    Raises:
        UserError: If a chat template is asked for and the tokenizer has none.
    """
    bos = tokenizer.bos_token_id
    usual = [item for item in items if not item.requests]
    texts = [item.scored_texts(chat_template=settings.chat_template) for item in usual]
    cuts = list(encode_items(tokenizer, _contexts(tokenizer, usual, settings), texts))
    whole = iter([_fit(item.item_id, cut, settings, bos) for item, cut in zip(usual, cuts, strict=True)])
    asked = _encode_requests(tokenizer, items, settings)
    cuts += [cut for cut in asked.values() if isinstance(cut, EncodedItem)]
    results = tuple(
        _join_requests(item, [asked[each] for each in item.requests], settings, bos) if item.requests else next(whole)
        for item in items
    )
    truncated = [
        result.n_truncated_tokens
        for result in results
        if isinstance(result, TokenisedItem) and result.n_truncated_tokens
    ]
    counts = TokenisationCounts(
        n_items=len(items),
        n_requests=sum(len(item.requests or item.choices) for item in items),
        n_not_prefix=sum(cut.n_not_prefix for cut in cuts),
        n_encoded_apart=sum(cut.n_encoded_apart for cut in cuts),
        n_truncated_items=len(truncated),
        n_truncated_tokens=sum(truncated),
        n_unscorable=sum(isinstance(result, Unscorable) for result in results),
    )
    return TokenisedItems(results, counts)


def _contexts(tokenizer: Any, items: Sequence[Item], settings: TokenisationSettings) -> list[str]:
    """Return contexts as the model reads them; chats of the harness are rendered as it does."""
    if any(item.messages for item in items):
        return [_render(tokenizer, item.messages, settings) for item in items]
    turned = settings.chat_template and settings.shots_as_turns
    return render_contexts(tokenizer, [item.turns if turned else item.prompt for item in items], settings)


def _render(tokenizer: Any, messages: Messages, settings: TokenisationSettings) -> str:
    return render_messages(
        tokenizer,
        messages,
        settings.template_arguments,
        settings.date,
        otherwise="set prompts.eval_chat_template to false",
    )


def _encode_requests(
    tokenizer: Any, items: Sequence[Item], settings: TokenisationSettings
) -> dict[Request, EncodedItem | list[EncodedItem]]:
    """Return the tokens of every distinct request; of a text without a prompt those of its windows."""
    requests = list(dict.fromkeys(request for item in items for request in item.requests))
    if not requests:
        return {}
    prompted = [request for request in requests if request.prompt is not None]
    contexts = [
        _render(tokenizer, request.prompt, settings) if isinstance(request.prompt, tuple) else request.prompt or ""
        for request in prompted
    ]
    cuts = encode_items(tokenizer, contexts, [[request.continuation] for request in prompted])
    found: dict[Request, EncodedItem | list[EncodedItem]] = dict(zip(prompted, cuts, strict=True))
    whole = [request for request in requests if request.prompt is None]
    for request, tokens in zip(whole, encode_texts(tokenizer, [each.continuation for each in whole]), strict=True):
        windows = rolling_windows(tokens, prefix_token(tokenizer), settings.max_length)
        found[request] = [EncodedItem(context, (continued,)) for context, continued in windows]
    return found


def _join_requests(
    item: Item, requests: Sequence[EncodedItem | list[EncodedItem]], settings: TokenisationSettings, bos: int | None
) -> TokenisedItem | Unscorable:
    """Return an item of which every request fits, or why one does not."""
    parts = [
        [_fit(item.item_id, cut, settings, bos, number=number) for cut in (cuts if isinstance(cuts, list) else [cuts])]
        for number, cuts in enumerate(requests)
    ]
    for windows in parts:
        if unfit := [part for part in windows if isinstance(part, Unscorable)]:
            return unfit[0]
        if not windows:
            return Unscorable(item.item_id, "its text has no tokens")
    kept = tuple(tuple(part for part in windows if isinstance(part, TokenisedItem)) for windows in parts)
    return TokenisedItem(
        item_id=item.item_id,
        context=(),
        continuations=(),
        n_truncated_tokens=sum(part.n_truncated_tokens for windows in kept for part in windows),
        requests=kept,
        asks_greedy=item.asks_greedy,
    )


def _fit(
    item_id: str, cut: EncodedItem, settings: TokenisationSettings, bos: int | None, *, number: int = 0
) -> TokenisedItem | Unscorable:
    """Return the item if it fits the longest sequence, cut where that is allowed; ``number`` is of its first choice."""
    lengths = [len(tokens) for tokens in cut.continuations]
    if cut.wrong_cut is not None:
        return Unscorable(
            item_id,
            f"choice {number + cut.wrong_cut} cannot be cut from its context: the tokenizer reads their end and "
            "beginning together in another way",
        )
    if 0 in lengths:
        return Unscorable(item_id, f"choice {number + lengths.index(0)} has no tokens")
    longest, room = max(lengths), settings.max_length - max(lengths) + 1
    if room < 1:
        return Unscorable(
            item_id,
            f"choice {number + lengths.index(longest)} alone has {longest} tokens; at most {settings.max_length} fit "
            "with a context token",
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
