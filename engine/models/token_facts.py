"""What decides a model's tokens beside its tokenizer's files and the prompts' settings; nothing for most models.

Each fact is a part of the run key only where it applies, so that the keys of all other models stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transfergrid.engine.models.chat_template import may_read_clock
from transfergrid.engine.models.tokenizer import (
    TokenisationSettings,
    appended_tokens,
    load_tokenizer,
    render_contexts,
)
from transfergrid.store.files import hash_text

_PROBE = "Question: which day is it?\nAnswer:"
_APPENDING_KINDS = ("BertProcessing", "RobertaProcessing")


def token_facts(folder: Path, settings: TokenisationSettings) -> dict[str, Any]:
    """Return the facts of a resolved model, as parts of the run key.

    Returns:
        ``rendered``: hash of a rendered probe, where a chat template with a clock is used; ``appended``: tokens that
        the tokenizer appends to every text, no part of a choice. Models without either have no part.

    Raises:
        UserError: If the tokenizer cannot be read, or its chat template fails.
    """
    has_clock = settings.chat_template and may_read_clock(folder)
    if not has_clock and not _may_append(folder):
        return {}
    tokenizer = load_tokenizer(folder)
    facts: dict[str, Any] = {}
    if has_clock:
        facts["rendered"] = hash_text(*render_contexts(tokenizer, [_PROBE], settings))
    if appended := appended_tokens(tokenizer):
        facts["appended"] = list(appended)
    return facts


def _may_append(folder: Path) -> bool:
    """Whether a tokenizer's files leave it open that it appends tokens to every text; cheaper than to load it."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        after = text[text.index('"post_processor"') :].partition(":")[2].lstrip()
        processor, _ = json.JSONDecoder().raw_decode(after)
        return bool(config.get("add_eos_token")) or any(map(_appends, _mappings(processor)))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):  # damaged: loading it says how
        return True


def _appends(processor: dict[str, Any]) -> bool:
    single = processor.get("single")
    ends_special = isinstance(single, list) and bool(single) and "SpecialToken" in single[-1]
    return ends_special or processor.get("type") in _APPENDING_KINDS


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _mappings(each)
