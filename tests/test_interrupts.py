from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from transfergrid.interrupts import deferred_interrupt


@pytest.fixture(autouse=True)
def pythons_own_handler() -> Iterator[None]:
    """Ctrl-C as in a terminal: a process started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    """Press Ctrl-C in this thread: two sent to the process may reach another one and be seen as one."""
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_raised_at_the_next_check_only() -> None:
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as check:
        check()
        press()
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is before


def test_second_ctrl_c_interrupts_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), deferred_interrupt():
        press()
        press()
        pytest.fail("the second one was not raised")


def test_other_threads_leave_the_handler_alone() -> None:
    handlers = []

    def work() -> None:
        with deferred_interrupt() as check:
            check()
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]
