"""Values that the harness counts: several right choices, a function of the task; what goes wrong is said."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from tests.benchmarks.harness_folder import documents, write_languages, write_task
from tests.engine.fake_scorer import FakeScorer
from tests.engine.sweeps import FakeMaker, add_adapters, small_config
from transfergrid.analysis.analyze import analyze
from transfergrid.benchmarks.harness.index import TaskIndex
from transfergrid.benchmarks.items import Item
from transfergrid.benchmarks.materialise import materialise
from transfergrid.benchmarks.metrics import ScoringError
from transfergrid.config.harness import HarnessTask
from transfergrid.config.settings import GridConfig
from transfergrid.engine.evaluation.harness_count import count_answer
from transfergrid.engine.evaluation.harness_values import harness_table, harness_values
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.interfaces import Adapter, ItemLoglikelihoods, Prepared
from transfergrid.engine.scorers.prepared import refuse_greedy
from transfergrid.engine.work.cells import load_cell
from transfergrid.engine.work.request import EvalRequest
from transfergrid.grid import Cell, UserError
from transfergrid.store.files import hash_files
from transfergrid.store.folder import RunFolder
from transfergrid.store.scores import scan_scores

_MASS = """
import numpy as np

def mass(doc, results):
    shares = np.exp([value for value, _ in results])
    return {"mass": shares[doc["true"]].sum() / shares.sum(), "other": (1, 2)}
"""
ROW = {
    **dict.fromkeys(("model", "target_task", "target_language", "source"), "x"),
    "seed": None,
    "primary_metric": "lm_eval_acc",
}
_FUNCTION = "process_results: !function utils.mass\n"


def write_counted(folder: Path, language: str, *, by_function: bool) -> None:
    rows = [{**row, "true": [row["gold"], (row["gold"] + 1) % 3]} for row in documents("test", language, 6)]
    if by_function:
        (folder / "utils.py").write_text(_MASS)
        metrics = [{"metric": "mass", "aggregation": "mean", "higher_is_better": True}]
        write_task(folder, f"mine_{language}", rows, documents("train", language, 4), metric_list=metrics)
        with (folder / f"mine_{language}.yaml").open("a") as file:
            file.write(_FUNCTION)
    else:
        train = [{**row, "true": [row["gold"]]} for row in documents("train", language, 4)]
        write_task(folder, f"mine_{language}", rows, train, doc_to_target="true")


def cell_items(folder: Path, data: Path, *, by_function: bool) -> tuple[Item, ...]:
    folder.mkdir()
    write_counted(folder, "sw", by_function=by_function)
    config = GridConfig(
        harness_tasks={"mine": HarnessTask(lm_eval="mine", languages={"sw": "sw"}, include_path=folder)},
        tasks=("mine",),
    )
    manifest = materialise(config, data)
    assert manifest.metrics == {"mine": "lm_eval"}
    cell = load_cell(config, data, Cell("mine", "sw"))
    assert (cell.mode, cell.primary_metric) == ("lm_eval", "lm_eval")
    return cell.items


@pytest.mark.parametrize(("by_function", "metric"), [(True, "mass"), (False, "acc_norm")])
def test_values_are_those_of_the_harness(tmp_path: Path, by_function: bool, metric: str) -> None:
    items = cell_items(tmp_path / "tasks", tmp_path / "data", by_function=by_function)
    (task,) = TaskIndex.read(tmp_path / "tasks", stock=False).load("mine_sw").tasks.values()
    draw = random.Random(3)
    for item, document in zip(items, task.test_docs(), strict=True):
        sums = [-9 * draw.random() for _ in item.choices]
        expected = task.process_results(document, [(value, False) for value in sums])[metric]
        assert count_answer(item, sums).value == pytest.approx(float(expected))


KINDS: dict[str, dict[str, Any]] = {
    "acc_mutual_info": {"metric_list": [{"metric": name} for name in ("acc_mutual_info", "acc_bytes", "f1")]},
    "acc_bytes": {"metric_list": [{"metric": name} for name in ("acc_mutual_info", "acc_bytes", "acc")]},
    "acc": {
        "output_type": "loglikelihood",
        "doc_to_target": " {{choices[gold]}}",
        "doc_to_choice": None,
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "perplexity": {
        "output_type": "loglikelihood",
        "doc_to_target": " {{choices[gold]}}",
        "doc_to_choice": None,
        "metric_list": [{"metric": "perplexity"}],
    },
    "byte_perplexity": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}} é",
        "doc_to_choice": None,
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
}
"""Tasks that need the harness' own code, by the metric that is their score."""


