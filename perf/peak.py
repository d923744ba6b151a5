"""Share of a GPU's peak that planned passes reach, on paper: ``python -m transfergrid.perf.peak``.

The host's time is what ``perf.host`` measured on a CPU machine. The device's time is computed from FLOP, bytes and the
data sheet. Attention is left out, which is 10 to 15 % of a pass on the CPU. No GPU was timed for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import click
from rich.console import Console
from rich.table import Table

from transfergrid.perf.scaling import STUDY, TFLOP, Decoder, Inputs

SHAPES = {"0.5B": STUDY["Qwen2.5-0.5B"], "1B": STUDY["Llama-3.2-1B"], "8B": STUDY["Llama-3.1-8B"]}
ROWS_PER_TOKEN = Inputs().scored_rows_per_item / Inputs().unique_tokens_per_item


class Gpu(NamedTuple):
    """NVIDIA's data sheet: bfloat16 without sparsity, memory."""

    peak_tflops: float
    memory_tb_per_s: float


GPUS: Mapping[str, Gpu] = {"H100 SXM": Gpu(989.4, 3.35), "H200 SXM": Gpu(989.4, 4.8)}


@dataclass(frozen=True, slots=True)
class Host:
    """Host time of a step, as ``perf.host`` measures it."""

    step_ms: float
    layer_ms: float
    """To call one layer; grows with the model, not with the step."""
    overlaps: bool
    """Whether the next step is prepared while the device computes."""


STEP_TOKENS = 16_384
BEFORE = {"base": Host(step_ms=42.8, layer_ms=0.6, overlaps=False), "adapter": Host(46.5, 0.8, False)}
NOW = {"base": Host(step_ms=1.53, layer_ms=0.6, overlaps=True), "adapter": Host(1.54, 0.8, True)}
"""``perf.host`` on two cores of an Intel Xeon: one step at a time, and with the next step prepared meanwhile. What
calling a layer costs includes its own small products, which a GPU would not put on the host."""


def step_flop(model: Decoder) -> float:
    """Return what a full step computes at least: the limit's FLOP."""
    n_rows = STEP_TOKENS * ROWS_PER_TOKEN
    return 2 * STEP_TOKENS * model.linear_parameters + 2 * n_rows * model.head_parameters


def device_s(model: Decoder, gpu: Gpu, *, matrix_share: float, with_adapter: bool) -> float:
    """Return the seconds of a full step on the device.

    Matrix products at a share of the peak; beside them what reads and writes memory: float32 logits once each way, and
    LoRA, whose products are too thin to be bound by arithmetic: every input read, every output read and written.
    """
    n_rows = STEP_TOKENS * ROWS_PER_TOKEN
    moved = n_rows * model.vocabulary * 4 * 2
    if with_adapter:
        moved += STEP_TOKENS * model.n_layers * 2 * (model.lora_inputs + 2 * model.lora_outputs)
    return step_flop(model) / (gpu.peak_tflops * TFLOP * matrix_share) + moved / (gpu.memory_tb_per_s * 1e12)


def share_of_peak(model: Decoder, gpu: Gpu, host: Host, *, matrix_share: float, with_adapter: bool) -> float:
    """Return the share of a GPU's peak that passes of full steps reach."""
    device = device_s(model, gpu, matrix_share=matrix_share, with_adapter=with_adapter)
    on_host = (host.step_ms + host.layer_ms * model.n_layers) / 1000
    step = max(device, on_host) if host.overlaps else device + host.step_ms / 1000
    return step_flop(model) / (gpu.peak_tflops * TFLOP * step)


def tabulate_peak() -> Table:
    """Return the share of the peak under `BEFORE` and `NOW`, per GPU, shape and pass."""
    table = Table(title=f"Share of the peak, steps of {STEP_TOKENS:,} tokens, matrix products at 0.6 to 0.8 of it")
    for column in ("GPU", "model", "pass", "device ms", "host ms", "before", "now"):
        table.add_column(column, justify="left" if column in ("GPU", "model", "pass") else "right")
    for (gpu_name, gpu), (name, model), way in itertools.product(GPUS.items(), SHAPES.items(), ("base", "adapter")):
        shares = (0.6, 0.8)
        device = [device_s(model, gpu, matrix_share=each, with_adapter=way == "adapter") for each in shares]
        found = [
            [share_of_peak(model, gpu, host, matrix_share=each, with_adapter=way == "adapter") for each in shares]
            for host in (BEFORE[way], NOW[way])
        ]
        table.add_row(
            gpu_name,
            name,
            way,
            f"{1000 * device[1]:.0f} to {1000 * device[0]:.0f}",
            f"{NOW[way].step_ms + NOW[way].layer_ms * model.n_layers:.1f}",
            *(f"{low:.0%} to {high:.0%}" for low, high in found),
        )
    return table


@click.command(help=__doc__)
def main() -> None:
    """Print the table."""
    Console(width=100).print(tabulate_peak())


if __name__ == "__main__":
    main()
