"""The quickstart is the real pipeline: from a configuration file to the report, and once more without work."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from transfergrid.cli import main
from transfergrid.commands.quickstart import STEPS
from transfergrid.config.file import load_config
from transfergrid.config.text import PRESETS, ensure_preset

TINY = """
models: [{{path: {model}, name: tiny}}]
tasks: [arc_challenge, truthfulqa]
languages: [de, en]
seeds: [17]
data: {{max_train_items: 4, max_test_items: 2}}
training: {{dtype: float32, epochs: 1}}
lora: {{r: 4, alpha: 8}}
engine: {{dtype: float32, kv_cache_gib: 0.05}}
analysis: {{bootstrap_resamples: 100, permutations: 99}}
"""


def test_the_presets_are_two_by_three_cells_and_all_of_them() -> None:
    assert (len(PRESETS["quickstart"].grid.cells), len(PRESETS["quickstart-full"].grid.cells)) == (6, 44)
    kinds = [recipe.source.kind for recipe in PRESETS["mixtures"].recipes]
    assert (kinds.count("mixture"), kinds.count("merge"), kinds.count("variant")) == (3, 6, 7)
    for name in ("quickstart", "quickstart-full"):
        assert PRESETS[name].data.source == "bundled"
        assert len(PRESETS[name].seeds) == 1


def test_two_presets_at_once_are_refused() -> None:
    result = CliRunner().invoke(main, ["quickstart", "--full", "--preset", "mixtures"])
    assert result.exit_code == 1
    assert "--full and --preset mixtures are two different runs; give one of them" in result.output


def test_a_configuration_that_is_there_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "quickstart.yaml"
    ensure_preset(path, "quickstart")
    assert load_config(path) == PRESETS["quickstart"]
    path.write_text("tasks: [hellaswag]\n", encoding="utf-8")
    ensure_preset(path, "quickstart")
    assert load_config(path).tasks == ("hellaswag",)


@pytest.mark.engine
def test_quickstart_goes_from_nothing_to_the_report_and_then_has_nothing_to_do(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart.yaml").write_text(TINY.format(model=tiny_llama), encoding="utf-8")
    first = CliRunner().invoke(main, ["quickstart"])
    assert first.exit_code == 0, first.output
    for number, name in enumerate(
        ("data", "train-adapters", "eval --multi-lora --noise-floor", "analyze", "report"), start=1
    ):
        assert f"[{number}/{len(STEPS)}] grid {name} --config quickstart.yaml --run runs/quickstart" in first.output
    assert "20 of 20 cells are in the store; this run scored 20" in first.output
    assert pl.read_parquet("runs/quickstart/noise_floor/tiny.*.parquet")["n_items"].to_list() == [2, 2, 2, 2]
    assert Path("runs/quickstart/report.html").stat().st_size > 10_000
    second = CliRunner().invoke(main, ["quickstart"])
    assert second.exit_code == 0, second.output
    assert "20 of 20 cells are in the store; this run scored 0" in second.output
    assert "noise floor" not in second.output
