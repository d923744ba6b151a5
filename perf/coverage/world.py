"""Made-up runs whose true effects are known: what a run is drawn from, and one draw of it.

Every item of a cell has a latent margin of the base model, part of it shared by the languages of the task; the answer
is right where the margin is above the cell's threshold. An adapter's margin is correlated with the base's, less so
the more answers it changes, and its threshold is set such that the share of right answers over all items there could
be is the base's plus the true effect. So every effect is exact, whatever the items that were drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import special

from transfergrid.analysis.graded.columns import NUMBERS
from transfergrid.analysis.records import EVERY_KEY, KEY, TARGET, ItemBlock, Transfer
from transfergrid.analysis.transfer.by_seed import transfer_by_seed, with_q
from transfergrid.analysis.transfer.model_traits import traits_frame
from transfergrid.analysis.transfer.sources import read_sources, single_blocks
from transfergrid.analysis.transfer.table import average_seeds, with_graded
from transfergrid.grid import LANGUAGES, TASKS, Cell
from transfergrid.store.noise_floor import NOISE_FLOOR_SCHEMA
from transfergrid.store.scores import with_regime

FloatArray = npt.NDArray[np.float64]
MODELS = ("Llama-3.2-1B-Instruct", "Qwen2.5-3B-Instruct", "gemma-3-4b-it")
SHARED_BY_LANGUAGES = 0.5
"""Share of the variance of the base's margins that an item has in every language."""
SHARED_BY_SOURCES = 0.3
"""Share of the variance of an adapter's change that all adapters have on an item."""
SHARED_BY_SEEDS = 0.5
"""Of the rest: what the seeds of an adapter have in common on an item."""
SHARED_BY_MODELS = 0.4
"""Share of the variance of the base's margins and of all adapters' change that an item has in every model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a made-up run is drawn from; effects and their standard deviations in pp."""

    name: str
    n_tasks: int = 4
    n_languages: int = 11
    n_items: int = 400
    n_models: int = 1
    n_seeds: int = 1
    mean_pp: float = 0.8
    source_sd: float = 0.4
    target_sd: float = 1.2
    pair_sd: float = 0.5
    task_pair_sd: float = 0.0
    """Interaction of a source task with a target task."""
    model_target_sd: float = 0.0
    """What one model has on a target and the others have not."""
    seed_sd: float = 0.0
    """Luck of a training seed, drawn anew per (source, target, seed)."""
    churn: float = 0.12
    """Share of the answers that an adapter changes, about."""
    unequal: bool = False
    """Adapters change from a quarter of `churn` to 4 times as many answers."""
    redrawn_items: bool = False
    """Every seed has test items of its own."""

    @property
    def cells(self) -> list[Cell]:
        """Cells, all of which are sources and targets."""
        return [Cell(task, language) for task in TASKS[: self.n_tasks] for language in LANGUAGES[: self.n_languages]]

    @property
    def is_null(self) -> bool:
        """Whether no adapter has any effect."""
        return not any((self.mean_pp, self.source_sd, self.target_sd, self.pair_sd, self.task_pair_sd))


NULL = {"mean_pp": 0.0, "source_sd": 0.0, "target_sd": 0.0, "pair_sd": 0.0}
SMALL = {"n_tasks": 2, "n_languages": 3}


class Truth(NamedTuple):
    """Effects over all items there could be, in pp; the expected ones, without a seed's luck."""

    pairs: FloatArray
    """Shape [models, sources, targets]."""
    sources: FloatArray
    """Shape [S]: what a source does on targets like these, on average."""
    targets: FloatArray
    """Shape [T]."""


class Drawn(NamedTuple):
    """A made-up run and the truth behind it."""

    transfer: Transfer
    truth: Truth


