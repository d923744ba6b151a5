"""The engine against vLLM's public interface and transformers, on the device at hand.

The bundled items of one cell are scored under the base and a random adapter in every way; what a way gives is compared
with transformers and peft in float32, one sequence at a time. Each way runs after the one before has ended.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import Group
from rich.table import Table
from rich.text import Text

from transfergrid.benchmarks.cells import load_items
from transfergrid.benchmarks.tasks import get_task
from transfergrid.config.settings import BUNDLED_MODEL, EngineConfig
from transfergrid.config.values import Dtype
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.null import make_random_adapter
from transfergrid.engine.interfaces import Adapter, Scorer, TokenisedItem
from transfergrid.engine.models.device import engine_device_type, resolve_dtype
from transfergrid.engine.models.resolve import resolve_model
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.models.tokenizer import TokenisationSettings, load_tokenizer
from transfergrid.engine.planning.tokenisation import tokenise_items
from transfergrid.engine.scorers.launch import start_vllm
from transfergrid.engine.scorers.public import start_public
from transfergrid.engine.scorers.reference import ReferenceScorer
from transfergrid.engine.workers.version import selftest_record, vllm_version
from transfergrid.store.files import write_json
from transfergrid.wording import one_line

if TYPE_CHECKING:
    import polars as pl

TASK, LANGUAGE = "arc_challenge", "en"
TOLERANCES = {"float32": 0.01, "float16": 0.5, "bfloat16": 3.0}
"""Largest difference of one choice's log-likelihood to float32, nats, by number format."""
_RANK = 16
MIN_EFFECT = 0.1
"""Nats that an adapter must change some log-likelihood by."""

Scores = Sequence[float]
"""Log-likelihoods of all choices of all items, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WayResult:
    """What one way of scoring gave; differences in nats of one choice's log-likelihood."""

    name: str
    dtype: Dtype
    failure: str | None = None
    """Why it did not run; the other fields are then 0."""
    base_difference: float = 0.0
    """Largest difference to transformers under the base."""
    adapter_difference: float = 0.0
    effect: float = 0.0
    """Largest change that the adapter makes: proof that it is on."""
    repeat_difference: float = 0.0
    """Largest difference between two passes under the same adapter; 0 is bit-equal."""
    items_per_s: float = 0.0
    """Under the adapter."""

    @property
    def is_right(self) -> bool:
        """Whether it ran, agrees with transformers within its number format, and applied the adapter."""
        largest = max(self.base_difference, self.adapter_difference)
        return self.failure is None and largest <= TOLERANCES[self.dtype] and self.effect >= MIN_EFFECT


@dataclass(frozen=True, slots=True, kw_only=True)
class SelftestReport:
    """All ways on one device."""

    version: str
    device: str
    n_items: int
    ways: tuple[WayResult, ...]
    """The planned ways first."""

    @property
    def is_passed(self) -> bool:
        """Whether every planned way is right."""
        return all(way.is_right for way in self.ways if way.name == "planned")

    def rows(self) -> pl.DataFrame:
        """Return one row per way."""
        import polars as pl

        return pl.DataFrame(self.as_json())

    def as_json(self) -> list[dict[str, Any]]:
        """Return one object per way."""
        return [asdict(way) | {"is_right": way.is_right} for way in self.ways]

    def __rich__(self) -> Group:
        """Render as a table, one row per way, and why a way did not run."""
        title = f"Selftest: vLLM {self.version} on {self.device}, {self.n_items} items, largest differences in nats"
        table = Table(title=title)
        for name in ("way", "dtype", "base", "adapter", "allowed", "effect", "same adapter twice", "items/s", "state"):
            table.add_column(name, overflow="fold")
        for way in self.ways:
            if way.failure is not None:
                table.add_row(way.name, way.dtype, *[""] * 6, "[red]did not run[/]")
                continue
            table.add_row(
                way.name,
                way.dtype,
                f"{way.base_difference:.1e}",
                f"{way.adapter_difference:.1e}",
                f"{TOLERANCES[way.dtype]:g}",
                f"{way.effect:.2f}",
                "bit-equal" if way.repeat_difference == 0 else f"{way.repeat_difference:.1e}",
                f"{way.items_per_s:.2f}",
                "[green]right[/]" if way.is_right else "[red]wrong[/]",
            )
        failed = [f"{way.name} {way.dtype} did not run: {way.failure}" for way in self.ways if way.failure]
        return Group(table, *map(Text, failed))


