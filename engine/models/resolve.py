"""Base models: from the name in the configuration to a local folder, its revision, tokenizer and size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfergrid.config.settings import BUNDLED_MODEL
from transfergrid.engine.models.bundled import SOURCE_FILE, build_bundled_model
from transfergrid.engine.models.decoder import read_decoder_config
from transfergrid.grid import UserError
from transfergrid.store.files import hash_files

_HUB_FILES = ("*.json", "*.model", "*.jinja", "*.txt")
_WEIGHT_FILES = "*.safetensors"
_HUB_LEFT_OUT = ("original/*", "onnx/*", "*/*.safetensors")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Size of a decoder-only base model, read from its ``config.json`` alone."""

    n_layers: int
    hidden_size: int
    vocab_size: int
    max_positions: int
    """Longest sequence in tokens."""
    n_layer_parameters: int
    """Weights of all linear layers between the embeddings and the vocabulary projection: 2 FLOP each per token."""
    n_kv_values_per_token: int
    """Keys and values that one token keeps, over all layers."""


def resolve_model(path: str, revision: str | None = None, *, with_weights: bool = True) -> Path:
    """Return the local folder of a base model, fetching or building it first where needed.

    Args:
        path: ``bundled:smollm2-135m-instruct``, a local folder, or a hub id.
        revision: Hub revision (branch, tag or commit); only for hub ids.
        with_weights: Whether weights are fetched from the hub too; planning needs only configuration and tokenizer.

    Raises:
        UserError: If the folder holds no model, the hub cannot be reached and the model is not in its cache, or a
            revision is given of what is not on the hub.
    """
    is_local = Path(path).expanduser().is_dir()
    if revision is not None and (is_local or path.startswith("bundled:")):
        raise UserError(
            f"model {path!r} has the revision {revision!r}, which only a hub id can have; leave 'revision' out"
        )
    if path == BUNDLED_MODEL:
        return build_bundled_model()
    if path.startswith("bundled:"):
        raise UserError(f"unknown bundled model {path!r}; expected {BUNDLED_MODEL!r}")
    folder = Path(path).expanduser()
    if is_local:
        return _checked_folder(folder)
    if folder.is_absolute() or path.startswith((".", "~")):
        raise UserError(f"model folder {path!r} does not exist; expected a folder with config.json, or a hub id")
    return _download(path, revision, with_weights=with_weights)


def model_revision(folder: Path) -> str:
    """Return what pins a resolved model's weights.

    Returns:
        The commit of a hub snapshot; for the bundled model its source's SHA-256; else a SHA-256 over the folder's
        configuration and weights.
    """
    if (source := folder / SOURCE_FILE).is_file():
        return str(json.loads(source.read_text(encoding="utf-8"))["gguf_sha256"])
    if folder.parent.name == "snapshots":
        return folder.name
    return hash_files(path for pattern in ("*.json", "*.safetensors", "*.bin") for path in folder.glob(pattern))


def load_tokenizer(folder: Path) -> Any:
    """Load a resolved model's tokenizer.

    Raises:
        UserError: If the folder holds none that transformers can read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"no usable tokenizer in model folder {str(folder)!r}: {error}") from error


def read_model_facts(folder: Path) -> ModelFacts:
    """Read the size of a resolved model's decoder from its configuration; loads no weights.

    Raises:
        UserError: If ``config.json`` does not describe a decoder-only model of the usual shape.
    """
    config = read_decoder_config(_checked_folder(folder))
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        layers, inner = int(config["num_hidden_layers"]), int(config["intermediate_size"])
        vocabulary, positions = int(config["vocab_size"]), int(config["max_position_embeddings"])
    except KeyError as error:
        raise UserError(
            f"config.json in {str(folder)!r} has no {error.args[0]!r}; expected a decoder-only model such as Llama, "
            "Qwen2 or Gemma 3"
        ) from error
    head_dim = int(config.get("head_dim") or hidden // heads)
    kv_width = int(config.get("num_key_value_heads") or heads) * head_dim
    per_layer = hidden * (2 * heads * head_dim + 2 * kv_width + 3 * inner)
    return ModelFacts(
        n_layers=layers,
        hidden_size=hidden,
        vocab_size=vocabulary,
        max_positions=positions,
        n_layer_parameters=layers * per_layer,
        n_kv_values_per_token=layers * 2 * kv_width,
    )


def _checked_folder(folder: Path) -> Path:
    """Return the folder if it holds a model.

    Raises:
        UserError: If there is no ``config.json``, or it is not a JSON mapping.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"model folder {str(folder)!r} has no config.json; expected a folder saved by transformers")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError(f"it holds {config!r:.40}")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"config.json in model folder {str(folder)!r} cannot be read: {error}; was it cloned without git-lfs, or "
            "not downloaded to its end? Fetch it again"
        ) from error
    return folder


def _download(hub_id: str, revision: str | None, *, with_weights: bool) -> Path:
    """Return the snapshot of a hub model in the hub's cache, downloaded where it is not complete.

    Raises:
        UserError: If it can be neither found in the cache nor downloaded.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    at = "" if revision is None else f" at revision {revision!r}"
    wanted = [*_HUB_FILES, _WEIGHT_FILES] if with_weights else list(_HUB_FILES)
    try:
        folder = snapshot_download(
            hub_id, revision=revision, allow_patterns=wanted, ignore_patterns=list(_HUB_LEFT_OUT)
        )
    except GatedRepoError as error:
        raise UserError(
            f"model {hub_id!r} needs its licence accepted on its hub page and a login (hf auth login)"
        ) from error
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise UserError(
            f"unknown model {hub_id!r}; expected {BUNDLED_MODEL!r}, a local folder, or an existing hub id"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"model {hub_id!r}{at} is not in the hub's cache and the hub cannot be reached; connect once to download "
            f"it, or use a local folder or {BUNDLED_MODEL!r}"
        ) from error
    if with_weights and not any(Path(folder).glob(_WEIGHT_FILES)):
        raise UserError(
            f"model {hub_id!r}{at} has no weights in the hub's cache; connect once to download them, or choose a model "
            "that its hub page offers as safetensors"
        )
    return _checked_folder(Path(folder))