def draw_truth(world: World, generator: np.random.Generator) -> Truth:
    """Draw sources, targets, pairs and models."""
    n = len(world.cells)
    tasks = np.repeat(np.arange(world.n_tasks), world.n_languages)
    sources, targets = world.source_sd * generator.normal(size=n), world.target_sd * generator.normal(size=n)
    by_task = world.task_pair_sd * generator.normal(size=(world.n_tasks, world.n_tasks))
    pairs = sources[:, None] + targets + by_task[np.ix_(tasks, tasks)] + world.pair_sd * generator.normal(size=(n, n))
    by_model = world.model_target_sd * generator.normal(size=(world.n_models, 1, n))
    return Truth(world.mean_pp + pairs + by_model, world.mean_pp + sources, world.mean_pp + targets)


def draw_run(world: World, generator: np.random.Generator) -> Drawn:
    """Draw the answers of base and adapters to all items and count them as the analysis of a store does."""
    truth, answers = draw_answers(world, generator)
    return Drawn(count_answers(world, answers), truth)


def draw_answers(world: World, generator: np.random.Generator) -> tuple[Truth, list[list[Answers]]]:
    """Draw the truth and the answers of every model and seed."""
    truth = draw_truth(world, generator)
    n = len(world.cells)
    factors = np.exp(generator.uniform(-np.log(4), np.log(4), n)) if world.unequal else np.ones(n)
    n_pools = world.n_seeds if world.redrawn_items else 1
    pools = [np.stack([_margins(world, generator), _margins(world, generator)]) for _ in range(n_pools)]
    return truth, [list(_answers(world, pairs, factors, pools, generator)) for pairs in truth.pairs]


def count_answers(world: World, answers: list[list[Answers]], *, n_items: int | None = None) -> Transfer:
    """Return the transfer tables of the first items, or of all."""
    world = replace(world, n_items=n_items or world.n_items)
    answers = [
        [Answers(each.base[:, : world.n_items], each.adapters[..., : world.n_items]) for each in of_model]
        for of_model in answers
    ]
    counts = pl.concat(
        _counts(world, MODELS[model], seed, *each)
        for model, of_model in enumerate(answers)
        for seed, each in enumerate(of_model)
    )
    return _transfer(world, counts, tuple(_blocks(world, answers)))


class Answers(NamedTuple):
    """Right answers of one seed of one model."""

    base: npt.NDArray[np.bool_]
    """Shape [targets, items]."""
    adapters: npt.NDArray[np.bool_]
    """Shape [sources, targets, items]."""


def _answers(
    world: World, pairs: FloatArray, factors: FloatArray, pools: list[np.ndarray], generator: np.random.Generator
) -> Iterator[Answers]:
    """Yield every seed's answers of one model.

    ``pairs`` is its true effects, shape [S, T]; ``pools`` are what items have in every model, one for each draw of
    the items, shape [2, T, I]: base and common change.
    """
    rates = generator.uniform(0.3, 0.55, len(pairs))
    similar = np.cos(np.pi * np.minimum(world.churn * factors, 0.45))[:, None, None].astype(np.float32)
    items = []
    for pool in pools:
        own = np.stack([_margins(world, generator), _margins(world, generator)])
        of_model = _mix(SHARED_BY_MODELS, pool, own)
        items.append((of_model, _margins(world, generator, len(pairs))))
    for seed in range(world.n_seeds):
        (base, common), lasting = items[seed % len(items)]
        fresh = generator.normal(size=lasting.shape).astype(np.float32)
        moved = _mix(SHARED_BY_SOURCES, common, _mix(SHARED_BY_SEEDS, lasting, fresh))
        luck = world.seed_sd * generator.normal(size=pairs.shape)
        wanted = special.ndtri(np.clip(rates + (pairs + luck) / 100, 1e-3, 1 - 1e-3))
        margins = similar * base + np.sqrt(1 - similar**2) * moved
        yield Answers(base > -special.ndtri(rates)[:, None], margins > -wanted[:, :, None])


