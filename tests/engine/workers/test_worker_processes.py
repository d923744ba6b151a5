"""The same workers in spawned processes: tensor parallel, and beside an engine core of its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[3]

SCRIPT = """
import sys
from pathlib import Path

from tests.engine.scorers.test_vllm import largest_difference, loglikelihoods, random_items, reference
from transfergrid.config.settings import EngineConfig
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.scorers.launch import start_vllm

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


UNGUARDED = """
import sys
from pathlib import Path

from transfergrid.config.settings import EngineConfig
from transfergrid.engine.scorers.launch import start_vllm
from transfergrid.grid import UserError

try:
    start_vllm(Path(sys.argv[1]), EngineConfig(dtype="float32", kv_cache_gib=0.05, tensor_parallel_size=2))
except UserError as error:
    sys.exit(f"one sentence: {error}")
"""


def test_a_script_without_a_main_guard_ends_with_a_sentence(tiny_llama: Path, tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED, encoding="utf-8")
    done = run(script, tiny_llama)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("one sentence: the workers of engine.tensor_parallel_size 2 did not start"), done.stderr
    assert "put what it does under 'if __name__ == " in last


def run(script: Path, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{ROOT.parent}:{ROOT}", "VLLM_CPU_OMP_THREADS_BIND": "0|1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_tensor_parallel_workers_score_as_transformers(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    script = tmp_path / "tensor_parallel.py"  # a file: spawned workers import the main module
    script.write_text(SCRIPT, encoding="utf-8")
    done = run(script, tiny_llama, tiny_adapters[0])
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("differences"))
    assert max(map(float, line.split()[1:])) < 1e-3
