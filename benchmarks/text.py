"""Cleaning of benchmark texts, as the study's evaluation tasks do it."""

from __future__ import annotations

import re

_BRACKETS = re.compile(r"\[.*?\]")


def clean(text: object) -> str:
    """Remove the artefacts of web-scraped items.

    Strips the ends, turns `` [title]`` into ``". "``, removes bracketed remarks, then replaces two blanks by one
    (one pass, as the source does). None, a missing option, becomes the empty text; a number becomes its digits.

    Source:
        ``preprocess`` of the okapi tasks in EleutherAI/lm-evaluation-harness.
    """
    if text is None:
        return ""
    titled = str(text).strip().replace(" [title]", ". ")
    return _BRACKETS.sub("", titled).replace("  ", " ")
