"""Errors of workers keep their kind and their words on the way through another process."""

from __future__ import annotations

import json

import pytest

from transfergrid.engine.interfaces import AdapterError
from transfergrid.engine.planning.answers import first_answer, hands_back_errors
from transfergrid.grid import UserError


class Worker:
    def __init__(self, error: Exception | None) -> None:
        self.error = error

    @hands_back_errors
    def ask(self, value: int) -> int:
        if self.error is not None:
            raise self.error
        return value


@pytest.mark.parametrize("kind", [UserError, AdapterError])
def test_a_users_error_of_one_worker_is_raised_here_with_its_words(kind: type[UserError]) -> None:
    answers = [Worker(None).ask(3), json.loads(json.dumps(Worker(kind("no room for 'a'")).ask(3)))]
    with pytest.raises(kind, match=r"^no room for 'a'$") as caught:
        first_answer(answers)
    assert type(caught.value) is kind


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        Worker(RuntimeError("a bug")).ask(3)


def test_the_first_answer_counts_and_none_is_no_answer() -> None:
    assert first_answer([None, Worker(None).ask(3), 4]) == 3
    assert first_answer([None, None]) is None
    assert first_answer([b"", None]) == b""
