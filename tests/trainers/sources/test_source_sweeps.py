"""Mixtures and merges in a sweep: one folder and one record each, like a cell's adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.models import edit_json
from tests.trainers.small_grid import ENGLISH, SPANISH, adapter, everything, make_config, sweep, weights_hash
from transfergrid.config.selection import Narrowing, select
from transfergrid.config.settings import GridConfig
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.grid import UserError
from transfergrid.store.files import write_json
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.events import AdapterMerged
from transfergrid.trainers.plan import plan_training
from transfergrid.trainers.sweep import train_adapters

pytestmark = pytest.mark.engine
EN, ES = ENGLISH.name, SPANISH.name
SOURCES = {
    "alone": {"train_on": [EN]},
    "both": {"train_on": [EN, ES]},
    "everything": {"train_on": [ES, EN], "budget": "all"},
    "sum": {"merge_of": [EN, ES], "method": "cat", "weights": [1, -1]},
    "dropped": {"merge_of": ["both", ES], "method": "dare_ties"},
}
MERGES = ("sum", "dropped")


@pytest.fixture(scope="module")
def config(tiny_llama: Path) -> GridConfig:
    return make_config(tiny_llama, sources=SOURCES)


@pytest.fixture(scope="module")
def made(config: GridConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with all its sources; tests only read it."""
    run = RunFolder(tmp_path_factory.mktemp("made"))
    events: list[object] = []
    assert len(sweep(config, run, events.append).finished) == 7
    assert [each.job.split()[-1] for each in events if isinstance(each, AdapterMerged)] == list(MERGES)
    return run


@pytest.fixture
def copy(made: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(made.root, tmp_path / "copy"))


def folder(run: RunFolder, name: str) -> Path:
    return adapter(run).with_name(name)


def test_a_mixture_of_one_cell_is_that_cells_adapter_bit_for_bit(made: RunFolder) -> None:
    assert weights_hash(folder(made, "alone")) == weights_hash(adapter(made))
    assert len({weights_hash(folder(made, name)) for name in (EN, ES, *SOURCES)}) == 6


def test_a_record_says_what_a_source_is_of(made: RunFolder, tiny_llama: Path) -> None:
    def read(name: str) -> dict:
        return json.loads((folder(made, name) / "training.json").read_text(encoding="utf-8"))

    assert (read(EN)["cell"], "kind" in read(EN)) == (EN, False)
    assert [read(name)["data"]["n_train"] for name in ("alone", "both", "everything")] == [5, 5, 10]
    mixture, merge = read("both"), read("dropped")
    assert (mixture["source"], mixture["kind"], mixture["cells"]) == ("both", "mixture", [EN, ES])
    assert (merge["kind"], merge["cells"]) == ("merge", [EN, ES])
    assert merge["key"]["merge"] == {"method": "dare_ties", "weights": [0.5, 0.5], "density": 0.5}
    assert merge["key"]["of"] == {"both": read("both")["content_hash"], ES: read(ES)["content_hash"]}
    checked = check_adapter(folder(made, "sum"), read_linear_shapes(tiny_llama), name="sum")
    assert (checked.content_hash, checked.rank) == (read("sum")["content_hash"], 8)


def test_a_merge_adds_up_what_its_parts_change(made: RunFolder) -> None:
    def deltas(name: str, scale: float) -> list:
        weights = load_file(folder(made, name) / "adapter_model.safetensors")
        return [
            scale * weights[key.replace("lora_A", "lora_B")] @ weights[key]
            for key in sorted(weights)
            if "lora_A" in key
        ]

    for merged, first, second in zip(deltas("sum", 1.0), deltas(EN, 2.0), deltas(ES, 2.0), strict=True):
        assert (merged - (first - second)).abs().max() < 1e-5


def test_what_is_there_is_kept_and_what_is_gone_is_made_again(copy: RunFolder, config: GridConfig) -> None:
    before = {name: weights_hash(folder(copy, name)) for name in (*SOURCES, ES)}
    for name in ("both", *MERGES):
        shutil.rmtree(folder(copy, name))
    (copy.root / ".unfinished" / "tiny-s17-sum").mkdir(parents=True)
    states = {row[0].split()[-1]: row[5] for row in plan_training(config, copy, everything(config)).jobs}
    assert [states[name] for name in SOURCES] == ["finished", "to do", "finished", "to do", "to do"]
    summary = sweep(config, copy)
    assert (len(summary.kept), [name.split()[-1] for name in summary.finished]) == (4, ["both", *MERGES])
    assert {name: weights_hash(folder(copy, name)) for name in before} == before
    assert not (copy.root / ".unfinished").exists()
    assert len(sweep(config, copy).kept) == 7


