"""Number formats and the sharing out of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from transfergrid.config.settings import EngineConfig
from transfergrid.engine.models import device as devices
from transfergrid.engine.models.device import GIB, available_memory_bytes, resolve_dtype, share_of_device
from transfergrid.engine.models.facts import ModelFacts
from transfergrid.engine.scorers.sizes import EngineSizes, choose_sizes
from transfergrid.grid import UserError

SMALL = ModelFacts(
    n_layers=30,
    hidden_size=576,
    vocab_size=49152,
    max_positions=8192,
    n_layer_parameters=106_000_000,
    n_kv_values_per_token=30 * 2 * 192,
)
SLOT_VALUES = 9_800_000


def sizes(memory_gib: float = 16, longest: int | None = 512, device: str = "cpu", **settings: Any) -> EngineSizes:
    config = EngineConfig(**{"dtype": "float32", **settings})
    return choose_sizes(
        SMALL,
        config,
        device=device,
        memory_bytes=int(memory_gib * GIB),
        slot_values=SLOT_VALUES,
        longest_tokens=longest,
    )


@pytest.mark.parametrize("features", [{"avx512_bf16": True}, {"amx_bf16": True}, {"bf16": True}])
def test_auto_is_bfloat16_on_a_cpu_that_multiplies_it(
    features: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert resolve_dtype("auto", "cpu") == "bfloat16"


def test_auto_is_float32_on_other_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})
    assert resolve_dtype("auto", "cpu") == "float32"


@pytest.mark.parametrize(("capability", "dtype"), [((8, 0), "bfloat16"), ((9, 0), "bfloat16"), ((7, 5), "float32")])
def test_auto_follows_the_cuda_device(capability: tuple[int, int], dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert resolve_dtype("auto", "cuda") == dtype


def test_a_named_dtype_stays() -> None:
    assert resolve_dtype("float16", "cpu") == "float16"


def test_device_is_what_torch_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert devices.device_type() == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.device_type() == "cpu"


def test_memory_stays_within_the_containers_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(devices, "_CGROUP_LIMIT", limit)
    free = available_memory_bytes("cpu")
    limit.write_text("max\n", encoding="ascii")
    assert available_memory_bytes("cpu") > 0.8 * free
    limit.write_text("1000000", encoding="ascii")
    assert available_memory_bytes("cpu") < 1_000_000


@pytest.mark.parametrize(
    ("free_gib", "utilization", "taken_gib"),
    [(80, 0.9, 72), (80, 1.0, 80), (80, 0.25, 20), (50, 0.9, 42), (8, 0.9, 0), (4, 0.9, 0)],
    ids=["alone", "all", "small share", "beside others", "full enough", "too full"],
)
def test_no_more_of_a_cuda_device_is_shared_out_than_may_be_in_use(
    free_gib: int, utilization: float, taken_gib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_gib * GIB, 80 * GIB))
    taken = available_memory_bytes("cuda", utilization)
    assert taken / GIB == pytest.approx(taken_gib)
    assert share_of_device(taken) <= max(0.001, free_gib / 80)
    assert share_of_device(taken) == pytest.approx(max(0.001, taken_gib / 80), abs=0.001)


def test_the_share_is_rounded_down_so_that_as_much_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (53_999, 80_000))
    assert share_of_device(available_memory_bytes("cuda")) == 0.674


def test_enough_memory_gives_full_steps_and_two_slots() -> None:
    chosen = sizes()
    assert (chosen.token_budget, chosen.max_sequences, chosen.max_loras, chosen.max_cpu_loras) == (2048, 256, 2, 4)
    assert (chosen.max_model_len, chosen.block_size) == (512, 32)
    assert chosen.kv_cache_bytes == 4 * SMALL.n_kv_values_per_token * (8 * 2048 + 4 * 512)


def test_more_items_or_adapters_take_no_more_memory_and_more_memory_is_left_alone() -> None:
    assert sizes(16) == sizes(640)


def test_little_memory_gives_smaller_steps_and_one_slot() -> None:
    chosen = sizes(1.2)
    assert chosen.max_loras == 1
    assert chosen.kv_cache_bytes < sizes().kv_cache_bytes
    assert 64 <= sizes(1.0).token_budget < 2048 or sizes(1.0).kv_cache_bytes < chosen.kv_cache_bytes


def test_every_choice_is_overridden_by_its_setting() -> None:
    chosen = sizes(max_loras=7, token_budget=100, kv_cache_gib=0.5, max_model_len=300)
    assert (chosen.max_loras, chosen.token_budget, chosen.max_model_len) == (7, 100, 300)
    assert chosen.kv_cache_bytes == GIB // 2


def test_half_precision_and_tensor_parallel_shrink_the_cache() -> None:
    assert sizes(dtype="bfloat16").kv_cache_bytes == sizes().kv_cache_bytes // 2
    assert sizes(tensor_parallel_size=2).kv_cache_bytes == sizes().kv_cache_bytes // 2


def test_accelerators_take_larger_steps_and_their_block_size() -> None:
    chosen = sizes(80, device="cuda", dtype="bfloat16")
    assert (chosen.token_budget, chosen.block_size) == (16384, 16)


def test_longest_sequence_defaults_to_the_models() -> None:
    assert sizes(longest=None).max_model_len == 8192


def test_sequence_longer_than_the_model_is_refused() -> None:
    with pytest.raises(UserError, match="max_model_len 9000 is more than the model takes; expected at most 8192"):
        sizes(max_model_len=9000)


def test_model_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match=r"the model does not fit: 0\.5 GiB"):
        sizes(0.5)


def test_a_full_cuda_device_names_the_setting() -> None:
    with pytest.raises(
        UserError, match=r"the model does not fit: 0\.5 GiB .*, raise engine\.gpu_memory_utilization, or"
    ):
        sizes(0.5, device="cuda", gpu_memory_utilization=0.5)
    with pytest.raises(UserError, match=r"lower engine\.max_model_len or max_loras, or use a smaller model"):
        sizes(0.5, device="cuda", gpu_memory_utilization=1.0)