@pytest.mark.parametrize("metric", KINDS)
def test_values_and_perplexities_are_those_of_the_harness(tmp_path: Path, metric: str) -> None:
    folder = write_languages(tmp_path / "tasks", "mine", ["sw"], **KINDS[metric])
    wanted = metric if metric == "acc_bytes" else None
    task = HarnessTask(lm_eval="mine", languages={"sw": "sw"}, include_path=folder, metric=wanted)
    config = GridConfig(harness_tasks={"mine": task}, tasks=("mine",))
    is_acc = metric.startswith("acc")
    assert materialise(config, tmp_path / "data").metrics == {"mine": "lm_eval_acc" if is_acc else "lm_eval"}
    items = load_cell(config, tmp_path / "data", Cell("mine", "sw")).items
    (peer,) = TaskIndex.read(folder, stock=False).load("mine_sw").tasks.values()
    draw, logged, rows = random.Random(3), [], []
    for item, document in zip(items, peer.test_docs(), strict=True):
        n_asked = len(peer.construct_requests(document, "")) if "choice" in peer.OUTPUT_TYPE else 1
        sums = [-9 * draw.random() for _ in range(n_asked)]
        greedy = [value > -5 for value in sums]
        rolling = peer.OUTPUT_TYPE == "loglikelihood_rolling"
        logged.append(peer.process_results(document, sums if rolling else list(zip(sums, greedy, strict=True))))
        asked = sums if metric != "acc_bytes" else sums[: len(item.choices)]
        counted = count_answer(item, asked, greedy if peer.OUTPUT_TYPE == "loglikelihood" else None)
        output = json.dumps({"loglikelihoods_nats": asked, "results": counted.results})
        rows.append({**ROW, "item_id": item.item_id, "value": counted.value, "output": output})
        if is_acc:
            assert counted.value == logged[-1][metric]
    values = harness_values(pl.LazyFrame(rows, schema_overrides={"seed": pl.Int64}))
    found = {row["metric"]: row["score"] for row in values.iter_rows(named=True)}
    expected = {name: peer.aggregation()[name]([each[name] for each in logged]) for name in found}
    assert found == pytest.approx(expected, rel=1e-9)
    assert set(found) == set(logged[0]) - {"f1"} - ({"acc_mutual_info"} if wanted else set())
    if not is_acc:
        slow = [
            math.exp(each[metric] if metric == "perplexity" else each[metric][0] / each[metric][1]) for each in logged
        ]
        assert [row["value"] for row in rows] == pytest.approx(slow)


def test_the_harness_own_numbers_are_shown_by_source_and_the_rest_is_counted() -> None:
    output = json.dumps({"loglikelihoods_nats": [-2.0], "results": {"bits_per_byte": ["bits_per_byte", [-2.0, 4]]}})
    sources: list[dict[str, Any]] = [{"source": "base", "seed": None}, *({"source": "a", "seed": n} for n in range(45))]
    rows = pl.LazyFrame([{**ROW, **each, "output": output} for each in sources], schema_overrides={"seed": pl.Int64})
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(harness_table(harness_values(rows)))
    lines = [line.replace("│", "").split() for line in console.export_text().splitlines()]
    assert ["x", "base", "x-x", "bits_per_byte", "1", "0.7213"] in lines
    assert ["x", "a", "(seed", "0)", "x-x", "bits_per_byte", "1", "0.7213"] in lines
    assert ["and", "6", "more;", "all", "with", "--json"] in lines


