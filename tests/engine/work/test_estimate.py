"""The size of a request, before anything runs."""

from __future__ import annotations

import io
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from rich.console import Console

from tests.engine.sweeps import FakeMaker, add_adapters, copy_adapter, small_config
from tests.hub import use_local_hub
from transfergrid.config.selection import Narrowing
from transfergrid.config.settings import EngineConfig, GridConfig, ModelConfig
from transfergrid.config.sources import SourceConfig
from transfergrid.config.text import PAPER_MODELS
from transfergrid.config.training import LoraConfig, VariantConfig
from transfergrid.engine.adapters.folder import WEIGHTS_FILE
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.models.tokenizer import load_tokenizer
from transfergrid.engine.planning.planner import PlanLimits, plan_items
from transfergrid.engine.work.adapter_sizes import adapter_bytes
from transfergrid.engine.work.base_model import tokenisation_settings
from transfergrid.engine.work.cells import load_cell, tokenise_cells
from transfergrid.engine.work.estimate import estimate
from transfergrid.engine.work.plan import Estimate, ModelEstimate
from transfergrid.engine.work.request import EvalRequest
from transfergrid.store.folder import RunFolder
from transfergrid.wording import format_bytes


@pytest.fixture
def config(tiny_llama: Path) -> GridConfig:
    return small_config(tiny_llama)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def only(found: Estimate) -> ModelEstimate:
    assert found.unavailable == {}
    return found.models[0]


def test_a_fresh_run_counts_everything(config: GridConfig, run: RunFolder) -> None:
    found = only(estimate(config, run, EvalRequest()))
    assert (found.n_adapters, found.n_adapters_to_train) == (4, 4)
    assert (found.n_cells, found.n_finished, found.n_items) == (20, 0, 60)
    assert found.n_requests == 5 * sum(
        len(item.choices) for cell in config.grid.cells for item in load_cell(config, run.data, cell).items
    )
    assert found.expected_s is None
    assert not run.scores.exists()


def test_tokens_are_what_the_planner_computes(config: GridConfig, run: RunFolder) -> None:
    found = only(estimate(config, run, EvalRequest(narrowing=Narrowing(sources=("base",)))))
    folder = Path(config.models[0].path)
    targets = [load_cell(config, run.data, cell) for cell in config.grid.cells]
    tokenised = tokenise_cells(targets, load_tokenizer(folder), tokenisation_settings(config, folder))
    limits = PlanLimits(max_step_tokens=512, max_step_sequences=64, n_blocks=1024, block_size=16)
    plans = [plan_items(target.scorable, limits) for target in tokenised.values()]
    assert found.n_unique_tokens == sum(plan.n_computed_tokens for plan in plans)
    assert found.n_repeated_tokens == sum(plan.n_repeated_tokens for plan in plans)


def test_shots_make_other_cells_and_are_computed_once(config: GridConfig, run: RunFolder) -> None:
    shown = config.model_copy(update={"prompts": config.prompts.model_copy(update={"shots": 2})})
    only_base = EvalRequest(narrowing=Narrowing(sources=("base",)))
    before, after = (only(estimate(each, run, only_base)) for each in (config, shown))
    assert after.n_requests == before.n_requests
    hashes = {load_cell(each, run.data, config.grid.cells[0]).items_hash for each in (config, shown)}
    assert len(hashes) == 2
    added = after.n_unique_tokens - before.n_unique_tokens
    assert 0 < added < (after.n_repeated_tokens - before.n_repeated_tokens) / 4
    turned = shown.model_copy(update={"prompts": shown.prompts.model_copy(update={"shots_as_turns": True})})
    folder = Path(config.models[0].path)
    assert tokenisation_settings(turned, folder).shots_as_turns
    assert not tokenisation_settings(shown, folder).shots_as_turns


def test_what_is_done_is_left_out_and_gives_the_rate(
    config: GridConfig, run: RunFolder, tiny_adapters: tuple[Path, ...]
) -> None:
    add_adapters(config, run, tiny_adapters[0])
    narrowing = Narrowing(sources=("base", "arc_challenge-de"))
    evaluate(config, run, EvalRequest(narrowing=narrowing), maker=FakeMaker())
    found = only(estimate(config, run, EvalRequest()))
    assert (found.n_adapters_to_train, found.n_finished, found.n_items) == (0, 8, 36)
    assert found.expected_s is not None
    assert found.expected_s > 0
    assert found.n_score_bytes > 0


def test_the_size_of_an_adapter_is_that_of_its_file(tiny_llama: Path, tiny_adapters: tuple[Path, ...]) -> None:
    n_bytes = adapter_bytes(read_linear_shapes(tiny_llama), LoraConfig(r=8))
    size = (tiny_adapters[0] / WEIGHTS_FILE).stat().st_size
    assert n_bytes < size < 1.1 * n_bytes


def test_items_that_do_not_fit_are_counted(config: GridConfig, run: RunFolder) -> None:
    short = config.model_copy(update={"engine": EngineConfig(max_model_len=8)})
    found = only(estimate(short, run, EvalRequest()))
    assert (found.n_unscorable_items, found.n_unique_tokens) == (12, 0)
    cut = config.model_copy(update={"engine": EngineConfig(max_model_len=260, truncation="left")})
    assert only(estimate(cut, run, EvalRequest())).n_truncated_items > 0


