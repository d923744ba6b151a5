"""Base models: from the name in the configuration to a local folder and its revision."""

from __future__ import annotations

from pathlib import Path

from transfergrid.config.settings import BUNDLED_MODEL
from transfergrid.config.values import is_folder
from transfergrid.engine.models.bundled import SOURCE_FILE, build_bundled_model
from transfergrid.engine.models.decoder import checked_folder
from transfergrid.grid import UserError
from transfergrid.store.files import hash_files
from transfergrid.store.json_text import read_json

_HUB_FILES = ("*.json", "*.model", "*.jinja", "*.txt")
_WEIGHT_FILES = "*.safetensors"
_HUB_LEFT_OUT = ("original/*", "onnx/*", "*/*.safetensors")


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
    is_local = is_folder(Path(path).expanduser())
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
        return checked_folder(folder)
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
        record = read_json(source)
        if not isinstance(record, dict) or not isinstance(record.get("gguf_sha256"), str):
            raise UserError(f"{str(source)!r} has no 'gguf_sha256'; remove the folder, it is built again")
        return str(record["gguf_sha256"])
    if folder.parent.name == "snapshots":
        return folder.name
    return hash_files(path for pattern in ("*.json", "*.safetensors", "*.bin") for path in folder.glob(pattern))


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
    return checked_folder(Path(folder))
