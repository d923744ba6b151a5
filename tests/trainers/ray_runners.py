"""A worker of a cluster that is killed while it trains; in a module that its process can import."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from transfergrid.trainers.events import StepDone
from transfergrid.trainers.on_cluster import TrainingRunner, TrainingUnit


class DeadlyRunner(TrainingRunner):
    """Is killed after the second step of the first adapter that any worker trains."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._marker = Path(os.environ["DEADLY_MARKER"])

    def run(self, unit: TrainingUnit, send: Any) -> None:
        def deadly_send(event: Any) -> None:
            send(event)
            if isinstance(event, StepDone) and event.step == 2 and not self._marker.exists():
                self._marker.write_text(event.job, encoding="utf-8")
                os.kill(os.getpid(), signal.SIGKILL)

        super().run(unit, deadly_send)
