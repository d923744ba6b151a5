"""Items to training examples: which tokens are read, which are learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from transfergrid.benchmarks.items import Item
from transfergrid.config.sources import Budget
from transfergrid.engine.models.tokenizer import TokenisationSettings, encode_items, render_contexts
from transfergrid.grid import UserError
from transfergrid.store.files import hash_json
from transfergrid.trainers.sft import IGNORED

_SHOWN_IDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleSettings(TokenisationSettings):
    """How the items of one task become examples of at most ``max_length`` tokens; the right choice is never cut."""

    truncation: Literal["refuse", "left"] = "left"
    supervise: Literal["continuation", "text"] = "continuation"
    """Learn the delimiter and the right choice only, or the whole text."""
    supervise_end_token: bool = False
    """Put the end-of-text token after the right choice and learn it too."""


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One item as the trainer reads it."""

    input_ids: tuple[int, ...]
    """Shape [T]."""
    labels: tuple[int, ...]
    """Shape [T]: the token itself where it is learnt, else -100; the first is never predicted."""
    n_truncated_tokens: int = 0
    """Tokens cut at the beginning."""


@dataclass(frozen=True, slots=True)
class CellData:
    """The examples of one cell under one model's tokenizer, split."""

    train: tuple[TrainingExample, ...]
    validation: tuple[TrainingExample, ...]
    data_hash: str
    """SHA-256 over token ids and labels of both parts."""

    @property
    def n_train_tokens(self) -> int:
        """Tokens of one epoch, without padding."""
        return sum(len(example.input_ids) for example in self.train)

    @property
    def n_truncated_items(self) -> int:
        """Examples whose beginning was cut."""
        return sum(example.n_truncated_tokens > 0 for example in (*self.train, *self.validation))

    @property
    def n_truncated_tokens(self) -> int:
        """Tokens cut at the beginning of examples."""
        return sum(example.n_truncated_tokens for example in (*self.train, *self.validation))


def build_examples(tokenizer: Any, items: Sequence[Item], settings: ExampleSettings) -> list[TrainingExample]:
    """Tokenise items, each context together with its right choice, cut where the context alone ends.

    No BOS is added where only the choice is learnt, as in the study; where the whole text is learnt, the tokenizer's
    own BOS is. White space at the end of a context goes to the choice, as in the evaluation.

    Raises:
        UserError: If a right choice does not fit, or an example is too long and may not be cut; names the ids.
    """
    has_bos = settings.supervise == "text" and not settings.chat_template
    contexts = render_contexts(
        tokenizer, [item.learnt[0] for item in items], settings, asked_by="prompts.train_chat_template"
    )
    choices = [item.learnt[1] for item in items]
    if settings.chat_template:
        choices = [text.removeprefix(item.delimiter) for item, text in zip(items, choices, strict=True)]
    encoded = list(encode_items(tokenizer, contexts, [[choice] for choice in choices], special_tokens=has_bos))
    ids = [item.item_id for item in items]
    if wrong := [item_id for item_id, each in zip(ids, encoded, strict=True) if each.wrong_cut is not None]:
        raise UserError(
            f"the right choice of {len(wrong)} item(s) cannot be cut from its question: {wrong[:_SHOWN_IDS]}; the "
            "tokenizer reads the end of the one and the beginning of the other together in another way"
        )
    pairs = [(each.context, each.continuations[0]) for each in encoded]
    if settings.supervise_end_token:
        pairs = [(context, (*learnt, tokenizer.eos_token_id)) for context, learnt in pairs]
    _refuse_too_long(ids, pairs, settings)
    return [_example(context, learnt, settings, tokenizer.bos_token_id) for context, learnt in pairs]


def split_validation(n_items: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the indices of train and validation examples; the share of the latter is rounded up.

    Raises:
        UserError: If one of the parts would be empty.

    Source:
        ``Dataset.train_test_split(test_size=fraction, seed=seed)`` of datasets 5.2.
    """
    n_validation = math.ceil(fraction * n_items)
    if n_validation >= n_items:
        raise UserError(
            f"{n_items} train items cannot be split with training.validation_fraction {fraction}; expected at least "
            "one item to train on"
        )
    order = np.random.default_rng(seed).permutation(n_items).tolist()
    return order[n_validation:], order[:n_validation]


def mix_cells(parts: Sequence[CellData], budget: Budget, seed: int) -> CellData:
    """Return the examples of a mixture; those of one cell as they are.

    Args:
        parts: Split examples of its cells, K of them.
        budget: ``same`` takes as many as the smallest cell has, 1/K of them from each: place i holds example i of a
            cell drawn by the seed. Languages of one task have their items in one order, so that a mixture of them
            learns the items of a single cell, each in one language. ``all`` takes every example.
        seed: Training seed.

    Raises:
        UserError: If a cell would have no part in it.
    """
    smallest = min(len(part.train) for part in parts)
    if budget == "same" and smallest < len(parts):
        raise UserError(
            f"its {len(parts)} cells cannot share {smallest} train items, as many as the smallest of them has; name "
            "fewer cells, or set its budget to 'all'"
        )
    generator = np.random.default_rng(seed)
    train, validation = (
        _interleave([getattr(part, name) for part in parts], budget, generator) for name in ("train", "validation")
    )
    return CellData(train, validation, hash_examples([*train, *validation]))


def _interleave(
    parts: Sequence[Sequence[TrainingExample]], budget: Budget, generator: np.random.Generator
) -> tuple[TrainingExample, ...]:
    if budget == "same":
        owners = generator.permutation(np.arange(min(map(len, parts))) % len(parts))
        return tuple(parts[owner][place] for place, owner in enumerate(owners))
    owners = generator.permutation(np.repeat(np.arange(len(parts)), [len(part) for part in parts]))
    rests = [iter(part) for part in parts]
    return tuple(next(rests[owner]) for owner in owners)


def hash_examples(examples: Sequence[TrainingExample]) -> str:
    """Return the SHA-256 of all that training reads of some examples."""
    return hash_json([[example.input_ids, example.labels] for example in examples])


def _refuse_too_long(
    ids: Sequence[str], pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], settings: ExampleSettings
) -> None:
    """Refuse examples that do not fit and may not be cut, or whose choice leaves no room for a context token."""
    limit = settings.max_length
    hopeless = [item_id for item_id, (_, learnt) in zip(ids, pairs, strict=True) if len(learnt) >= limit]
    if hopeless:
        raise UserError(
            f"the right choice of {len(hopeless)} item(s) leaves no room for its question in {limit} tokens: "
            f"{hopeless[:_SHOWN_IDS]}; raise training.max_length"
        )
    too_long = [item_id for item_id, pair in zip(ids, pairs, strict=True) if sum(map(len, pair)) > limit]
    if too_long and settings.truncation == "refuse":
        raise UserError(
            f"{len(too_long)} item(s) have more than {limit} tokens: {too_long[:_SHOWN_IDS]}; raise "
            "training.max_length, or cut their beginning with training.truncation: left"
        )


def _example(
    context: tuple[int, ...], learnt: tuple[int, ...], settings: ExampleSettings, bos: int | None
) -> TrainingExample:
    """Cut the context's beginning to fit, keeping a BOS, and label what is learnt."""
    excess = max(0, len(context) + len(learnt) - settings.max_length)
    if excess:
        head = context[:1] if context[0] == bos and len(context) > excess + 1 else ()
        context = head + context[excess + len(head) :]
    ids = context + learnt
    labels = ids if settings.supervise == "text" else (IGNORED,) * len(context) + learnt
    return TrainingExample(ids, labels, excess)
