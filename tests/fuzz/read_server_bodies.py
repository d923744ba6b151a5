"""Bodies of requests to ``grid serve``: to load an adapter, and steps to score."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tests.engine.fake_server import LIMITS
from tests.fuzz.strategies import damaged, damaged_json
from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.engine.planning.packing_checks import check_packed_step
from transfergrid.engine.planning.planner import PlanLimits
from transfergrid.engine.server.guard import RefusalError, confine_body
from transfergrid.engine.server.wire import pack_steps, unpack_frames
from transfergrid.grid import UserError

# one sequence of two new tokens in one block, one block copy, one score
_STEP = b"".join(value.to_bytes(4, "little") for value in (1, 1, 1, 0, 2, 1, 5, 6, 1, 1, 2, 1, 7))
CONTENTS = damaged_json({"lora_name": "x", "lora_path": "inside", "load_inplace": False}) | damaged(
    [pack_steps([_STEP, _STEP])]
)


def read(content: bytes, folder: Path) -> None:
    with suppress(ValueError, ScoringError):  # which the guard answers with status 400
        for _, payload in unpack_frames([content]):
            check_packed_step(payload, PlanLimits(**LIMITS), vocab_size=320, max_model_len=128)
    try:
        confine_body(content, folder)
    except RefusalError as error:
        raise UserError(str(error)) from error
