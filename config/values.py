"""What settings are made of: numbers, paths and names that are checked the same way everywhere."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)

MAX_LORA_RANK = 512
"""Largest LoRA rank that vLLM serves (largest value its ``max_lora_rank`` takes)."""
TEMPLATE_DATE = datetime.date(2024, 7, 26)
"""The day that a chat template with a clock sees unless ``prompts.date`` says another."""
MAX_NAME_BYTES = 255
"""Longest name of one file or folder that Linux takes."""
MAX_PATH_BYTES = 4095
"""Longest path that Linux takes."""
MAX_MODEL_NAME_BYTES = 128
"""Longest name of a model: files of scores are named by model, seed and source."""


def _refuse_truth(value: Any) -> Any:
    """Refuse ``true`` and ``false`` as numbers: Python counts them as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number, not {str(value).lower()}")
    return value


def _auto_or_positive(value: Any) -> Any:
    """Take ``auto`` and whole numbers from 1 on."""
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError(f"expected 'auto' or a whole number of at least 1, not {value!r}")


def usable_path(path: str) -> str:
    """Return a path that the file system can take.

    Raises:
        ValueError: If it holds a null character or half a character, or is too long.
    """
    shown = path if len(path) <= 40 else f"{path[:40]}..."
    try:
        encoded = path.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{shown!r} holds half a character (a lone surrogate); write the path anew") from error
    if b"\0" in encoded:
        raise ValueError(f"{shown!r} holds a null character; no path can")
    longest = max(map(len, encoded.split(b"/")))
    if longest > MAX_NAME_BYTES or len(encoded) > MAX_PATH_BYTES:
        raise ValueError(
            f"{shown!r} is a path of {len(encoded)} bytes with a name of {longest}; expected at most "
            f"{MAX_PATH_BYTES} bytes, and {MAX_NAME_BYTES} for each name in it"
        )
    return path


def _usable_path(path: Path) -> Path:
    return Path(usable_path(str(path)))


NUMBER = BeforeValidator(_refuse_truth)
"""Goes with the bounds of every setting that is a number."""
PositiveInt = Annotated[int, Field(ge=1), NUMBER]
PositiveFloat = Annotated[float, Field(gt=0), NUMBER]
AutoOrPositive = Annotated[
    Literal["auto"] | int,
    PlainValidator(_auto_or_positive),
    WithJsonSchema({"anyOf": [{"enum": ["auto"]}, {"type": "integer", "minimum": 1}]}),
]
Fraction = Annotated[float, Field(gt=0, lt=1), NUMBER]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), NUMBER]
"""What every generator of random numbers takes, NumPy's old one too."""
LocalPath = Annotated[Path, AfterValidator(_usable_path)]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Name = TypeVar("Name", str, int)


class Section(BaseModel):
    """A part of the configuration: frozen, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class AsGiven(Section):
    """A part that is written as it was given: read again, a default that is written out would count as given."""

    @model_serializer(mode="wrap")
    def _as_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in dump(self).items() if name in self.model_fields_set}


def usable_name(name: str) -> str:
    """Return a model's name if a folder can have it.

    Raises:
        ValueError: If it is empty, hidden or too long, or holds other characters.
    """
    if len(name.encode(errors="replace")) > MAX_MODEL_NAME_BYTES:
        raise ValueError(
            f"{f'{name[:40]}...'!r} is longer than {MAX_MODEL_NAME_BYTES} bytes; give the model another 'name'"
        )
    if not name or name.startswith(".") or not all(char.isalnum() or char in "._-" for char in name):
        raise ValueError(
            f"{name!r} cannot name a folder; expected letters, digits, '.', '_' and '-' only, not '.' first; "
            "give the model another 'name'"
        )
    return name


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; a path that the file system refuses is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def refuse_repeated(values: tuple[Name, ...], faults: list[str]) -> tuple[Name, ...]:
    """Return the values, or raise one error that names all faults and repeated values."""
    repeated = [
        f"{value!r} stands there twice; name each once" for value in dict.fromkeys(values) if values.count(value) > 1
    ]
    if faults or repeated:
        raise ValueError("; ".join(faults + repeated))
    return values


UsablePath = Annotated[str, AfterValidator(usable_path)]
UsableName = Annotated[str, AfterValidator(usable_name)]
