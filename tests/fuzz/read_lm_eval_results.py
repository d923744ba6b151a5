"""Results files of lm-evaluation-harness without samples, up to the transfer table."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from tests.analysis.imports.test_lm_eval import scores, write_results
from tests.fuzz.strategies import damaged_json
from transfergrid.analysis.imports.lm_eval import import_lm_eval
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.store.folder import RunFolder

_TASKS = {"arc_de": scores(0.3, 0.4), "global_mmlu_de": scores(0.5), "global_mmlu_de_stem": scores(0.5)}
_MORE = {
    "group_subtasks": {"global_mmlu_de": ["global_mmlu_de_stem"]},
    "n-samples": {"arc_de": {"original": 40, "effective": 40}, "global_mmlu_de_stem": {"effective": 5}},
    "n-shot": {"arc_de": 0},
    "versions": {"arc_de": 1.0},
    "chat_template": None,
    "configs": {"arc_de": {"target_delimiter": " "}},
}
CONTENTS = damaged_json(
    {
        "results": _TASKS,
        "config": {
            "model": "hf",
            "model_args": {"pretrained": "meta/Tiny-1B", "peft": "x/s17/arc_challenge-en"},
            "limit": None,
        },
        **_MORE,
    },
    {"results": _TASKS, "config": {"model_args": "pretrained=meta/Tiny-1B,peft=x/arc_challenge-en,dtype=float16"}},
)


def read(content: bytes, folder: Path) -> None:
    write_results(folder / "base", dict(_TASKS))
    (folder / "a").mkdir()
    (folder / "a" / "results_1.json").write_bytes(content)
    run = RunFolder(folder / "run")
    Console(file=io.StringIO()).print(import_lm_eval(folder, run, allow_mismatch=len(content) % 2 == 0))
    read_transfer(run)
