"""How items are asked: the prompt format of training and evaluation, the chat template, solved items before others."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import Field

from transfergrid.config.values import NUMBER, TEMPLATE_DATE, Section, Seed


class PromptConfig(Section):
    """Which prompt format serves training and evaluation; the study's differ on purpose."""

    train_format: Literal["train", "eval"] = "train"
    """Format of training examples: ``train`` asks for the letter."""
    eval_format: Literal["train", "eval"] = "eval"
    """Format of scored items: ``eval`` scores full option texts."""
    train_chat_template: bool = False
    """Wrap training prompts in the model's chat template."""
    eval_chat_template: bool = True
    """Wrap scored prompts in the model's chat template."""
    template_arguments: dict[str, str | bool | int] = {"date_string": "26 Jul 2024"}
    """Variables of the chat template; a fixed date keeps Llama 3 prompts the same from day to day."""
    date: datetime.date = TEMPLATE_DATE
    """The day that a chat template with a clock (``strftime_now``) sees, at midnight; never today's."""
    shots: Annotated[int, Field(ge=0), NUMBER] = 0
    """Solved train items before every scored item, the same ones in every language."""
    shots_seed: Seed | None = None
    """Seed of their choice; null takes the first ones of the train split."""
    shots_as_turns: bool = False
    """Under a chat template, every one as a turn of user and assistant; else all text is one user message."""
    shots_held_out: bool = False
    """Leave them out of training."""
