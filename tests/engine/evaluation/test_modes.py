"""A new mode: registered, named by a task's format, scored, stored and read back, with nothing else changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl
import pytest

from tests.engine.sweeps import SEED, FakeMaker, add_adapters, small_config, stored_rows
from transfergrid.analysis.analyze import analyze
from transfergrid.benchmarks.items import Item
from transfergrid.config.settings import GridConfig
from transfergrid.engine.evaluation.item_scores import CellOrigin, ItemScore, leave_unscored
from transfergrid.engine.evaluation.modes import MODES
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.interfaces import Adapter, Prepared, Scorer, TokenisedItem
from transfergrid.engine.work.cells import load_cell
from transfergrid.engine.work.request import EvalRequest
from transfergrid.grid import Cell, UserError
from transfergrid.store.folder import RunFolder

ROWS = '{"qid": "%s%d", "question": "%s %s %d?", "options": ["yes", "no", "perhaps"], "answer": %d}\n'
TASK = """
name: said
id: qid
gold: answer
text: [question]
choices: {column: options}
rows: {path: rows}
formats:
  train: {context: "{{ question }}"}
  eval: {context: "{{ question }}", mode: greedy}
"""


class Greedy:
    """The model names one option, and is right where that is the gold one; it says nothing about the first item."""

    def prepare(self, scorer: Scorer, items: Sequence[TokenisedItem]) -> Prepared:
        return scorer.prepare(items)

    def score(self, scorer: Scorer, prepared: Prepared, adapter: Adapter | None) -> Iterator[tuple[int, str]]:
        for result in scorer.score(prepared, adapter):
            sums = result.loglikelihoods_nats
            yield result.index, "" if result.index == 0 else f"option {sums.index(max(sums))}"

    def outcome(self, item: Item, said: str, origin: CellOrigin) -> ItemScore:
        if not said:
            return leave_unscored(item, "nothing was said")
        value = float(said == f"option {item.gold}")
        return ItemScore(item_id=item.item_id, gold=item.gold, value=value, output=said)


@pytest.fixture
def config(tiny_llama: Path, tmp_path: Path) -> GridConfig:
    for language in ("de", "en"):
        for split in ("train", "test"):
            path = tmp_path / "rows" / language / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(ROWS % (split, k, language, split, k, k % 3) for k in range(3)), encoding="utf-8")
    task = tmp_path / "said.yaml"
    task.write_text(TASK, encoding="utf-8")
    return small_config(tiny_llama, tasks=("said",), custom_tasks={"said": task})


def test_what_a_model_says_is_stored_and_its_value_reaches_the_tables(
    config: GridConfig, tiny_adapters: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODES, "greedy", Greedy())
    run = RunFolder(tmp_path / "run")
    add_adapters(config, run, tiny_adapters[0])
    maker = FakeMaker()
    evaluate(config, run, EvalRequest(), maker=maker)
    rows = stored_rows(run)
    said = rows.filter(pl.col("unscored_reason").is_null())
    assert (rows.height, said.height) == (18, 12)
    assert rows["unscored_reason"].drop_nulls().unique().to_list() == ["nothing was said"]
    assert said["output"].str.starts_with("option ").all()
    assert said["loglikelihoods_nats"].null_count() == said.height
    right = pl.col("output") == pl.concat_str(pl.lit("option "), pl.col("gold"))
    assert said.select(right.cast(pl.Float64)).to_series().to_list() == said["value"].to_list()
    means = {
        (s, t): v for s, t, v in said.group_by("source", "target_language").agg(pl.col("value").mean()).iter_rows()
    }
    table = analyze(run, config).tables.transfer_by_seed
    for row in table.iter_rows(named=True):
        source, target = row["source"], row["target_language"]
        assert row["delta_pp"] == pytest.approx(100 * (means[source, target] - means["base", target]))
        assert (row["seed"], row["n_items"], row["n_unscored"]) == (SEED, 2, 1)
    evaluate(config, run, EvalRequest(noise_floor=True), maker=maker)
    assert len(maker.opened) == 1  # all is in the store, and a noise floor is measured of choices only


def test_another_mode_makes_another_key(
    config: GridConfig, tiny_adapters: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODES, "greedy", Greedy())
    run, cell = RunFolder(tmp_path / "run"), Cell("said", "de")
    add_adapters(config, run, tiny_adapters[0])
    evaluate(config, run, EvalRequest(), maker=FakeMaker())
    greedy = load_cell(config, run.data, cell).items_hash
    (tmp_path / "said.yaml").write_text(TASK.replace("greedy", "choice"), encoding="utf-8")
    choice = small_config(Path(config.models[0].path), tasks=("said",), custom_tasks=config.custom_tasks)
    assert load_cell(choice, run.data, cell).items_hash != greedy


def test_an_unknown_mode_is_refused_before_a_model_is_loaded(config: GridConfig, tmp_path: Path) -> None:
    maker = FakeMaker()
    with pytest.raises(
        UserError, match=r"unknown mode 'greedy' of a task's format; expected one of \['choice', 'lm_eval'\]"
    ):
        evaluate(config, RunFolder(tmp_path / "run"), EvalRequest(), maker=maker)
    assert maker.opened == []
