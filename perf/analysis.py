"""Speed and memory of the analysis: the full study's item rows, and the published table's 17,424 aggregates.

``python -m transfergrid.perf.analysis full|table [--models N] [--seeds N] [--folder DIR]`` generates made-up data once,
then times a fresh process that reads it, computes and writes every table.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from transfergrid.config.text import PAPER_MODELS
from transfergrid.grid import BASE, LANGUAGES, SEEDS, TASKS, Grid, Source
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import CellRecord, Origin, ScoreStore
from transfergrid.store.scores import SCORE_SCHEMA, source_columns

N_ITEMS = 400
N_CHOICES = 4
NORM_TASKS = ("arc_challenge", "hellaswag")

MEASURED = """
import sys, time
start = time.perf_counter()
from transfergrid.analysis.analyze import analyze
from transfergrid.store.folder import RunFolder
from transfergrid.store.score_store import CellRecord, Origin, ScoreStore
from pathlib import Path
from rich.console import Console
report = analyze(RunFolder(Path(sys.argv[1])), on_progress=lambda name: print(
    f"  {time.perf_counter() - start:6.2f} s  cpu {time.process_time():6.2f} s  {name}", flush=True))
Console(width=100).print(report)
print(f"  {time.perf_counter() - start:6.2f} s  cpu {time.process_time():6.2f} s  done")
"""


def model_names(n_models: int) -> list[str]:
    """Return the first models of the study, without their owners."""
    return [path.rsplit("/", 1)[-1] for path in PAPER_MODELS[:n_models]]


def write_store(run: RunFolder, n_models: int, n_seeds: int = len(SEEDS)) -> int:
    """Write item rows as the engine does, one part per (model, seed, source); returns their number."""
    generator = np.random.default_rng(0)
    run.scores.mkdir(parents=True, exist_ok=True)
    cells = Grid().cells
    columns = _shared_columns()
    abilities = np.repeat(generator.uniform(0.25, 0.7, len(cells)), N_ITEMS)
    luck = generator.normal(0, 1, (n_models, len(cells) * N_ITEMS))
    n_rows = 0
    store = ScoreStore(run.scores)
    numbers = {"n_unscored": 0, "n_to_retry": 0, "wall_s": 1.0, "n_computed_tokens": 1, "n_repeated_tokens": 1}
    records = [CellRecord(target=cell.name, run_key="", items_hash="", n_items=N_ITEMS, **numbers) for cell in cells]
    for place, model in enumerate(model_names(n_models)):
        base = [(None, None)]
        for seed, source in base + [(seed, cell) for seed in SEEDS[:n_seeds] for cell in cells]:
            of = BASE if source is None else Source.of(source)
            noise = luck[place] + (0.3 * generator.normal(size=luck.shape[1]) if source else 0)
            part = columns.with_columns(
                *_answers(noise, abilities, generator),
                *(pl.lit(value, dtype=pl.String).alias(name) for name, value in source_columns(of).items()),
                model=pl.lit(model),
                seed=pl.lit(seed, dtype=pl.Int64),
                run_key=pl.lit(f"{model} {seed} {source}"),
            ).select(SCORE_SCHEMA.names())
            origin = Origin(model, of if seed is None else replace(of, seed=seed))
            store.write(origin, {}, records, part)
            n_rows += part.height
    return n_rows


def _shared_columns() -> pl.DataFrame:
    cells = pl.DataFrame(
        [(cell.task, cell.language) for cell in Grid().cells], schema=["target_task", "target_language"], orient="row"
    )
    items = pl.DataFrame({"item_id": [f"item-{number:04d}" for number in range(N_ITEMS)]})
    metric = pl.when(pl.col("target_task").is_in(NORM_TASKS)).then(pl.lit("acc_norm")).otherwise(pl.lit("acc"))
    return cells.join(items, how="cross", maintain_order="left_right").with_columns(
        gold=pl.lit(1, dtype=pl.Int16),
        n_truncated_tokens=pl.lit(0, dtype=pl.Int32),
        primary_metric=metric,
        unscored_reason=pl.lit(None, dtype=pl.String),
        output=pl.lit(None, dtype=pl.String),
    )


def _answers(noise: np.ndarray, abilities: np.ndarray, generator: np.random.Generator) -> list[pl.Series]:
    right = noise < np.quantile(noise, 0.5) + 2 * (abilities - 0.5)
    values = -generator.uniform(5, 50, (len(noise), N_CHOICES))
    pred = np.where(right, 1, 2).astype(np.int16)
    chars = np.full((len(noise), N_CHOICES), 20, dtype=np.int32)
    return [
        pl.Series("value", right.astype(np.float64)),
        pl.Series("pred", pred),
        pl.Series("pred_norm", pred),
        pl.Series("loglikelihoods_nats", values).cast(pl.List(pl.Float64)),
        pl.Series("choice_chars", chars).cast(pl.List(pl.Int32)),
    ]


def write_table(run: RunFolder, n_models: int) -> int:
    """Write a made-up table in the release's columns and import it; returns the number of its rows."""
    from transfergrid.analysis.imports.donors import import_donors

    generator = np.random.default_rng(0)
    names = [
        (model, source, target) for model in model_names(n_models) for source in Grid().cells for target in Grid().cells
    ]
    cell = {each: place for place, each in enumerate(Grid().cells)}
    effect = generator.normal(0, 0.5, 44), generator.normal(0, 2, 44)
    deltas = np.array([effect[0][cell[s]] + effect[1][cell[t]] for _, s, t in names]) + generator.normal(
        0, 1, len(names)
    )
    table = published_table(names, deltas, generator)
    run.root.mkdir(parents=True, exist_ok=True)
    path = run.root / "table.csv"
    table.write_csv(path)
    return import_donors(path, run).n_rows


