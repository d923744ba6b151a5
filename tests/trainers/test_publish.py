from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from safetensors import safe_open

from tests.fake_hub import TOKEN, FakeHub, serve_hub
from tests.trainers.small_grid import adapter, everything, make_config
from transfergrid.cli import main
from transfergrid.config.settings import GridConfig
from transfergrid.engine.adapters.card import adapter_card
from transfergrid.grid import UserError
from transfergrid.store.files import hash_files
from transfergrid.store.folder import RunFolder
from transfergrid.trainers.publish import push_adapters
from transfergrid.trainers.record import read_record

pytestmark = pytest.mark.engine
FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors", "training.json"}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def grid(hub: str, token: str, *arguments: str) -> Result:
    """Run the command line with a hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", hub)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setenv("HF_TOKEN", token)
        patch.setenv("COLUMNS", "200")
        return CliRunner().invoke(main, arguments)


@pytest.fixture(scope="module")
def settings(config: GridConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("settings") / "grid.yaml"
    path.write_text(yaml.safe_dump(json.loads(config.model_dump_json())), encoding="utf-8")
    return path


def test_an_adapters_folder_says_what_it_is_and_its_hash_does_not_follow_the_card(finished: RunFolder) -> None:
    folder = adapter(finished)
    assert {path.name for path in folder.iterdir()} == FILES
    record, config = read(folder / "training.json"), read(folder / "adapter_config.json")
    _, head, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    tags = yaml.safe_load(head)
    assert (tags["language"][0], tags["library_name"], tags["pipeline_tag"]) == ("en", "peft", "text-generation")
    assert "base_model" not in tags, "a local folder is no model of the hub"
    for text in (
        record["content_hash"],
        f"rank {record['config']['lora']['r']}",
        f"{record['untrained_validation_loss']:.4f} of the base, {record['best_validation_loss']:.4f} after epoch",
        f"bundled items: {record['data']['n_train']} trained on",
        "PeftModel.from_pretrained",
    ):
        assert text in body
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        origin = file.metadata()
    assert origin["base_model"] == "tiny"
    assert (origin["base_revision"], origin["data_hash"]) == (record["base"]["revision"], record["data"]["hash"])
    assert record["tokens_per_s"] == record["n_tokens"] / record["train_s"]
    assert record["content_hash"] == hash_files([folder / "adapter_config.json", folder / "adapter_model.safetensors"])
    on_hub = {**config, "base_model_name_or_path": "org/base", "revision": "abc"}
    tags = yaml.safe_load(adapter_card(record, on_hub).split("---\n")[1])
    assert tags["base_model"] == "org/base"
    assert "base_model:adapter:org/base" in tags["tags"]


def test_push_puts_every_adapter_into_a_private_repository(finished: RunFolder, settings: Path) -> None:
    where = ("--config", str(settings), "--run", str(finished.root))
    with serve_hub() as hub:
        done = grid(hub.address, TOKEN, "push", "--adapters", "me", "--language", "en", *where)
        assert done.exit_code == 0, done.output
        assert f"{hub.address}/me/tiny-s17-arc_challenge-en" in done.output
        check_pushed(hub, finished)
        again = grid(hub.address, TOKEN, "push", "--adapters", "me", "--language", "en", *where)
        assert again.exit_code == 0, again.output
        refused = grid(hub.address, "hf_other", "push", "--adapters", "me", *where)
    assert refused.exit_code == 1
    assert "grid: 'me/tiny-s17-arc_challenge-en' cannot be pushed to http://127.0.0.1" in refused.stderr
    assert "set HF_TOKEN to a token that may write" in refused.stderr


def check_pushed(hub: FakeHub, run: RunFolder) -> None:
    assert hub.private == {"me/tiny-s17-arc_challenge-en": True}
    files, folder = hub.files["me/tiny-s17-arc_challenge-en"], adapter(run)
    assert files.keys() == FILES
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
        assert files[name] == (folder / name).read_bytes()
    pushed, record = json.loads(files["training.json"]), read_record(folder)
    assert record is not None
    assert pushed["content_hash"] == record["content_hash"]
    assert "model_folder" not in pushed["resolved"], "a path of this machine"


def test_the_repository_of_a_variant_has_a_name_that_the_hub_takes(
    finished: RunFolder, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    shutil.copytree(adapter(finished), adapter(run).with_name("arc_challenge-en@r2"))
    varied = everything(make_config(tiny_llama, variants={"r2": {"lora": {"r": 2}}}))
    with serve_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        report = push_adapters(run, varied, "me")
    assert [name for name, _ in report.pushed] == ["tiny-s17-arc_challenge-en-r2"]
    assert list(hub.files) == ["me/tiny-s17-arc_challenge-en-r2"]


def test_without_a_finished_adapter_nothing_is_pushed(config: GridConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished adapter of this selection under"):
        push_adapters(RunFolder(tmp_path), everything(config), "me")


def test_merge_writes_a_model_that_answers_as_base_and_adapter(
    finished: RunFolder, tiny_llama: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from transfergrid.engine.adapters.merge import merge_to_folder

    text = merge_to_folder(adapter(finished), tmp_path / "merged", base=None, revision=None)
    assert str(tmp_path / "merged") in text
    ids = torch.arange(3, 40)[None]
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), str(adapter(finished)))
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, expected(ids).logits, rtol=1e-4, atol=1e-4)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "merged")) > 0
    with pytest.raises(UserError, match="exists and is kept; name a folder that is to be made"):
        merge_to_folder(adapter(finished), tmp_path / "merged", base=None, revision=None)


def test_merge_refuses_a_base_that_cannot_be_found_or_is_another(
    finished: RunFolder, tiny_qwen2: Path, tmp_path: Path
) -> None:
    from transfergrid.engine.adapters.merge import merge_to_folder

    with pytest.raises(UserError, match=r"was trained on revision '.* of its base, .* with --base and --revision"):
        merge_to_folder(adapter(finished), tmp_path / "a", base=str(tiny_qwen2), revision=None)
    with pytest.raises(UserError, match=r"does not exist.*; name the adapter's base with --base"):
        merge_to_folder(adapter(finished), tmp_path / "b", base=str(tmp_path / "none"), revision=None)
    assert list(tmp_path.iterdir()) == []
