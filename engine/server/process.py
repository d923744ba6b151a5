"""The process of ``grid serve``: vLLM's API server, whose children end with it from their first moment.

A killed server cannot tell its children. vLLM's engine would wait minutes for it if they had only begun to shake hands.
"""

from __future__ import annotations

import os
import runpy
import signal
import threading
import time
from contextlib import suppress

SERVER_PID_VARIABLE = "TRANSFERGRID_SERVER_PID"
"""Environment variable with the server's process id."""

_SERVER = "vllm.entrypoints.openai.api_server"
_LOOK_EVERY_S = 0.2


def end_with_server() -> None:
    """Watch the server that the environment names from a thread; when it is gone, this process ends at once."""
    import psutil

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            server = psutil.Process(int(os.environ[SERVER_PID_VARIABLE]))
            while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
                time.sleep(_LOOK_EVERY_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="server-watch", daemon=True).start()


if __name__ == "__mp_main__":  # a spawned child imports its parent's module under this name
    end_with_server()
if __name__ in ("__main__", "__mp_main__"):
    os.register_at_fork(after_in_child=end_with_server)
if __name__ == "__main__":
    runpy.run_module(_SERVER, run_name="__main__")