def test_a_model_that_is_not_there_is_named(config: GridConfig, run: RunFolder, tmp_path: Path) -> None:
    models = (*config.models, ModelConfig(path=str(tmp_path / "nowhere"), name="gone"))
    found = estimate(config.model_copy(update={"models": models}), run, EvalRequest())
    assert [model.model for model in found.models] == ["tiny"]
    assert "does not exist" in found.unavailable["gone"]
    console = Console(width=120, no_color=True, force_terminal=False)
    with console.capture() as captured:
        console.print(found)
    assert "gone: model folder" in captured.get()
    assert "not measured yet" in captured.get()
    assert list(found.as_json()) == ["models", "unavailable"]


def test_other_kinds_of_sources_have_a_row_each(config: GridConfig, run: RunFolder) -> None:
    assert only(estimate(config, run, EvalRequest())).kinds == ()
    pair = SourceConfig(train_on=("arc_challenge-de", "arc_challenge-en"))
    added = {"sources": {"pair": pair}, "variants": {"r8": VariantConfig(lora=LoraConfig(r=8, alpha=16))}}
    report = estimate(config.model_copy(update=added), run, EvalRequest())
    found = only(report)
    assert [(each.what, each.n_adapters) for each in found.kinds] == [
        ("base", 0),
        ("cell", 4),
        ("mixture", 1),
        ("variant r8", 4),
    ]
    for name in ("n_adapters", "n_adapters_to_train", "n_adapter_bytes", "n_items", "n_unique_tokens"):
        assert sum(getattr(each, name) for each in found.kinds) == getattr(found, name)
    console = Console(width=80, color_system=None)
    with console.capture() as captured:
        console.print(report)
    assert "By kind of source, tiny" in captured.get()
    assert "variant r8" in captured.get()
    assert report.as_json()["models"][0]["kinds"][3]["what"] == "variant r8"


def rendered(n_models: int, width: int) -> str:
    figures = dict.fromkeys((field.name for field in fields(ModelEstimate)), 2_340_800)
    figures |= {
        "n_adapters": 132,
        "n_adapters_to_train": 132,
        "n_repeated_tokens": 1_234_567_890,
        "n_training_bytes": 0,
        "kinds": (),
    }
    names = [path.rpartition("/")[2] for path in PAPER_MODELS[:n_models]]
    models = [ModelEstimate(**{**figures, "model": name, "expected_s": None}) for name in names]
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(Estimate(tuple(models), {}))
    return captured.get()


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize(("n_models", "n_names"), [(1, 1), (2, 2), (9, 3 * 9)])
def test_names_and_figures_are_whole_in_a_narrow_terminal(n_models: int, n_names: int, width: int) -> None:
    text = rendered(n_models, width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    names = [path.rpartition("/")[2] for path in PAPER_MODELS[:n_models]]
    assert sum(text.count(name) for name in names) == n_names
    assert (text.count("2,340,800"), text.count("1,234,567,890")) == (7 * n_models, n_models)
    assert text.count("not measured yet") == n_models


def test_a_model_of_the_hub_is_planned_without_its_weights(
    config: GridConfig, run: RunFolder, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = use_local_hub(monkeypatch, tiny_llama, tmp_path / "hub")
    of_hub = config.model_copy(update={"models": (ModelConfig(path="org/tiny", revision="v1"),)})
    found = only(estimate(of_hub, run, EvalRequest()))
    assert found == only(estimate(config, run, EvalRequest()))
    assert (found.n_adapters_to_train, found.n_adapter_bytes > 0) == (4, True)
    assert list(hub.cache.rglob("*.safetensors")) == []
    assert hub.revisions == ["v1"]


def test_a_model_name_with_brackets_is_shown_as_it_is() -> None:
    counts = dict.fromkeys((field.name for field in fields(ModelEstimate) if field.name.startswith("n_")), 1)
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(Estimate((ModelEstimate(model="x[/bold]-1B", expected_s=None, **counts),), {}))
    assert "x[/bold]-1B" in console.export_text()


def test_no_engine_is_loaded(config: GridConfig, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # importing it would raise
    assert only(estimate(config, run, EvalRequest())).n_cells == 20


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1536, "1.5 KiB"), (5 * 2**30, "5.0 GiB"), (3 * 2**40, "3.0 TiB")],
)
def test_sizes_have_a_unit(n_bytes: float, text: str) -> None:
    assert format_bytes(n_bytes) == text


def test_what_is_named_twice_is_counted_once(config: GridConfig, run: RunFolder) -> None:
    once = Narrowing(seeds=(17,), sources=("arc_challenge-de",))
    twice = Narrowing(seeds=(17, 17), sources=("arc_challenge-de", "arc_challenge-de"), models=("tiny", "tiny"))
    found = only(estimate(config, run, EvalRequest(narrowing=twice)))
    assert found == only(estimate(config, run, EvalRequest(narrowing=once)))
    assert (found.n_adapters, found.n_cells) == (1, 4)


def test_foreign_adapters_need_no_training(
    config: GridConfig, run: RunFolder, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    from transfergrid.engine.adapters.places import AdapterFolder

    copy_adapter(tiny_adapters[0], tmp_path / "theirs" / "xnli-sw", note="theirs")
    found = only(estimate(config, run, EvalRequest(adapters=AdapterFolder(folder=tmp_path / "theirs"))))
    assert (found.n_adapters, found.n_adapters_to_train, found.n_cells) == (1, 0, 8)
    twice = EvalRequest(
        narrowing=Narrowing(models=("tiny", "tiny")), adapters=AdapterFolder(folder=tmp_path / "theirs")
    )
    assert only(estimate(config, run, twice)) == found
