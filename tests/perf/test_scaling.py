"""The paper study adds up: work is conserved, models are loaded as the scheduler says."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from transfergrid.perf.scaling import STUDY, Decoder, Inputs, Run, load_s, main, scoring_s, simulate, simulate_both

TINY = Decoder(1, 2, 1, 1, 1, 2, 10)


def test_a_decoder_counts_its_weights() -> None:
    # q and o 2 x 2, k and v 2 x 2, gate, up and down 2 x 1
    assert (TINY.linear_parameters, TINY.head_parameters) == (4 * 4 + 3 * 2, 20)
    assert STUDY["Llama-3.1-8B"].linear_parameters == 6_979_321_856


def test_one_worker_does_all_the_work_and_loads_every_model_once() -> None:
    inputs = Inputs(start_s=5.0)
    run = simulate({"a": TINY, "b": TINY}, 1, with_base=True, job_s=lambda job: 2.0, load=inputs)
    assert run.n_loads == 2
    assert run.work_s == 2 * (3 * 44 + 1) * 2.0
    assert run.load_s == pytest.approx(2 * load_s(TINY, inputs))
    assert run.makespan_s == pytest.approx(run.work_s + run.load_s)
    assert run.idle_share == pytest.approx(0.0)


def test_more_workers_do_the_same_work_sooner() -> None:
    runs = [simulate_both(STUDY, n, Inputs(), gpus_per_worker=1)[1] for n in (1, 8, 64)]
    assert [run.work_s for run in runs] == pytest.approx([runs[0].work_s] * 3)
    assert runs[0].makespan_s > 7 * runs[1].makespan_s > 7 * runs[2].makespan_s
    assert runs[0].n_loads == len(STUDY)
    assert all(0 <= run.idle_share < 0.3 for run in runs)


def test_gpus_that_share_a_model_are_one_faster_worker() -> None:
    inputs = Inputs()
    four = simulate_both({"a": STUDY["Llama-3.1-8B"]}, 4, inputs, gpus_per_worker=4)[1]
    one = simulate_both({"a": STUDY["Llama-3.1-8B"]}, 1, inputs, gpus_per_worker=1)[1]
    assert four.n_workers == 1
    assert one.work_s / four.work_s == pytest.approx(4 * inputs.tensor_parallel_efficiency)


def test_time_of_a_source_by_hand() -> None:
    inputs = Inputs(
        unique_tokens_per_item=10.0,
        scored_rows_per_item=1.0,
        adapter_efficiency=0.5,
        base_efficiency=1.0,
        peak_tflops=1e-6,
        matrix_share=0.5,
    )
    # 17,600 items x (2 x 10 x 22 + 2 x 1 x 20) FLOP at half of 1 MFLOP/s
    assert scoring_s(TINY, inputs, is_base=True) == pytest.approx(17_600 * 480 / 5e5)
    assert scoring_s(TINY, inputs, is_base=False) == pytest.approx(2 * 17_600 * 480 / 5e5)


def test_the_command_prints_both_tables() -> None:
    result = CliRunner().invoke(main)
    assert result.exit_code == 0
    assert "1,188 adapters of 9 model(s)" in result.output
    assert "132 adapters of 1 model(s), 4 GPUs per model" in result.output


def test_idle_share_of_a_run() -> None:
    assert Run(10.0, 1, 12.0, 3.0, 2).idle_share == pytest.approx(0.25)