def test_counted_cells_are_scored_stored_and_analysed(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    for language in ("sw", "yo"):
        write_counted(folder, language, by_function=True)
    task = HarnessTask(lm_eval="mine", languages={"sw": "sw", "yo": "yo"}, include_path=folder)
    config = small_config(tiny_llama, harness_tasks={"mine": task}, tasks=("mine",))
    run = RunFolder(tmp_path / "run")
    add_adapters(config, run, tiny_adapters[0])
    evaluate(config, run, EvalRequest(), maker=FakeMaker())
    rows = scan_scores(run.scores.glob("*.parquet")).collect()
    assert rows["primary_metric"].unique().to_list() == ["lm_eval"]
    items = {item.item_id: item for item in load_cell(config, run.data, Cell("mine", "sw")).items}
    for row in rows.filter(target_language="sw").iter_rows(named=True):
        assert row["value"] == pytest.approx(count_answer(items[row["item_id"]], json.loads(row["output"])).value)
    table = analyze(run, config, write=False).tables.transfer.filter(pl.col("source") == "mine-sw")
    base, adapter = (
        rows.filter(pl.col("source") == source, target_language="yo")["value"].mean() for source in ("base", "mine-sw")
    )
    assert table.filter(target_language="yo")["delta_pp"].item() == pytest.approx(100 * (adapter - base))  # type: ignore[operator]


class SilentScorer(FakeScorer):
    """Cannot say what greedy decoding gives."""

    def score(
        self, prepared: Prepared, adapter: Adapter | None = None, *, greedy: bool = False
    ) -> Iterator[ItemLoglikelihoods]:
        refuse_greedy(greedy, "server")
        return super().score(prepared, adapter)


class SilentMaker(FakeMaker):
    def open(self, model_folder: Path, *, longest_tokens: int, max_rank: int) -> FakeScorer:
        return SilentScorer(self.function)


def test_an_engine_that_does_not_say_what_is_greedy_scores_all_other_targets(tiny_llama: Path, tmp_path: Path) -> None:
    folder = write_languages(tmp_path / "tasks", "text", ["sw"], **KINDS["acc"])
    write_languages(folder, "whole", ["sw"], **KINDS["byte_perplexity"])
    tasks = {
        name: HarnessTask(lm_eval=name, languages={"sw": "sw"}, include_path=folder, train=False)
        for name in ("text", "whole")
    }
    config, run = small_config(tiny_llama, harness_tasks=tasks, tasks=tuple(tasks)), RunFolder(tmp_path / "run")
    report = evaluate(config, run, EvalRequest(), maker=SilentMaker())
    (failure,) = report.failures
    assert failure.target == "text-sw"
    assert "the engine 'server' does not say whether greedy decoding would give a text" in failure.reason
    assert report.n_finished == 1
    assert set(report.harness["metric"]) == {"word_perplexity", "byte_perplexity", "bits_per_byte"}
    report = evaluate(config, run, EvalRequest(), maker=FakeMaker())
    assert report.is_complete
    assert set(report.harness.filter(target_task="text")["metric"]) == {"perplexity", "acc"}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def mass(doc, results):\n    return {'mass': 1.5}\n", "gives mass 1.5; expected a number from 0 to 1"),
        ("def mass(doc, results):\n    return {}\n", "fails: KeyError: 'mass'; leave its task out"),
        ("def mass(doc, results):\n    return {'mass': float(bool(results[0][1]))}\n", "whether greedy decoding would"),
        ("import nowhere\n", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_function_that_fails_is_named(tmp_path: Path, code: str, reason: str) -> None:
    path = tmp_path / "utils.py"
    path.write_text(code)
    how: dict[str, Any] = {"metric": "mass", "function": "mass", "sha256": hash_files([path]), "document": {}}
    about: dict[str, Any] = {"item_id": "q", "context": "", "choices": ("a", "b"), "gold": 0, "code": str(path)}
    item = Item(**about, counted=json.dumps(how))
    with pytest.raises(ScoringError, match=reason):
        count_answer(item, [-1.0, -2.0])
    path.write_text(code + "\n")
    changed = Item(**about, counted=json.dumps({**how, "function": "x"}))
    with pytest.raises(ScoringError, match="is not there or has changed; run 'grid data' again"):
        count_answer(changed, [-1.0, -2.0])


def test_a_task_whose_function_is_not_in_a_file_is_refused(tmp_path: Path) -> None:
    folder = write_languages(tmp_path / "tasks", "mine", ["sw"], metric_list=[{"metric": "acc"}])
    (folder / "utils.py").write_text("import functools\n\ndef f(d, r):\n    return {}\n\ng = functools.partial(f)\n")
    with (folder / "mine_sw.yaml").open("a") as file:
        file.write("process_results: !function utils.g\n")
    config = GridConfig(
        harness_tasks={"mine": HarnessTask(lm_eval="mine", languages={"sw": "sw"}, include_path=folder)},
        tasks=("mine",),
    )
    with pytest.raises(UserError, match="process_results of task 'mine_sw' is no function in a file"):
        materialise(config, tmp_path / "data")
