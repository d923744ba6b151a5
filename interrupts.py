"""Ctrl-C that is never lost and never cuts a file in two: noted at once, raised between steps.

Python raises KeyboardInterrupt wherever it happens to be, and drops it inside a destructor or a callback of a library.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], None]]:
    """Note the first Ctrl-C instead of raising it; the second one interrupts at once.

    Outside the main thread, where Python takes no signals, nothing changes.

    Yields:
        What to call between steps.

    Raises:
        KeyboardInterrupt: From the yielded function, once Ctrl-C was pressed.
    """
    pressed = threading.Event()

    def check() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)
