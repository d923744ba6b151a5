import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from tests.analysis.synthetic import item_rows
from transfergrid.cli import main
from transfergrid.config.settings import GridConfig
from transfergrid.engine.work.failures import Failure, FailureLog
from transfergrid.grid import BASE, Cell, Source
from transfergrid.store.files import write_json
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import CellRecord, Origin, ScoreStore
from transfergrid.view.status import read_status

MODEL = "Qwen2.5-0.5B-Instruct"
CELLS = (Cell("arc_challenge", "de"), Cell("arc_challenge", "en"))
CONFIG = GridConfig(models=(MODEL,), tasks=("arc_challenge",), languages=("de", "en"), seeds=(17,))
ROWS = item_rows(models=(MODEL,), seeds=(17,), tasks=("arc_challenge",), languages=("de", "en"), n_items=4)


def write_part(run: RunFolder, source: Source, targets: tuple[Cell, ...], *, content: str | None = None) -> None:
    own = pl.col("source") == source.name
    rows = ROWS.filter(own & pl.col("target_language").is_in([cell.language for cell in targets]))
    numbers = {"n_unscored": 0, "n_to_retry": 0, "wall_s": 2.0, "n_computed_tokens": 1, "n_repeated_tokens": 1}
    records = [
        CellRecord(target=cell.name, run_key="k", items_hash="i", n_items=rows.height // len(targets), **numbers)
        for cell in targets
    ]
    parts = {"adapter": {"content": content}, "limits": {"truncation": CONFIG.engine.truncation}}
    ScoreStore(run.scores).write(Origin(MODEL, source), parts, records, rows)


def write_adapter(run: RunFolder, cell: Cell, content: str) -> None:
    write_json(run.adapter(MODEL, 17, cell) / "training.json", {"content_hash": content})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "run")
    write_part(run, BASE, CELLS)
    write_part(run, Source.of(CELLS[0], 17), CELLS[:1], content="first")
    write_adapter(run, CELLS[0], "first")
    return run


def numbers(run: RunFolder, config: GridConfig | None = CONFIG) -> list[tuple[int, int, int | None, int]]:
    return [(row.done, row.failed, row.left, row.stale) for row in read_status(run, config).progress]


def test_it_counts_what_is_done_and_left(run: RunFolder) -> None:
    assert numbers(run) == [(1, 0, 1, 0), (3, 0, 3, 0)]
    assert numbers(run, None) == [(1, 0, None, 0), (3, 0, None, 0)]
    status = read_status(run, CONFIG)
    assert status.seconds_left == 3 * 2.0
    assert status.next_step.startswith("grid data --run")


def test_what_failed_is_counted_and_named(run: RunFolder) -> None:
    FailureLog(run.scores).add(Failure(model=MODEL, seed=17, source="arc_challenge-de", reason="out of memory"))
    write_json(run.adapters / MODEL / "s17" / "arc_challenge-en.failed.json", {"reason": "loss is not finite"})
    status = read_status(run, CONFIG)
    assert [(row.failed, row.left) for row in status.progress] == [(1, 0), (1, 2)]
    assert any("loss is not finite" in line for line in status.failures)
    assert any("out of memory" in line for line in status.failures)


def test_an_adapter_that_was_trained_again_makes_its_cells_stale(run: RunFolder) -> None:
    write_adapter(run, CELLS[0], "second")
    assert numbers(run)[1] == (3, 0, 3, 1)
    assert "grid eval --force" in read_status(run, CONFIG).next_step


def test_a_changed_limit_makes_all_cells_stale(run: RunFolder) -> None:
    other = "error" if CONFIG.engine.truncation != "error" else "left"
    config = CONFIG.model_copy(update={"engine": CONFIG.engine.model_copy(update={"truncation": other})})
    assert numbers(run, config)[1] == (3, 0, 3, 3)


def test_a_damaged_part_is_named_and_left_alone(run: RunFolder) -> None:
    (run.scores / "broken.parquet").write_bytes(b"PAR1")
    assert read_status(run, CONFIG).unreadable == ("broken.parquet",)
    assert (run.scores / "broken.parquet").exists()


def test_a_finished_run_names_the_report(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for source in (BASE, *(Source.of(cell, 17) for cell in CELLS)):
        write_part(run, source, CELLS)
    for cell in CELLS:
        write_adapter(run, cell, "any")
    assert numbers(run) == [(2, 0, 0, 0), (6, 0, 0, 0)]
    assert read_status(run, CONFIG).next_step.startswith("grid report")


def test_an_empty_run_starts_at_its_data(tmp_path: Path) -> None:
    assert numbers(RunFolder(tmp_path / "no")) == [(0, 0, 2, 0), (0, 0, 6, 0)]


def test_the_command_prints_80_columns_and_loads_nothing(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(main, ["status", "--run", str(run.root)])
    assert shown.exit_code == 0, shown.output
    assert f"{MODEL}  cells" in shown.output
    code = (
        "import sys; from pathlib import Path; from transfergrid.view.status import read_status; "
        f"from transfergrid.store.folder import RunFolder; read_status(RunFolder(Path({str(run.root)!r}))); "
        "print(sorted({'torch', 'vllm', 'transformers', 'peft', 'altair'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
    told = CliRunner().invoke(main, ["status", "--run", str(run.root), "--json"])
    assert json.loads(told.output)["progress"][1]["done"] == 3
