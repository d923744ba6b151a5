from __future__ import annotations

import signal
import threading

import pytest

from transfergrid.trainers.interrupts import deferred_interrupt


def press() -> None:
    signal.raise_signal(
        signal.SIGINT
    )  # to this thread: two sent to the process may reach another one and be seen as one


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
