"""Adapters of other libraries and forms become peft's, with the same weights and the same scores."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from tests.models import edit_json, make_tiny_adapter
from transfergrid.cli import main
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.convert import convert_adapter
from transfergrid.engine.adapters.folder import CONFIG_FILE, RECORD_FILE, WEIGHTS_FILE
from transfergrid.engine.interfaces import AdapterError
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.grid import UserError

Weights = dict[str, torch.Tensor]
MLX = {"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 8, "scale": 2.0, "dropout": 0.0}}
TORCHTUNE = {
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.o_proj": "attn.output_proj",
    "mlp.gate_proj": "mlp.w1",
    "mlp.down_proj": "mlp.w2",
    "mlp.up_proj": "mlp.w3",
}


@pytest.fixture
def source(tiny_adapters: tuple[Path, ...], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_adapters[0], tmp_path / "source"))


def rename(old: str, new: str) -> Callable[[Path], object]:
    """Return what renames all keys of a folder's weights."""

    def renamed(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS_FILE)
        save_file({key.replace(old, new): value for key, value in weights.items()}, folder / WEIGHTS_FILE)

    return renamed


def as_bin(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS_FILE), folder / "adapter_model.bin")
    (folder / WEIGHTS_FILE).unlink()


def as_mlx(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    renamed = {
        key.removeprefix("base_model.model.")
        .replace("lora_A.weight", "lora_a")
        .replace("lora_B.weight", "lora_b"): value
        for key, value in weights.items()
    }
    save_file({key: value.T.contiguous() for key, value in renamed.items()}, folder / "adapters.safetensors")
    (folder / WEIGHTS_FILE).unlink()
    (folder / CONFIG_FILE).write_text(json.dumps(MLX), encoding="utf-8")


def as_torchtune(folder: Path) -> None:
    """As torchtune keeps a Llama: its own names, and the rows of rotary pairs side by side."""
    renamed = {}
    for key, value in load_file(folder / WEIGHTS_FILE).items():
        name = key.removeprefix("base_model.model.model.").replace("lora_A", "lora_a").replace("lora_B", "lora_b")
        for theirs, ours in TORCHTUNE.items():
            name = name.replace(theirs, ours)
        if "lora_b" in name and ("q_proj" in name or "k_proj" in name):
            value = value.view(-1, 2, 16, value.shape[-1]).transpose(1, 2).reshape(value.shape)  # heads of 32 rows
        renamed[name] = value.contiguous()
    torch.save(renamed, folder / "adapter_0.pt")
    (folder / WEIGHTS_FILE).unlink()


@pytest.mark.parametrize(
    ("change", "is_read_by_peft"),
    [
        (as_bin, True),
        (rename(".weight", ".default.weight"), False),
        (rename("base_model.model.", "base_model.model._orig_mod."), False),
        (rename("base_model.model.", "module.base_model.model."), False),
        (rename("base_model.model.model.", "base_model.model."), False),
        (rename("base_model.model.", ""), False),
        (as_mlx, False),
        (as_torchtune, False),
    ],
    ids=["bin", "default", "compiled", "distributed", "without model.", "without prefix", "mlx", "torchtune"],
)
def test_weights_come_back_under_pefts_names(
    source: Path,
    tiny_adapters: tuple[Path, ...],
    tiny_llama: Path,
    tmp_path: Path,
    change: Callable[[Path], object],
    is_read_by_peft: bool,
) -> None:
    change(source)
    (source / RECORD_FILE).write_text("{}", encoding="utf-8")
    found = convert_adapter(source, tmp_path / "out", base=tiny_llama)
    expected, weights = load_file(tiny_adapters[0] / WEIGHTS_FILE), load_file(tmp_path / "out" / WEIGHTS_FILE)
    assert weights.keys() == expected.keys()
    assert all(weights[key].equal(value) for key, value in expected.items())
    adapter = check_adapter(tmp_path / "out", read_linear_shapes(tiny_llama), name="a")
    original = check_adapter(tiny_adapters[0], read_linear_shapes(tiny_llama), name="a")
    assert (adapter.rank, adapter.strength, adapter.layers) == (8, original.strength, original.layers)
    assert (tmp_path / "out" / RECORD_FILE).is_file()
    assert (found.n_layers, found.rank) == (14, 8)
    if is_read_by_peft:
        assert found.difference_nats == 0
        assert "differs from the source in peft by 0.0e+00 nats" in str(found)


def logprobs(base: Path, adapter: Path) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    with torch.inference_mode():
        return model(torch.arange(10, 60)[None]).logits.double().log_softmax(-1)


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 4}}], ids=str)
def test_an_adapter_that_changed_its_base_scores_the_same_on_the_plain_base(
    init: str, changes: dict[str, Any], tiny_llama: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    settings = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM", **changes}
    model = get_peft_model(base, LoraConfig(init_lora_weights=init, **settings))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(tmp_path / "raw")
    with pytest.raises(AdapterError, match="which changes the base's weights; 'grid convert-adapter'"):
        check_adapter(tmp_path / "raw", read_linear_shapes(tiny_llama), name="a")
    with pytest.raises(
        AdapterError, match=f"init_lora_weights='{init}', and its start comes from the base; give --base"
    ):
        convert_adapter(tmp_path / "raw", tmp_path / "out")
    found = convert_adapter(tmp_path / "raw", tmp_path / "out", base=tiny_llama)
    assert found.rank == 16
    assert found.difference_nats is not None
    assert found.difference_nats < 1e-3
    difference = (logprobs(tiny_llama, tmp_path / "raw") - logprobs(tiny_llama, tmp_path / "out")).abs().max()
    assert difference < 1e-3
    assert check_adapter(tmp_path / "out", read_linear_shapes(tiny_llama), name="a").strength > 0


def test_a_start_that_is_drawn_at_random_cannot_be_taken_away(source: Path, tiny_llama: Path, tmp_path: Path) -> None:
    edit_json(source / CONFIG_FILE, init_lora_weights="pissa_niter_4")
    with pytest.raises(AdapterError, match="its start is drawn at random; without it the adapter cannot be converted"):
        convert_adapter(source, tmp_path / "out", base=tiny_llama)


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("code of the file ran",))


