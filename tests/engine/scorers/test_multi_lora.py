"""What the engine's ways are called in a key, and adapters that can only be merged."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import pytest

from tests.models import edit_json
from transfergrid.config.settings import EngineConfig
from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE
from transfergrid.engine.adapters.merge import check_mergeable, merge_adapter
from transfergrid.engine.interfaces import AdapterError
from transfergrid.engine.scorers.multi_lora import MultiLora, vllm_key_parts
from transfergrid.engine.scorers.sequential import Sequential
from transfergrid.engine.workers.version import vllm_version
from transfergrid.grid import UserError


def test_the_two_ways_differ_in_their_way_alone() -> None:
    config = EngineConfig(vllm_args={"load_format": "auto"})
    multi, sequential = dict(MultiLora(config).key_parts()), dict(Sequential(config).key_parts())
    assert multi.pop("way") == "multi-lora"
    assert sequential.pop("way") == "sequential"
    assert multi == sequential == {"name": "vllm", "version": vllm_version(), "arguments": {"load_format": "auto"}}


def test_a_device_other_than_the_cpu_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = vllm_key_parts("multi-lora", EngineConfig())
    monkeypatch.setattr("transfergrid.engine.scorers.multi_lora.engine_device_type", lambda: "cuda")
    assert vllm_key_parts("multi-lora", EngineConfig()) == {**on_cpu, "device": "cuda"}
    assert vllm_key_parts("multi-lora", EngineConfig(), device="cpu") == on_cpu  # a server's, not this machine's


def test_a_machine_without_an_engine_says_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(UserError, match="no engine is installed; expected one of the packages"):
        vllm_version()


@pytest.fixture
def folder(tiny_adapters: tuple[Path, ...], tmp_path: Path) -> Path:
    shutil.copytree(tiny_adapters[0], tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_that_vllm_does_not_serve_can_be_merged(folder: Path, tiny_llama: Path) -> None:
    edit_json(folder / CONFIG_FILE, use_dora=True)
    with pytest.raises(AdapterError, match="uses DoRA"):
        MultiLora(EngineConfig()).check_adapter(folder, tiny_llama, name="a")
    adapter = Sequential(EngineConfig()).check_adapter(folder, tiny_llama, name="a")
    assert (adapter.rank, adapter.name) == (8, f"a@{adapter.content_hash[:12]}")


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_half_an_adapter_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(AdapterError, match=f"adapter 'a' has no {name}"):
        check_mergeable(folder, name="a")


def test_a_broken_configuration_is_refused(folder: Path) -> None:
    (folder / CONFIG_FILE).write_text("[1]", encoding="utf-8")
    with pytest.raises(AdapterError, match=r"adapter_config\.json cannot be read: .*; save it again"):
        check_mergeable(folder, name="a")


def test_merging_changes_the_weights_by_the_adapters_product(folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    merge_adapter(tiny_llama, check_mergeable(folder, name="a"), tmp_path / "merged", dtype="float32")
    base, merged = load_file(tiny_llama / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    weights = load_file(folder / WEIGHTS_FILE)
    name = "model.layers.1.mlp.down_proj"
    a, b = (weights[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    expected = base[f"{name}.weight"] + 2.0 * b @ a  # alpha / r = 16 / 8
    assert (merged[f"{name}.weight"] - expected).abs().max() < 1e-5
    assert merged["model.embed_tokens.weight"].equal(base["model.embed_tokens.weight"])


def test_an_adapter_of_another_shape_cannot_be_merged(folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    edit_json(folder / CONFIG_FILE, r=4)
    with pytest.raises(AdapterError, match=r"adapter 'a@[0-9a-f]{12}' cannot be merged"):
        merge_adapter(tiny_llama, check_mergeable(folder, name="a"), tmp_path / "merged", dtype="float32")


def test_an_adapter_with_weights_that_are_not_used_is_refused(folder: Path, tiny_llama: Path, tmp_path: Path) -> None:
    edit_json(folder / CONFIG_FILE, target_modules=["q_proj"])
    with pytest.raises(AdapterError, match=r"does not fit this base: .* weights differ, for example"):
        merge_adapter(tiny_llama, check_mergeable(folder, name="a"), tmp_path / "merged", dtype="float32")
