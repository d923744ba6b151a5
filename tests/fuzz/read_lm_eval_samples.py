"""Samples files of lm-evaluation-harness beside sound results, up to the transfer table."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import strategies as st

from tests.analysis.imports.test_lm_eval import TIME, sample, scores, write_results
from tests.fuzz.strategies import damaged, damaged_json
from transfergrid.analysis.imports.lm_eval import import_lm_eval
from transfergrid.analysis.transfer.table import read_transfer
from transfergrid.store.folder import RunFolder

_HASHED = {"doc_hash": "aa", "prompt_hash": "bb", "filter": "none", "acc": 1.0}
_FIRST = {**sample(0, [-1, -2], ["a", "b"], 0), **_HASHED}
_LINES = [_FIRST, {**sample(1, [-3.5, -2], ["ab", "c"], 1), "acc": 1}]
_VALID = "\n".join(json.dumps(line) for line in _LINES).encode()

CONTENTS = damaged([_VALID]) | st.lists(damaged_json(*_LINES), min_size=1, max_size=3).map(b"\n".join)


def read(content: bytes, folder: Path) -> None:
    kind = ("multiple_choice", "loglikelihood")[len(content) % 2]  # of the second, values are as they were logged
    for name, adapter in (("base", None), ("a", "x/s17/arc_challenge-en")):
        write_results(folder / name, {"arc_de": scores(1.0)}, adapter, configs={"arc_de": {"output_type": kind}})
        lines = _VALID if adapter is None else content
        (folder / name / f"samples_arc_de_{TIME}.jsonl").write_bytes(lines)
    run = RunFolder(folder / "run")
    import_lm_eval(folder, run)
    read_transfer(run)