def run_selftest(n_items: int) -> SelftestReport:
    """Score the bundled items of one cell in every way; a pass is noted for this vLLM version and device.

    Raises:
        UserError: If the bundled model cannot be built, or no engine is installed.
    """
    model = resolve_model(BUNDLED_MODEL)
    report = compare_ways(model, bundled_items(model, n_items))
    if report.is_passed:
        noted = {"n_items": report.n_items, "time": time.time()}
        write_json(selftest_record(report.version, report.device), noted)
    return report


def compare_ways(model: Path, items: Sequence[TokenisedItem]) -> SelftestReport:
    """Score items in every way, under the base and a random adapter.

    Raises:
        UserError: If no engine is installed.
    """
    device, version = engine_device_type(), vllm_version()
    longest = max(len(item.context) + max(map(len, item.continuations)) for item in items)
    with tempfile.TemporaryDirectory() as folder:
        make_random_adapter(model, Path(folder), rank=_RANK, seed=0)
        case = _Case(model, items, check_adapter(Path(folder), read_linear_shapes(model), name="selftest"), longest)
        reference = ReferenceScorer(model)
        expected = [scores_of(reference, items, source) for source in (None, case.adapter)]
        reference.close()
        used = cast("Dtype", resolve_dtype("auto", device))
        planned = [case.run("planned", dtype, expected) for dtype in dict.fromkeys(("float32", used))]
        ways = (*planned, case.run("public", used, expected))
    return SelftestReport(version=version, device=device, n_items=len(items), ways=ways)


def bundled_items(model: Path, n_items: int) -> list[TokenisedItem]:
    """Return the first bundled items of the selftest's cell, as tokens."""
    data = Path(str(files("transfergrid.benchmarks_data")))
    items = load_items(data, get_task(TASK), LANGUAGE, "test", "eval")[:n_items]
    results = tokenise_items(load_tokenizer(model), items, TokenisationSettings(max_length=2048)).results
    return [result for result in results if isinstance(result, TokenisedItem)]


def scores_of(scorer: Scorer, items: Sequence[TokenisedItem], adapter: Adapter | None) -> Scores:
    """Return the log-likelihoods of all choices, in the items' order."""
    results = sorted(scorer.score(scorer.prepare(items), adapter), key=lambda result: result.index)
    return [value for result in results for value in result.loglikelihoods_nats]


def largest_difference(left: Scores, right: Scores) -> float:
    """Return the largest difference of two choices; infinite where one is not a number."""
    return max(abs(a - b) if math.isfinite(a - b) else math.inf for a, b in zip(left, right, strict=True))


@dataclass(frozen=True, slots=True)
class _Case:
    """What every way scores."""

    model: Path
    items: Sequence[TokenisedItem]
    adapter: Adapter
    longest: int

    def run(self, name: str, dtype: Dtype, expected: Sequence[Scores]) -> WayResult:
        """Start one way's engine, score, and end it; a way that does not run is a result, too."""
        config = EngineConfig(dtype=dtype)
        sizes: dict[str, Any] = {"max_rank": _RANK, "longest_tokens": self.longest}
        try:
            if name == "public":
                scorer: Scorer = start_public(self.model, config, **sizes)
            else:
                scorer = start_vllm(self.model, config, **sizes, is_selftest=True)
            try:
                return self._measure(scorer, WayResult(name=name, dtype=dtype), expected)
            finally:
                scorer.close()
        except Exception as error:  # whatever an untested version raises
            return WayResult(name=name, dtype=dtype, failure=f"{type(error).__name__}: {one_line(error)}")

    def _measure(self, scorer: Scorer, empty: WayResult, expected: Sequence[Scores]) -> WayResult:
        """Score base and adapter, the adapter twice."""
        base, first = (scores_of(scorer, self.items, source) for source in (None, self.adapter))
        start = time.perf_counter()
        again = scores_of(scorer, self.items, self.adapter)
        return replace(
            empty,
            items_per_s=len(self.items) / (time.perf_counter() - start),
            base_difference=largest_difference(base, expected[0]),
            adapter_difference=largest_difference(first, expected[1]),
            effect=largest_difference(base, first),
            repeat_difference=largest_difference(first, again),
        )
