"""Answers of vLLM's workers: errors that a user can correct keep their class, from any process.

vLLM turns an exception of a spawned worker into a RuntimeError with its text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from transfergrid.engine.interfaces import AdapterError
from transfergrid.grid import UserError

_ERROR = "error of a worker"
_KINDS: dict[str, type[UserError]] = {kind.__name__: kind for kind in (UserError, AdapterError)}


def hands_back_errors(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a worker's method return a ``UserError`` in plain values, for ``first_answer`` to raise."""

    @wraps(method)
    def run(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except UserError as error:
            kind = AdapterError if isinstance(error, AdapterError) else UserError
            return [_ERROR, kind.__name__, str(error)]

    return run


def first_answer(answers: Sequence[Any]) -> Any:
    """Return what the first worker that has an answer says; None where none has.

    Raises:
        UserError: If a worker handed one back.
        AdapterError: If a worker handed one back.
    """
    for answer in answers:
        if isinstance(answer, list) and answer[:1] == [_ERROR]:
            raise _KINDS[answer[1]](answer[2])
    return next((answer for answer in answers if answer is not None), None)
