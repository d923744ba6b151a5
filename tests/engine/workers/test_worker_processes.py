"""The same workers in spawned processes: tensor parallel, and beside an engine core of its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

SCRIPT = """
import sys
from pathlib import Path

from tests.engine.scorers.test_vllm import largest_difference, loglikelihoods, random_items, reference
from transfergrid.config import EngineConfig
from transfergrid.engine.adapters import check_adapter, read_linear_shapes
from transfergrid.engine.scorer import start_vllm

if __name__ == "__main__":
    model, adapter = map(Path, sys.argv[1:])
    config = EngineConfig(dtype="float32", token_budget=256, kv_cache_gib=0.05, tensor_parallel_size=2)
    scorer = start_vllm(model, config, max_rank=8, longest_tokens=256)
    items, checked = random_items(1, 4), check_adapter(adapter, read_linear_shapes(model), name="a")
    scorer.prefetch(checked)
    differences = [
        largest_difference(loglikelihoods(scorer, items, source), reference(model, items, source))
        for source in (None, checked)
    ]
    scorer.close()
    print("differences", *differences)
"""


def test_tensor_parallel_workers_score_as_transformers(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    script = tmp_path / "tensor_parallel.py"  # a file: spawned workers import the main module
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(tiny_llama), str(tiny_adapters[0])],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "VLLM_CPU_OMP_THREADS_BIND": "0|1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("differences"))
    assert max(map(float, line.split()[1:])) < 1e-3
