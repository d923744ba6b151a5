"""Adapters in peft's folder format: checked against the base and what vLLM serves, named by their content."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from transfergrid.engine.adapters.folder import read_adapter
from transfergrid.engine.adapters.full import check_full, is_full, refuse_full
from transfergrid.engine.adapters.lora_config import SEQUENTIAL, SERVED_RANKS, LoraConfig, read_lora_config
from transfergrid.engine.adapters.weights import WeightsFile
from transfergrid.engine.interfaces import Adapter, AdapterError
from transfergrid.engine.models.shapes import LinearShapes, layer_name

_CONVERTED = "'grid convert-adapter' turns it into peft's format"
_MODULE_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<module>(?:model\.|model\.language_model\.|language_model\.model\.)layers\.\d+\..+)"
    r"\.lora_(?P<side>[AB])\.weight"
)
# What else a file may hold, by the end of a key, and the way out
_OTHER_KEYS = (
    (r".*(lora_embedding_[AB]|token_adapter.*|lora_magnitude_vector|base_layer\.weight)", SEQUENTIAL),
    (r".*(lm_head|embed_tokens)\b.*", SEQUENTIAL),
    (r".*\.experts(\.base_layer)?\.lora_[AB]\.weight", SEQUENTIAL),
    (r"(?!.*\blayers\.\d+\.).*\.lora_[ABab]\b.*", "it belongs to a base of another build, such as GPT-2"),
    (r".*\.lora_[AB]\.[^.]+\.weight", _CONVERTED),  # the adapter's name left in
    (r".*\.lora_[ab](\.weight)?", _CONVERTED),  # mlx, torchtune
    (r".*\.lora_[AB]\.weight", _CONVERTED),  # another prefix
)


def check_adapters(adapters: Mapping[str, Path], base: LinearShapes) -> dict[str, Adapter]:
    """Check all adapters before anything is loaded.

    Raises:
        AdapterError: If any cannot be served; lists every fault.
    """
    checked, faults = {}, []
    for name, folder in adapters.items():
        try:
            checked[name] = check_adapter(folder, base, name=name)
        except AdapterError as error:
            faults.append(str(error))
    if faults:
        raise AdapterError("\n".join(faults))
    return checked


def check_adapter(folder: Path, base: LinearShapes, *, name: str, takes_full: bool = False) -> Adapter:
    """Check one adapter; reads its files once.

    ``name`` is the readable part of its unique name; ``takes_full``: it may be a full fine-tune.

    Raises:
        AdapterError: If files are missing or broken, vLLM cannot serve what it holds, its weights are not those its
            configuration names, or it belongs to another base.
    """
    found = read_adapter(folder, name)
    if takes_full and is_full(found.config):
        return check_full(found, folder, base, name=name)
    refuse_full(found.config, name)
    config = read_lora_config(found.config, name)
    pairs = _pair_sides(found.weights, base, name)
    strengths = [_check_layer(module, pair, found.weights, (config, base, name)) for module, pair in pairs.items()]
    return Adapter(
        name=f"{name}@{found.content_hash[:12]}",
        path=folder,
        content_hash=found.content_hash,
        rank=config.max_rank,
        layers=frozenset(layer_name(module) for module, pair in pairs.items() if found.weights.largest[pair["A"]]),
        strength=max(strengths),
    )


def served_rank(rank: int) -> int:
    """Return the smallest slot size that vLLM has for a rank.

    Raises:
        AdapterError: If the rank is above vLLM's list.
    """
    for served in SERVED_RANKS:
        if rank <= served:
            return served
    raise AdapterError(f"rank {rank} is above what vLLM serves; expected at most {SERVED_RANKS[-1]}")


def _pair_sides(weights: WeightsFile, base: LinearShapes, name: str) -> dict[str, dict[str, str]]:
    """Return the keys of A and B by the layer's name in the base."""
    pairs: dict[str, dict[str, str]] = {}
    for key in weights.shapes:
        match = _MODULE_KEY.fullmatch(key)
        if not match or re.fullmatch(_OTHER_KEYS[2][0], key):
            way_out = next((way for pattern, way in _OTHER_KEYS if re.fullmatch(pattern, key)), "save it with peft")
            example = f"base_model.model.model.{next(iter(base))}.lora_A.weight"
            raise AdapterError(f"adapter {name!r} holds {key!r:.200}; expected keys such as {example!r}; {way_out}")
        sides = pairs.setdefault(match["module"], {})
        if sides.setdefault(match["side"], key) != key:
            raise AdapterError(
                f"adapter {name!r} holds {match['module']!r} twice: {sides[match['side']]!r} and {key!r}; remove one"
            )
    if not pairs:
        raise AdapterError(f"adapter {name!r} holds no weights; save it again")
    return pairs


def _check_layer(
    module: str, pair: Mapping[str, str], weights: WeightsFile, against: tuple[LoraConfig, LinearShapes, str]
) -> float:
    """Check one layer against the configuration and the base; return scale x |A| x |B|."""
    config, base, name = against
    if len(pair) != 2:
        raise AdapterError(f"adapter {name!r} holds {min(pair.values())!r} without its other half; save it again")
    if not config.is_target(module):
        raise AdapterError(
            f"adapter {name!r} holds {module!r}, which its configuration leaves out (target_modules="
            f"{config.target_modules!r:.200}), so that peft would drop it; correct adapter_config.json, or save "
            "it again"
        )
    a, b = (weights.shapes[pair[side]] for side in "AB")
    if len(a) != 2 or len(b) != 2:
        raise AdapterError(f"adapter {name!r}: A and B of {module!r} have the shapes {a} and {b}; expected matrices")
    rank = config.rank_of(module)
    if (a[0], b[1]) != (rank, rank):
        raise AdapterError(
            f"adapter {name!r}: A of {module!r} has {a[0]} rows and B {b[1]} columns, and its configuration says rank "
            f"{rank}; correct r or rank_pattern in adapter_config.json, or save it again"
        )
    here = base.get(layer_name(module))
    if here != (b[0], a[1]):
        raise AdapterError(
            f"adapter {name!r} does not fit this base: {module!r} is {(b[0], a[1])} there and {here} here; score it "
            "with the base it was trained on"
        )
    return abs(config.scale_of(module)) * weights.largest[pair["A"]] * weights.largest[pair["B"]]
