"""A new metric: one entry of METRICS, then a task names it and every table follows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from tests.engine.sweeps import SEED, FakeMaker, add_adapters, small_config, stored_rows
from transfergrid.analysis.analyze import analyze
from transfergrid.analysis.tables.table import AnalysisTables
from transfergrid.benchmarks.metrics import METRICS, Metric, ScoringError, get_metric
from transfergrid.benchmarks.spec import read_task_spec
from transfergrid.config.settings import DataConfig
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.work.request import EvalRequest
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder

TASK = """
name: capitals
id: qid
gold: answer
text: [question]
choices: {column: options}
rows: {path: rows}
formats:
  train: {context: "{{ question }}"}
  eval: {context: "{{ question }}", primary_metric: METRIC}
"""
OPTIONS = {"de": ["Köln", "Rom", "Zürich"], "hi": ["दिल्ली", "Rom", "पटना"]}


def gold_share(compared: Sequence[float], gold: int) -> float:
    weights = [math.exp(value) for value in compared]
    return weights[gold] / sum(weights)


def is_wrong(compared: Sequence[float], gold: int) -> float:
    return float(compared[gold] < max(compared))


def byte_length(choice: str) -> int:
    return len(choice.encode())


GRADED = Metric(length=byte_length, value=gold_share, is_graded=True)
ERROR = Metric(length=byte_length, value=is_wrong, higher_is_better=False)


def run_with(metric: Metric, monkeypatch: pytest.MonkeyPatch, folder: Path, model: Path, adapter: Path) -> RunFolder:
    """Score a task of the user's own by a metric that only METRICS knows."""
    monkeypatch.setitem(METRICS, "mine", metric)
    for language, options in OPTIONS.items():
        for split, n in (("train", 4), ("test", 6)):
            path = folder / "rows" / language / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                {"qid": f"{split}{k}", "question": f"{language} {split} {k}?", "options": options, "answer": k % 3}
                for k in range(n)
            ]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = folder / "capitals.yaml"
    task.write_text(TASK.replace("METRIC", "mine"), encoding="utf-8")
    config = small_config(
        model, tasks=("capitals",), languages=tuple(OPTIONS), custom_tasks={"capitals": task}, data=DataConfig()
    )
    run = RunFolder(folder / "run")
    add_adapters(config, run, adapter)
    evaluate(config, run, EvalRequest(), maker=FakeMaker())
    return run


def expected_deltas(run: RunFolder, metric: Metric) -> dict[tuple[str, str], float]:
    """Return 100 x the mean difference by (source, target language), item by item from the log-likelihoods."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in stored_rows(run).iter_rows(named=True):
        options = OPTIONS[row["target_language"]]
        value = metric.of_item(row["loglikelihoods_nats"], options, row["gold"])
        assert row["value"] == pytest.approx(value, abs=1e-15)
        values.setdefault((row["source"], row["target_language"]), []).append(value)
    sign = 100 if metric.higher_is_better else -100
    return {
        key: sign * (sum(each) - sum(values["base", key[1]])) / len(each)
        for key, each in values.items()
        if key[0] != "base"
    }


def deltas(tables: AnalysisTables) -> dict[tuple[str, str], float]:
    rows = tables.transfer.select("source", "target_language", "delta_pp").iter_rows()
    return {(source, language): delta for source, language, delta in rows}


def test_a_graded_metric_by_bytes_goes_through_the_store_into_every_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_llama: Path, tiny_adapters: tuple[Path, ...]
) -> None:
    run = run_with(GRADED, monkeypatch, tmp_path, tiny_llama, tiny_adapters[0])
    tables = analyze(run).tables
    assert deltas(tables) == pytest.approx(expected_deltas(run, GRADED))
    assert any(abs(delta) > 0 for delta in deltas(tables).values())
    by_seed = tables.transfer_by_seed
    assert by_seed.select("n_both", "n_only_base", "n_none", "mcnemar_p", "n_ties").null_count().row(0) == (4,) * 5
    differences = (
        stored_rows(run).filter(pl.col("target_language") == "de").pivot("source", index="item_id", values="value")
    )
    source = differences["capitals-de"] - differences["base"]
    se = by_seed.filter(source="capitals-de", target_language="de")["se_pp"].item()
    assert se == pytest.approx(100 * float(source.std() or 0) / math.sqrt(6))  # type: ignore[arg-type]
    assert tables.transfer["p_method"].unique().to_list() == ["t test over items"]


def test_a_metric_whose_lower_values_are_better_turns_the_deltas(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_llama: Path, tiny_adapters: tuple[Path, ...]
) -> None:
    run = run_with(ERROR, monkeypatch, tmp_path, tiny_llama, tiny_adapters[0])
    tables = analyze(run).tables
    assert deltas(tables) == pytest.approx(expected_deltas(run, ERROR))
    row = tables.transfer_by_seed.sort(pl.col("delta_pp").abs()).row(-1, named=True)
    assert row["delta_pp"] == pytest.approx(100 * (row["base_score"] - row["adapter_score"]))
    assert abs(row["delta_pp"]) > 0
    assert row["seed"] == SEED


def test_acc_and_acc_norm_are_right_or_wrong() -> None:
    # by hand: -6 / 2 = -3.0 loses to -8 / 4 = -2.0
    sums, choices = [-6.0, -8.0], ["ab", "abcd"]
    assert [METRICS[name].of_item(sums, choices, 0) for name in ("acc", "acc_norm")] == [1.0, 0.0]
    assert [METRICS[name].pick(sums, choices) for name in ("acc", "acc_norm")] == [0, 1]


def test_a_value_that_is_no_share_is_refused() -> None:
    with pytest.raises(ScoringError, match=r"the metric's value is 1.5; expected a number from 0 to 1"):
        Metric(value=lambda compared, gold: 1.5).of_item([-1.0, -2.0], ["a", "b"], 0)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown metric 'f1'; expected one of \['acc', 'acc_norm', 'lm_eval', 'lm_e"):
        get_metric("f1")
    with pytest.raises(
        ScoringError, match="the metrics 'lm_eval' and 'lm_eval_acc' are of tasks of lm-evaluation-harness alone"
    ):
        get_metric("lm_eval").of_item([-1.0, -2.0], ["a", "b"], 0)


def test_a_task_with_an_unknown_metric_or_the_mode_of_the_harness_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(TASK.replace("primary_metric: METRIC", "mode: lm_eval"), encoding="utf-8")
    with pytest.raises(UserError, match="mode 'lm_eval' is for tasks of lm-evaluation-harness alone; leave it out"):
        read_task_spec(path)
    path.write_text(TASK.replace("METRIC", "f1"), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"primary_metric: .*unknown metric 'f1'; expected one of \['acc', 'acc_norm'\]"
    ):
        read_task_spec(path)
