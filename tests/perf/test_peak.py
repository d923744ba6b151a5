"""The share of a GPU's peak, by hand."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from transfergrid.perf.peak import ROWS_PER_TOKEN, STEP_TOKENS, Gpu, Host, device_s, main, share_of_peak, step_flop
from transfergrid.perf.scaling import Decoder

TINY = Decoder(2, 4, 3, 2, 1, 2, 10)
GPU = Gpu(peak_tflops=1e-6, memory_tb_per_s=1e-6)  # 1 MFLOP/s, 1 MB/s


def test_a_step_by_hand() -> None:
    rows = STEP_TOKENS * ROWS_PER_TOKEN
    flop = 2 * STEP_TOKENS * TINY.linear_parameters + 2 * rows * 40
    assert step_flop(TINY) == pytest.approx(flop)
    base = device_s(TINY, GPU, matrix_share=0.5, with_adapter=False)
    assert base == pytest.approx(flop / 5e5 + rows * 10 * 8 / 1e6)
    # one layer's LoRA reads 5 x 4 + 4 + 3 values and reads and writes 8 + 8 + 6, two bytes each
    adapter = device_s(TINY, GPU, matrix_share=0.5, with_adapter=True)
    assert adapter - base == pytest.approx(STEP_TOKENS * 2 * 2 * (27 + 2 * 22) / 1e6)


def test_the_longer_of_device_and_host_counts_where_they_overlap_and_their_sum_where_not() -> None:
    device = device_s(TINY, GPU, matrix_share=1.0, with_adapter=False)

    def share(step_ms: float, overlaps: bool) -> float:
        host = Host(step_ms=step_ms, layer_ms=0.0, overlaps=overlaps)
        return share_of_peak(TINY, GPU, host, matrix_share=1.0, with_adapter=False)

    full = step_flop(TINY) / 1e6
    assert share(1.0, True) == pytest.approx(full / device)
    assert share(2000 * device, True) == pytest.approx(full / (2 * device))
    assert share(2000 * device, False) == pytest.approx(full / (3 * device))


def test_the_command_prints_every_gpu_and_shape() -> None:
    output = CliRunner().invoke(main).output
    assert all(name in output for name in ("H100 SXM", "H200 SXM", "0.5B", "1B", "8B", "adapter"))
