"""What ``grid serve`` and ``grid eval --server`` say to each other: paths, facts of a server, frames of bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

API_VERSION = 2
"""Raised when paths, facts or frames change."""

FACTS_PATH = "/grid/v1/server"
ADAPTER_PATH = "/grid/v1/adapter"
SCORE_PATH = "/grid/v1/score"
LOAD_PATH = "/v1/load_lora_adapter"
UNLOAD_PATH = "/v1/unload_lora_adapter"
INSTANCE_HEADER = "x-grid-instance"
"""Header that names the start of the server a client planned for."""
STEPS_TYPE = "application/octet-stream"

SCORES = b"S"
"""Float32 log-probabilities of one step."""
WAITING = b"W"
"""Nothing yet; keeps the connection from looking dead."""
FAILED = b"E"
"""What the engine said; the pass is over."""

_FRAME_HEAD = struct.Struct("<cI")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a server is and holds; all of it that decides numbers goes into the run key."""

    api_version: int
    instance: str
    """Drawn at random at every start."""
    vllm_version: str
    model: str
    """The configuration's name of the model."""
    revision: str
    """What pins the model's weights, from ``models.resolve.model_revision``."""
    dtype: str
    quantization: str | None
    vllm_args: dict[str, Any]
    adapter_root: str
    max_lora_rank: int
    max_model_len: int
    vocab_size: int
    limits: dict[str, int]
    """Fields of ``PlanLimits``."""
    device: str = "cpu"
    """What the engine runs on."""
    device_name: str = "unknown"

    def as_json(self) -> dict[str, Any]:
        """Return the facts as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Any) -> ServerFacts:
        """Read what ``as_json`` wrote; facts that this version does not know are left out.

        Raises:
            ValueError: If a fact is missing.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(raw, dict) or (missing := [name for name in names if name not in raw]):
            raise ValueError(f"expected an object with {names}" if not isinstance(raw, dict) else f"no {missing}")
        return cls(**{name: raw[name] for name in names})


def pack_frame(kind: bytes, payload: bytes = b"") -> bytes:
    """Return a frame: its kind (1 byte), the payload's length (4 bytes, little-endian), the payload."""
    return _FRAME_HEAD.pack(kind, len(payload)) + payload


def pack_steps(steps: Iterable[bytes]) -> bytes:
    """Return packed steps as the body of one request."""
    return b"".join(pack_frame(SCORES, step) for step in steps)


def unpack_frames(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and payload of every frame, however the bytes are cut into chunks.

    Raises:
        ValueError: If the bytes end inside a frame.
    """
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= _FRAME_HEAD.size:
            kind, length = _FRAME_HEAD.unpack_from(buffer)
            end = _FRAME_HEAD.size + length
            if len(buffer) < end:
                break
            payload = bytes(buffer[_FRAME_HEAD.size : end])
            del buffer[:end]
            yield kind, payload
    if buffer:
        raise ValueError(f"{len(buffer)} bytes of an unfinished frame at the end")
