"""config.json of a base model, as every part of the engine reads it before a weight is loaded."""

from __future__ import annotations

import os
from pathlib import Path

from transformers import CONFIG_MAPPING, Gemma3Config, LlamaConfig

from tests.fuzz.strategies import damaged_json
from transfergrid.engine.models.decoder import peft_names, text_arguments
from transfergrid.engine.models.facts import read_model_facts

_SHAPE = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
_LLAMA = LlamaConfig(**_SHAPE, num_key_value_heads=1, architectures=["LlamaForCausalLM"]).to_dict()
_GEMMA = Gemma3Config(text_config=_SHAPE).to_dict()
_OTHER = {**_SHAPE, "model_type": "unheard_of", "max_position_embeddings": 8, "quantization_config": {"bits": 4}}
CONTENTS = damaged_json(_LLAMA, _GEMMA, _OTHER)
_ = CONFIG_MAPPING["qwen2"]  # the first one imports torch


def read(content: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    os.environ["TRANSFERGRID_CACHE"] = str(folder / "cache")  # what text_arguments writes goes away with the folder
    read_model_facts(folder)
    peft_names(folder)
    text_arguments(folder)
