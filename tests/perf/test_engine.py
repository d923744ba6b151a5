"""The figures of the engine's benchmark, from made-up seconds."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from transfergrid.perf.engine import GOALS, measured_ratios, show


def sides() -> dict[str, dict[str, Any]]:
    peak = {"peak_bytes": 2**30}
    return {
        "ours": {
            **peak,
            "base_s": [10.0, 30.0, 11.0],
            "adapter_s": [12.0, 33.0, 11.0],
            "start_s": 5.0,
            "prepare_s": 0.12,
            "few_adapters_s": 2.0,
            "many_adapters_s": 1.8,
            "gemm_flop_per_s": [1e9, 2e9, 4e9],
            "flop": 2e10,
            "n_items": 36,
            "n_rows": 7,
            "n_computed_tokens": 100,
            "n_unique_tokens": 100,
            "n_repeated_tokens": 500,
            "python_share": {"base": 0.01, "adapter": 0.02},
            "memory_bytes": {"44 adapters": 2**30},
            "loglikelihoods": [-1.0, -2.0],
        },
        "lm-eval": {**peak, "seconds": [60.0], "n_items": 36, "loglikelihoods": [-1.0, -2.5]},
        "stock-base": {**peak, "seconds": [110.0], "n_items": 36},
        "ours-part": {**peak, "seconds": [2.0, 4.0, 3.0], "n_items": 9},
        "stock-adapter": {**peak, "seconds": [90.0], "n_items": 9},
    }


def test_ratios_are_of_medians_and_the_limit_is_operations_over_the_measured_rate() -> None:
    assert measured_ratios(sides()) == pytest.approx(
        {
            "base pass / limit": 1.1,
            "adapter pass / limit": 1.2,
            "adapter pass / base pass": 1.1,
            "seconds per adapter, many / 4": 0.9,
            "share outside tensor operations": 0.02,
            "planning / pass": 0.01,
            "tokens computed / unique": 1.0,
            "items/s against lm-evaluation-harness, merged adapter": 5.0,
            "items/s against stock vLLM, base": 10.0,
            "items/s against stock vLLM, one adapter": 30.0,
        }
    )


def test_sides_that_did_not_run_are_left_out() -> None:
    ratios = measured_ratios({"ours": sides()["ours"]})
    assert ratios.keys() < GOALS.keys()
    assert not any("items/s" in name for name in ratios)


def test_the_report_shows_seconds_memory_and_difference() -> None:
    console = Console(record=True, width=120, no_color=True, file=None, quiet=False)
    with console.capture() as capture:
        show(console, sides(), "float32")
    text = capture.get()
    for part in ("float32; 36 items, 500 tokens", "stock vLLM, base", "44 adapters", "at least 30", "5.0e-01 nats"):
        assert part in text