def published_table(names: list, deltas: np.ndarray, generator: np.random.Generator) -> pl.DataFrame:
    """Return a table in the release's columns from (model, source, target) names and deltas in pp."""
    from transfergrid.analysis.transfer.model_traits import size_b_of
    from transfergrid.grid import regime_of

    base = generator.uniform(0.3, 0.5, len(names))
    error = generator.uniform(0.1, 1.0, len(names))
    columns = {
        "model_name": [model for model, _, _ in names],
        "model_size": [size_b_of(model) for model, _, _ in names],
        "fine_tuned_dataset": [source.task for _, source, _ in names],
        "fine_tuned_language": [source.language for _, source, _ in names],
        "eval_dataset": [target.task for _, _, target in names],
        "eval_language": [target.language for _, _, target in names],
        "regime": [regime_of(source, target).value for _, source, target in names],
        "n_seeds": [len(SEEDS)] * len(names),
    }
    for norm in ("", "norm_"):
        columns |= {
            f"score_{norm}mean": base + deltas / 100,
            f"score_{norm}base_mean": base,
            f"delta_score_{norm}mean": deltas,
            f"delta_score_{norm}std": error * 3**0.5,
            f"delta_score_{norm}se": error,
        }
    return pl.DataFrame(columns)


def measure(run: RunFolder, threads: int) -> None:
    """Time a fresh process that analyses a run; prints its stages, wall time and peak memory."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "POLARS_MAX_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
    }
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", MEASURED, str(run.root)], check=True, env=environment)
    wall_s = time.perf_counter() - start
    peak_gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(
        f"wall_s {wall_s:.2f}  peak_gib {peak_gib:.2f}  threads {threads}  {platform.processor() or platform.machine()}"
    )


def main() -> None:
    """Generate and time one of the two workloads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=("full", "table"))
    parser.add_argument("--models", type=int, default=len(PAPER_MODELS))
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="of 'full'; with 1 every pair has its sign flips")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="keep the generated run here and use it again")
    options = parser.parse_args()
    generate = partial(write_store, n_seeds=options.seeds) if options.workload == "full" else write_table
    with tempfile.TemporaryDirectory() as scratch:
        run = RunFolder(options.folder or Path(scratch))
        if not (run.scores.exists() or run.imported.exists()):
            print(f"{generate(run, options.models):,} rows generated ({len(TASKS)} tasks, {len(LANGUAGES)} languages)")
        measure(run, options.threads)


if __name__ == "__main__":
    main()