def test_a_merge_of_other_parts_or_settings_is_in_the_way(
    copy: RunFolder, config: GridConfig, tiny_llama: Path
) -> None:
    other = make_config(
        tiny_llama, sources=SOURCES | {"sum": {"merge_of": [EN, ES], "method": "cat", "weights": [1, 1]}}
    )
    with pytest.raises(
        UserError, match=r"'tiny s17 sum' was trained with other settings \(merge.weights: \[1.0, -1.0\]"
    ):
        sweep(other, copy)
    replace_adapter(copy, ES, by=EN)
    with pytest.raises(UserError, match=rf"2 adapter\(s\) in the way:\n.*sum.* other settings \(of.{ES}: "):
        train_adapters(config, copy, select(config, Narrowing(sources=MERGES)))


def replace_adapter(run: RunFolder, name: str, *, by: str) -> None:
    shutil.rmtree(folder(run, name))
    shutil.copytree(folder(run, by), folder(run, name))


def test_a_merge_without_its_parts_is_refused_before_any_work(copy: RunFolder, config: GridConfig) -> None:
    shutil.rmtree(folder(copy, ES))
    shutil.rmtree(folder(copy, "sum"))
    only = select(config, Narrowing(sources=("sum",)))
    with pytest.raises(UserError, match=rf"its part '{ES}' is not there; train it first"):
        train_adapters(config, copy, only)
    write_json(folder(copy, f"{ES}.failed.json"), {"reason": "the loss is nan"})
    with pytest.raises(UserError, match=rf"its part '{ES}' is not there \(the loss is nan\); train it first"):
        train_adapters(config, copy, only)


def test_a_merge_of_adapters_of_two_bases_is_refused(copy: RunFolder, config: GridConfig) -> None:
    shutil.rmtree(folder(copy, "sum"))
    record = json.loads((adapter(copy) / "training.json").read_text(encoding="utf-8"))
    edit_json(adapter(copy) / "training.json", key=record["key"] | {"base_revision": "another"})
    with pytest.raises(UserError, match=rf"its part '{EN}' is an adapter of revision 'another' of its base.*two bases"):
        train_adapters(config, copy, select(config, Narrowing(sources=("sum",))))


def test_a_merge_whose_part_fails_in_the_same_sweep_fails_with_its_reason(copy: RunFolder, tiny_llama: Path) -> None:
    for name in ("both", *MERGES):
        shutil.rmtree(folder(copy, name))
    config = make_config(tiny_llama, sources=SOURCES, learning_rate=2e-3)
    shutil.copytree(folder(copy, EN), folder(copy, "sum"))  # no record of a merge: in the way
    with pytest.raises(UserError, match=r"'tiny s17 sum' was trained with other settings"):
        sweep(config, copy)
    shutil.rmtree(folder(copy, "sum"))
    wrong = make_config(tiny_llama, sources=SOURCES | {"both": {"train_on": [EN, ES]}})
    failing = sweep_with_failure(wrong, copy, "both")
    assert [name.split()[-1] for name, _ in failing.failed] == ["both", "dropped"]
    assert "its part 'both' is not there (memory ran out)" in failing.failed[1][1]
    assert [name.split()[-1] for name in failing.finished] == ["sum"]
    assert folder(copy, "dropped.failed.json").exists()


def sweep_with_failure(config: GridConfig, run: RunFolder, name: str) -> object:
    from transfergrid.trainers import train_one

    def refuse(job: object, *_: object, **__: object) -> None:
        raise UserError("memory ran out")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_one, "train_adapter", refuse)
        return sweep(config, run)


def test_more_cells_than_items_are_named_with_every_other_fault(tiny_llama: Path, tmp_path: Path) -> None:
    config = make_config(
        tiny_llama, data={"max_train_items": 2, "max_test_items": 2}, sources={"both": SOURCES["both"]}
    )
    with pytest.raises(
        UserError, match=r"1 fault\(s\), nothing was trained:\n  - tiny, both: its 2 cells cannot share 1"
    ):
        sweep(config, RunFolder(tmp_path))
