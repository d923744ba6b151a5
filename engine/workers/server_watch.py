"""Workers of ``grid serve`` end with their server, also when it was killed and could not tell them."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress

SERVER_PID_VARIABLE = "TRANSFERGRID_SERVER_PID"
"""Environment variable with the server's process id; unset where an engine is embedded."""

_LOOK_EVERY_S = 0.2


def end_with_server() -> threading.Thread | None:
    """Watch the server that the environment names; when it is gone, this process ends at once.

    Returns:
        The watching thread; None where no server is named.
    """
    import psutil

    pid = os.environ.get(SERVER_PID_VARIABLE)
    if pid is None:
        return None
    server = psutil.Process(int(pid))

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
                time.sleep(_LOOK_EVERY_S)
        os.kill(os.getpid(), signal.SIGKILL)

    thread = threading.Thread(target=watch, name="server-watch", daemon=True)
    thread.start()
    return thread
