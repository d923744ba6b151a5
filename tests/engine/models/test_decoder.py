"""Sparse configurations are completed, and of models of text and images the decoder alone is served."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.models import TINY_WINDOW, edit_json, make_tiny_adapter
from transfergrid.config.settings import EngineConfig
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.folder import WEIGHTS_FILE
from transfergrid.engine.adapters.merge import check_mergeable, merge_adapter
from transfergrid.engine.adapters.null import make_null_adapter
from transfergrid.engine.models.decoder import peft_names, read_decoder_config, text_arguments
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.scorers.launch import plan_engine
from transfergrid.engine.workers.decoder_names import name_decoder_weights
from transfergrid.grid import UserError


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TRANSFERGRID_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_config(folder: Path, **config: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def decoder(model_type: str, *, hidden: int, inner: int, layers: int, **others: Any) -> dict[str, Any]:
    """Return what every published configuration says."""
    size = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    return {"model_type": model_type, **size, **others}


def llama(heads: int, factor: float, **config: Any) -> dict[str, Any]:
    rope = {
        "factor": factor,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    }
    shared = {"vocab_size": 128256, "max_position_embeddings": 131072, "rope_scaling": rope, "rope_theta": 500000.0}
    return decoder("llama", num_attention_heads=heads, num_key_value_heads=8, **shared, **config)


def qwen(heads: int, kv_heads: int, **config: Any) -> dict[str, Any]:
    window = {"sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 21}
    shared = {"max_position_embeddings": 32768, "rope_theta": 1000000.0, "vocab_size": 151936}
    return decoder("qwen2", num_attention_heads=heads, num_key_value_heads=kv_heads, **{**shared, **window, **config})


def gemma_of_images(**text: Any) -> dict[str, Any]:
    rope = {"factor": 8.0, "rope_type": "linear"}
    text_config = decoder("gemma3_text", rope_scaling=rope, sliding_window=1024, **text)
    return {"model_type": "gemma3", "text_config": text_config, "vision_config": {"hidden_size": 1152}}


GEMMA_1B = {
    "head_dim": 256,
    "max_position_embeddings": 32768,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "rope_scaling": None,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}
# name: what config.json says on the hub; heads, kv heads, head_dim, vocabulary, positions, window; parameters of the
# model without biases and norms, within 0.1 % of the hub's count
PUBLISHED = {
    "Llama-3.2-1B": (
        llama(32, 32.0, hidden=2048, inner=8192, layers=16, head_dim=64),
        (32, 8, 64, 128256, 131072, None),
        1_235_814_400 - 128256 * 2048,
    ),
    "Llama-3.2-3B": (
        llama(24, 32.0, hidden=3072, inner=8192, layers=28, head_dim=128),
        (24, 8, 128, 128256, 131072, None),
        3_212_749_824 - 128256 * 3072,
    ),
    "Llama-3.1-8B": (
        llama(32, 8.0, hidden=4096, inner=14336, layers=32),
        (32, 8, None, 128256, 131072, None),
        8_030_261_248 - 2 * 128256 * 4096,
    ),
    "Qwen2.5-0.5B": (
        qwen(14, 2, hidden=896, inner=4864, layers=24),
        (14, 2, None, 151936, 32768, None),
        494_032_768 - 151936 * 896,
    ),
    "Qwen2.5-1.5B": (
        qwen(12, 2, hidden=1536, inner=8960, layers=28),
        (12, 2, None, 151936, 32768, None),
        1_543_714_304 - 151936 * 1536,
    ),
    "Qwen2.5-3B": (
        qwen(16, 2, hidden=2048, inner=11008, layers=36, max_window_layers=70),
        (16, 2, None, 151936, 32768, None),
        3_085_938_688 - 151936 * 2048,
    ),
    "Qwen2.5-7B": (
        qwen(28, 4, hidden=3584, inner=18944, layers=28, vocab_size=152064, sliding_window=131072),
        (28, 4, None, 152064, 32768, None),
        7_615_616_512 - 2 * 152064 * 3584,
    ),
    "gemma-3-1b": (
        decoder("gemma3_text", hidden=1152, inner=6912, layers=26, **GEMMA_1B),
        (4, 1, 256, 262144, 32768, 512),
        999_885_952 - 262144 * 1152,
    ),
    "gemma-3-4b": (
        gemma_of_images(hidden=2560, inner=10240, layers=34),
        (8, 4, 256, 262208, 131072, 1024),
        34 * 2560 * (2 * (8 + 4) * 256 + 3 * 10240),
    ),
    "gemma-3-12b": (
        gemma_of_images(hidden=3840, inner=15360, layers=48, num_attention_heads=16, num_key_value_heads=8),
        (16, 8, 256, 262208, 131072, 1024),
        48 * 3840 * (2 * (16 + 8) * 256 + 3 * 15360),
    ),
}
KEYS = (
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "sliding_window",
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations_are_read_with_what_they_leave_out(name: str, tmp_path: Path) -> None:
    config, (heads, kv_heads, head_dim, *others), n_parameters = PUBLISHED[name]
    folder = write_config(tmp_path, **config)
    found, facts = read_decoder_config(folder), read_model_facts(folder)
    width = head_dim or facts.hidden_size // heads
    assert [found.get(key) or width for key in KEYS[:3]] == [heads, kv_heads, width]
    assert [found.get(key) for key in KEYS[3:]] == others
    assert (facts.vocab_size, facts.max_positions) == (others[0], others[1])
    assert facts.n_kv_values_per_token == facts.n_layers * 2 * kv_heads * width
    assert facts.n_layer_parameters == pytest.approx(n_parameters, rel=1e-3)


def test_a_kind_of_model_that_transformers_lacks_is_read_as_it_is(tmp_path: Path) -> None:
    config = decoder("unheard_of", hidden=64, inner=96, layers=2, num_attention_heads=4, vocab_size=10)
    folder = write_config(tmp_path, **config, max_position_embeddings=77)
    assert read_model_facts(folder).max_positions == 77
    edit_json(folder / "config.json", max_position_embeddings=None)
    with pytest.raises(UserError, match="has no 'max_position_embeddings'"):
        read_model_facts(folder)


def test_models_of_images_whose_decoder_is_not_served_are_refused(tmp_path: Path) -> None:
    folder = write_config(tmp_path, model_type="qwen2_5_vl", vision_config={}, hidden_size=64)
    with pytest.raises(UserError, match=r"is a 'qwen2_5_vl' with 'vision_config', .* or one of \['gemma3'\]"):
        read_model_facts(folder)


@pytest.mark.parametrize("text", ["{", "[1]", '{"model_type": ["a"]}'])
def test_a_configuration_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json in .* cannot be read: .*; expected one saved by transformers"):
        read_decoder_config(tmp_path)


@pytest.mark.parametrize("kind", [{}, [], "llama"])
def test_the_decoder_of_a_model_of_images_is_of_the_kind_that_is_served(kind: object, tmp_path: Path) -> None:
    text = {"model_type": kind, "hidden_size": 48}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    config = read_decoder_config(tmp_path)
    assert (config["model_type"], config["hidden_size"]) == ("gemma3_text", 48)


def test_a_value_that_transformers_refuses_is_named(tmp_path: Path) -> None:
    folder = write_config(tmp_path, model_type="llama", hidden_size="wide")
    with pytest.raises(UserError, match=r"refused by transformers: .*'hidden_size' expected int, got str"):
        read_decoder_config(folder)


def test_a_model_of_text_is_started_as_it_is(tiny_gemma3: Path, cache: Path) -> None:
    assert text_arguments(tiny_gemma3) == {}
    assert not cache.exists()
    assert peft_names(tiny_gemma3) == ("base_model.model.model.", None)


def test_of_a_model_of_images_the_engine_is_given_the_decoders_configuration(tiny_gemma3_vision: Path) -> None:
    from transformers import AutoConfig, Gemma3TextConfig

    _, arguments = plan_engine(
        tiny_gemma3_vision, EngineConfig(dtype="float32", kv_cache_gib=0.1), max_rank=8, longest_tokens=64
    )
    assert arguments["model"] == str(tiny_gemma3_vision)
    folder = Path(arguments["hf_config_path"])
    text = AutoConfig.from_pretrained(folder)
    whole = AutoConfig.from_pretrained(tiny_gemma3_vision)
    assert isinstance(text, Gemma3TextConfig)
    assert text.architectures == ["Gemma3ForCausalLM"]
    assert (text.sliding_window, text.head_dim, text.num_key_value_heads) == (TINY_WINDOW, 256, 4)
    assert text.rope_parameters == whole.text_config.rope_parameters
    assert text.layer_types == whole.text_config.layer_types
    generation = "generation_config.json"  # the server takes its defaults and end tokens from there
    assert json.loads((folder / generation).read_text()) == json.loads((tiny_gemma3_vision / generation).read_text())


def test_the_decoders_configuration_is_written_once_per_content(tmp_path: Path, cache: Path) -> None:
    folder = write_config(tmp_path, **gemma_of_images(hidden=2560, inner=10240, layers=34))
    first = text_arguments(folder)
    assert text_arguments(folder) == first
    edit_json(folder / "config.json", quantization_config={"quant_method": "fp8"})
    other = Path(text_arguments(folder)["hf_config_path"])
    assert json.loads((other / "config.json").read_text())["quantization_config"] == {"quant_method": "fp8"}
    assert {path.name for path in (cache / "text-parts").iterdir()} == {Path(first["hf_config_path"]).name, other.name}


def test_null_adapters_are_named_as_peft_names_a_models_own(tiny_gemma3_vision: Path, tmp_path: Path) -> None:
    folders = [make_null_adapter(tiny_gemma3_vision, tmp_path / "null"), tmp_path / "own"]
    make_tiny_adapter(tiny_gemma3_vision, folders[1])
    names = []
    for folder in folders:
        check_adapter(folder, read_linear_shapes(tiny_gemma3_vision), name="a")
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            names.append(set(file.keys()))
    assert names[0] == names[1]
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in names[0])


@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_a_merged_model_of_images_is_that_of_peft_and_started_the_same_way(
    scale: float, tiny_gemma3_vision: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    make = partial(make_tiny_adapter, scale=scale) if scale else make_null_adapter
    adapter = make(tiny_gemma3_vision, tmp_path / "a")
    merged = tmp_path / "merged"
    merge_adapter(tiny_gemma3_vision, check_mergeable(adapter, name="a"), merged, dtype="float32")
    base = AutoModelForCausalLM.from_pretrained(tiny_gemma3_vision, dtype=torch.float32)
    tokens = torch.arange(10, 90)[None]
    with torch.inference_mode():
        expected = PeftModel.from_pretrained(base, adapter)(tokens).logits
        found = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)(tokens).logits
    assert (found - expected).abs().max() < 1e-3
    assert read_model_facts(merged) == read_model_facts(tiny_gemma3_vision)
    assert read_linear_shapes(merged) == read_linear_shapes(tiny_gemma3_vision)
    assert set(text_arguments(merged)) == {"hf_config_path"}


@pytest.mark.engine
@pytest.mark.parametrize("outer", ["model.{}", "{}.model"])
def test_weights_of_old_and_new_names_are_the_decoders_and_no_others_are_loaded(outer: str) -> None:
    from vllm.model_executor.models.gemma3 import Gemma3ForCausalLM

    name_decoder_weights()
    name_decoder_weights()  # another engine in the same process
    mapper = Gemma3ForCausalLM.hf_to_vllm_mapper
    decoder_name = outer.format("language_model")
    assert mapper.map_name(f"{decoder_name}.layers.0.self_attn.q_proj.weight") == (
        "model.layers.0.self_attn.qkv_proj.weight"
    )
    assert mapper.map_name("model.layers.0.mlp.down_proj.weight") == "model.layers.0.mlp.down_proj.weight"
    assert mapper.map_name("language_model.lm_head.weight") == mapper.map_name("lm_head.weight") == "lm_head.weight"
    for name in ("vision_tower.a", "model.vision_tower.a", "multi_modal_projector.a", "model.multi_modal_projector.a"):
        assert mapper.map_name(name) is None