def test_code_in_a_bin_file_is_not_run(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / WEIGHTS_FILE).unlink()
    torch.save({"a": Harm()}, source / "adapter_model.bin")
    with pytest.raises(AdapterError, match=r"adapter_model\.bin' cannot be read: .*; expected a file of tensors alone"):
        convert_adapter(source, tmp_path / "out")
    assert "code of the file ran" not in capsys.readouterr().out


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()


def more_than_tensors(folder: Path) -> None:
    no_weights(folder)
    torch.save({"a": {"b": 1}}, folder / "adapter_model.bin")


def twice(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    again = {key.replace(".weight", ".other.weight"): value.clone() for key, value in weights.items()}
    save_file({**weights, **again}, folder / WEIGHTS_FILE)


def configured(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: edit_json(folder / CONFIG_FILE, **changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_weights, r"holds no weights; expected one of \['adapter_model\.safetensors', 'adapter_model\.bin'"),
        (more_than_tensors, "holds more than names and tensors; expected a file of LoRA weights"),
        (twice, "holds 'base_model.*' twice under different names; remove one"),
        (
            rename("model.layers.0.mlp.up_proj", "lm_head"),
            "'.*lm_head.*', which is no LoRA weight of a decoder's layer",
        ),
        (as_torchtune, "is torchtune's, whose order of rows the base decides; give --base"),
        (configured(lora_alpha=None), "has lora_alpha=None; expected a number"),
        (configured(r=4), "its configuration says rank 4"),
        (configured(fine_tune_type="dora", lora_parameters={}), "is mlx's 'dora' with .*; expected 'lora'"),
        (configured(lora_parameters={"rank": 8}), "rank=8 and scale=None; expected numbers"),
    ],
)
def test_what_cannot_be_converted_is_refused_and_nothing_written(
    source: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    change(source)
    with pytest.raises(AdapterError, match=message):
        convert_adapter(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_folder_that_exists_is_not_written_over(source: Path) -> None:
    with pytest.raises(UserError, match="source' exists; expected a new folder"):
        convert_adapter(source, source)


def test_torchtune_adapters_of_other_models_are_refused_or_kept_in_order(
    source: Path, tiny_llama: Path, tiny_qwen2: Path, tiny_gemma3: Path, tmp_path: Path
) -> None:
    as_torchtune(source)
    expected = torch.load(source / "adapter_0.pt")["layers.1.attn.q_proj.lora_b.weight"]
    convert_adapter(source, tmp_path / "qwen", base=tiny_qwen2)
    found = load_file(tmp_path / "qwen" / WEIGHTS_FILE)[
        "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    ]
    assert found.equal(expected)
    with pytest.raises(
        AdapterError, match="torchtune's for a 'gemma3_text', whose order of rows is not known; expected one"
    ):
        convert_adapter(source, tmp_path / "gemma", base=tiny_gemma3)


def test_the_command_prints_what_was_done(source: Path, tmp_path: Path, tiny_llama: Path) -> None:
    as_bin(source)
    out = tmp_path / "out"
    run = CliRunner().invoke(main, ["convert-adapter", str(source), str(out), "--base", str(tiny_llama)])
    assert run.exit_code == 0, run.output
    assert "14 layers of rank 8 in" in run.output
    again = CliRunner().invoke(main, ["convert-adapter", str(source), str(out)])
    assert again.exit_code == 1
    assert "exists; expected a new folder" in again.output


def test_a_folder_of_images_and_text_gets_its_bases_prefix(tiny_gemma3_vision: Path, tmp_path: Path) -> None:
    folder = make_tiny_adapter(tiny_gemma3_vision, tmp_path / "source", target_modules=("q_proj",))
    expected = load_file(folder / WEIGHTS_FILE)
    rename("base_model.model.model.language_model.", "base_model.model.")(folder)
    convert_adapter(folder, tmp_path / "out", base=tiny_gemma3_vision)
    assert load_file(tmp_path / "out" / WEIGHTS_FILE).keys() == expected.keys()