def _mix(share: float, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return normal values of variance 1, of which ``share`` comes from the first."""
    mixed: np.ndarray = np.float32(share**0.5) * first + np.float32((1 - share) ** 0.5) * second
    return mixed


def _margins(world: World, generator: np.random.Generator, *leading: int) -> np.ndarray:
    """Return normal values that the languages of a task have partly in common, shape [*leading, T, I]."""
    shared = generator.normal(size=(*leading, world.n_tasks, 1, world.n_items))
    own = generator.normal(size=(*leading, world.n_tasks, world.n_languages, world.n_items))
    return _mix(SHARED_BY_LANGUAGES, shared, own).astype(np.float32).reshape(*leading, -1, world.n_items)


def _counts(world: World, model: str, seed: int, base: np.ndarray, adapters: np.ndarray) -> pl.DataFrame:
    keys = [
        (model, seed, source.name, target.task, target.language) for source in world.cells for target in world.cells
    ]
    both, only_base = (adapters & base).sum(axis=2).ravel(), (~adapters & base).sum(axis=2).ravel()
    only_adapter = (adapters & ~base).sum(axis=2).ravel()
    n = world.n_items
    rates = {"base": (both + only_base) / n, "adapter": (both + only_adapter) / n}
    nothing = pl.lit(None, dtype=pl.String)
    return pl.DataFrame(keys, schema=["model", "seed", "source", *TARGET], orient="row").with_columns(
        pl.lit("acc").alias("primary_metric"),
        pl.lit(n, dtype=pl.Int64).alias("n_items"),
        *(pl.lit(0, dtype=pl.Int64).alias(name) for name in ("n_unscored", "n_ties", "n_ties_base")),
        pl.Series("n_both", both),
        pl.Series("n_only_base", only_base),
        pl.Series("n_only_adapter", only_adapter),
        *(
            pl.Series(f"{side}_{score}", values)
            for side, values in rates.items()
            for score in ("score", "acc", "acc_norm")
        ),
        pl.Series("change", (only_adapter - only_base).astype(np.float64)),
        pl.Series("squares", (only_adapter + only_base).astype(np.float64)),
        *(pl.lit(None, dtype=dtype).alias(name) for name, dtype in NUMBERS.items()),
        pl.lit(True).alias("has_base"),
        nothing.alias("unscored_reason"),
    )


def _blocks(world: World, answers: list[list[Answers]]) -> Iterator[ItemBlock]:
    for place, task in enumerate(TASKS[: world.n_tasks]):
        part = slice(place * world.n_languages, (place + 1) * world.n_languages)
        keys = [
            (model, source.name, target.task, target.language)
            for model in MODELS[: world.n_models]
            for source in world.cells
            for target in world.cells[part]
        ]
        differences = [
            [each.adapters[:, part].astype(np.float32) - each.base[part] for each in of_model] for of_model in answers
        ]
        stacked = np.stack([np.stack(each) for each in differences])  # [models, seeds, sources, languages, items]
        flat = np.moveaxis(stacked, 1, -2).reshape(len(keys), world.n_seeds, world.n_items)
        values = flat.reshape(len(keys), -1) if world.redrawn_items else flat.mean(axis=1)
        ids = tuple(f"q{item:04d}" for item in range(values.shape[1]))
        frame = pl.DataFrame(keys, schema=list(EVERY_KEY), orient="row")
        yield ItemBlock(task, frame, ids, np.ascontiguousarray(values), np.ones(values.shape, dtype=np.bool_))


def _transfer(world: World, counts: pl.DataFrame, blocks: tuple[ItemBlock, ...]) -> Transfer:
    sources = read_sources(pl.LazyFrame(), [cell.name for cell in world.cells])
    by_seed = transfer_by_seed(counts, None, pl.DataFrame(schema=NOISE_FLOOR_SCHEMA), sources)
    rows = with_graded(average_seeds(by_seed, blocks), by_seed, (), 0.95).join(
        sources, on="source", how="left", validate="m:1"
    )
    traits = traits_frame(rows["model"].unique()).select("model", "family", "size")
    frame = with_regime(rows.join(traits, on="model", how="left", validate="m:1")).with_columns(
        construction=pl.lit("machine-translated"),
        source_language_family=pl.col("source_language"),
        target_language_family=pl.col("target_language"),
    )
    frame = with_q(with_q(frame, "p_value", "q_value"), "graded_p", "graded_q")
    return Transfer(by_seed, frame.sort(KEY), single_blocks(blocks, sources))
