"""How often, and after which pauses, a request is sent again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


class TransientError(Exception):
    """A failure that may be over when the request is sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and after which pauses a request is sent again."""

    attempts: int = 8
    first_pause_s: float = 0.25
    longest_pause_s: float = 5.0
    sleep: Callable[[float], None] = time.sleep

    def run(self, action: Callable[[], Result]) -> Result:
        """Return the result of an action, tried again after every transient failure.

        Raises:
            TransientError: The last one, when all attempts failed.
        """
        n_failures = 0
        while True:
            try:
                return action()
            except TransientError as error:
                n_failures += 1
                self.pause(n_failures, error)

    def pause(self, n_failures: int, error: Exception) -> None:
        """Wait before the next attempt: twice as long after every failure, up to the longest pause.

        Raises:
            Exception: The failure, if it was the last attempt's.
        """
        if n_failures >= self.attempts:
            raise error
        pause_s = min(self.longest_pause_s, self.first_pause_s * 2 ** (n_failures - 1))
        self.sleep(pause_s * random.uniform(0.75, 1.25))  # several clients do not come back at once
