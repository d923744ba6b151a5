"""A run folder that version 0.1.0 (commit c05fcac) wrote is read, analysed and continued by this version.

``old_run/`` was made with that commit: a random Llama of one layer, four random adapters of rank 1, ``grid data``, ``grid eval``
with a noise floor, ``grid analyze``; ``tables/`` holds its tables as CSV.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tests.engine.sweeps import stored_rows
from transfergrid.analysis.analyze import analyze
from transfergrid.analysis.tables.variance import NEARLY_ZERO, WIDEST
from transfergrid.config.file import load_config
from transfergrid.config.settings import GridConfig
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.scorers.multi_lora import MultiLora
from transfergrid.engine.work.request import EvalRequest
from transfergrid.store.folder import RunFolder

OLD = Path(__file__).parent / "old_run"
TABLES = sorted(path.stem for path in (OLD / "tables").glob("*.csv"))
CHANGED: dict[str, set[str]] = {
    "regimes": {
        *("harm_rate_by_chance", "harm_rate_significant", "mean_pp_low", "mean_pp_high", "reason"),
        *("win_rate_low", "win_rate_high", "harm_rate_low", "harm_rate_high", "median_se_pp"),
    },
    "roles": {"harm_rate_low", "harm_rate_high"},
}
"""By table the columns whose formula was changed on purpose since; all others must be as they were."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(OLD, tmp_path_factory.mktemp("old") / "old"))


@pytest.fixture(scope="module")
def config(folder: Path) -> GridConfig:
    return load_config(folder / "grid.yaml")


@pytest.fixture(scope="module")
def run(folder: Path, config: GridConfig) -> RunFolder:
    run = RunFolder(folder / "run")
    analyze(run, config)
    return run


def without_intervals_of_nothing(variance: pl.DataFrame) -> pl.DataFrame:
    """A variance whose interval reached from a thousandth of it to a thousand times it has none today."""
    ends, estimate = ("variance_pp2_low", "variance_pp2_high"), pl.col("variance_pp2")
    is_nothing = pl.col(ends[1]) > WIDEST * estimate
    assert variance.filter(is_nothing).height > 0
    return variance.with_columns(
        *(pl.when(~is_nothing).then(column).alias(column) for column in ends),
        reason=pl.when(is_nothing).then(pl.lit(NEARLY_ZERO)).otherwise("reason"),
    )


@pytest.mark.parametrize("name", TABLES)
def test_an_old_run_is_analysed_to_the_tables_of_its_time(name: str, run: RunFolder) -> None:
    then = pl.read_csv(OLD / "tables" / f"{name}.csv", infer_schema_length=None)
    now = pl.read_csv(run.tables / f"{name}.csv", infer_schema_length=None)
    if name == "variance":
        then = without_intervals_of_nothing(then)
    columns = [column for column in then.columns if column not in CHANGED.get(name, set())]
    assert len(columns) >= min(4, len(then.columns))
    assert_frame_equal(now.select(columns), then.select(columns), rel_tol=1e-9, abs_tol=1e-12, check_dtypes=False)


@pytest.mark.engine
def test_an_old_run_is_continued(folder: Path, config: GridConfig, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(folder / "run", tmp_path / "run")))
    before = stored_rows(run)
    lost = next(run.scores.glob("tiny.s17.global_mmlu-en.*.parquet"))
    kept = {path.name: path.stat().st_mtime_ns for path in run.scores.glob("*.parquet") if path != lost}
    lost.unlink()
    report = evaluate(config, run, EvalRequest(), maker=MultiLora(config.engine))
    assert report.is_complete
    assert {name: (run.scores / name).stat().st_mtime_ns for name in kept} == kept
    after = stored_rows(run).select(before.columns)
    keys = before.drop("loglikelihoods_nats")
    assert_frame_equal(after.select(keys.columns), keys)
    assert_frame_equal(after, before, rel_tol=0, abs_tol=1e-3)  # another processor adds in another order
