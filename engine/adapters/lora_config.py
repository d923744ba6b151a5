"""What adapter_config.json says of a LoRA, by peft's rules: its layers, and the rank and scale of each."""

from __future__ import annotations

import math
import re
import re._parser as sre_parser  # type: ignore[import-not-found]
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transfergrid.engine.interfaces import AdapterError

SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Slot sizes that vLLM 0.32 has (``vllm/config/lora.py``); an adapter takes the next larger one."""

# What vLLM 0.32 does not serve (vllm/lora/peft_helper.py) or does not read, as peft's configuration says it
_UNSERVED = (
    ("use_dora", "uses DoRA"),
    ("lora_bias", "has biases in its LoRA layers"),
    ("modules_to_save", "saves whole modules"),
    ("alora_invocation_tokens", "is an activated LoRA"),
    ("layer_replication", "replicates layers"),
    ("use_bdlora", "is block-diagonal"),
    ("use_qalora", "uses QALoRA"),
    ("trainable_token_indices", "trains tokens of the vocabulary"),
    ("target_parameters", "adapts bare parameters, as of experts"),
    ("kasa_config", "uses KaSA"),
    ("arrow_config", "routes between adapters"),
    ("monteclora_config", "uses MonteCLoRA"),
)
_NOT_MERGED = ("alora_invocation_tokens", "arrow_config")
# Ways to start A and B that leave the base as it is (peft_helper.py); any other changes it
_PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga", "true", "false")
PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT")
"""Types of peft that change the prompt, not the weights."""
_LONGEST_PATTERN = 10_000
_NAME_LENGTH, _MOST_WAY_BITS = 63, 28  # four stars and some choices; 24 layers take a second at most
SEQUENTIAL = "'grid eval --sequential' scores it if peft can merge it"


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The part of peft's configuration that decides what a layer adds."""

    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_modules: Sequence[str] | str
    exclude_modules: Sequence[str] | str
    layers_to_transform: Sequence[int]
    layers_pattern: Sequence[str]

    @property
    def max_rank(self) -> int:
        """The largest rank of any layer."""
        return max([self.rank, *self.rank_pattern.values()])

    def rank_of(self, module: str) -> int:
        """Return a layer's rank; ``module`` is its name in the base."""
        return int(_by_pattern(self.rank_pattern, module, self.rank))

    def scale_of(self, module: str) -> float:
        """Return what B A is multiplied by in a layer: alpha / r, with rslora alpha / sqrt(r)."""
        rank = self.rank_of(module)
        alpha = float(_by_pattern(self.alpha_pattern, module, self.alpha))
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def is_target(self, module: str) -> bool:
        """Whether peft gives a linear layer an adapter.

        Source:
            check_target_module_exists in peft 0.21.2, peft/tuners/tuners_utils.py.
        """
        if _names(self.exclude_modules, module):
            return False
        if isinstance(self.target_modules, str):
            return self.target_modules.lower() == "all-linear" or _names(self.target_modules, module)
        if module in self.target_modules:
            return True
        return _names(self.target_modules, module) and self._is_chosen_layer(module)

    def _is_chosen_layer(self, module: str) -> bool:
        """Whether ``layers_to_transform`` names the layer; the first number in the name counts."""
        if not self.layers_to_transform:
            return True
        for pattern in list(map(_indexed, self.layers_pattern)) or [r".*?\.[^.]*\.(?P<idx>\d+)\."]:
            if (match := re.match(pattern, module)) and match["idx"]:
                return int(match["idx"]) in self.layers_to_transform
        return False


def read_lora_config(raw: Mapping[str, Any], name: str) -> LoraConfig:
    """Return what an adapter's configuration says.

    Raises:
        AdapterError: If vLLM does not serve such an adapter, or a value is not of the kind peft expects.
    """
    _refuse_unserved(raw, name)
    try:
        config = LoraConfig(
            rank=_rank(raw, "r"),
            alpha=_alpha(raw, "lora_alpha"),
            use_rslora=_flag(raw, "use_rslora"),
            rank_pattern=_pattern(raw, "rank_pattern", _rank),
            alpha_pattern=_pattern(raw, "alpha_pattern", _alpha),
            target_modules=_texts(raw, "target_modules"),
            exclude_modules=_texts(raw, "exclude_modules", or_none=True),
            layers_to_transform=_layers(raw, "layers_to_transform"),
            layers_pattern=_listed(_texts(raw, "layers_pattern", or_none=True)),
        )
        for pattern in _expressions(config):
            _require_quick(pattern)
    except ValueError as error:
        raise AdapterError(f"adapter {name!r} has {error}") from error
    except (re.error, RecursionError) as error:
        raise AdapterError(f"adapter {name!r} has a pattern that is no regular expression: {error}") from error
    return config


def _refuse_unserved(raw: Mapping[str, Any], name: str) -> None:
    """Refuse what vLLM would refuse later, or worse, ignore."""
    if raw.get("peft_type") != "LORA":
        raise AdapterError(f"adapter {name!r} is of type {raw.get('peft_type')!r}; expected 'LORA'; {_other(raw)}")
    for key, what in _UNSERVED:
        if raw.get(key):
            way_out = "train a plain LoRA" if key in _NOT_MERGED else SEQUENTIAL
            raise AdapterError(f"adapter {name!r} {what} ({key}={raw[key]!r:.60}), which is not served; {way_out}")
    if raw.get("bias", "none") not in ("none", None):
        raise AdapterError(f"adapter {name!r} trains biases (bias={raw['bias']!r:.60}), not served; {SEQUENTIAL}")
    init = raw.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _PLAIN_INITS:
        raise AdapterError(
            f"adapter {name!r} was started with init_lora_weights={init!r:.60}, which changes the base's weights; "
            "'grid convert-adapter' turns it into a plain LoRA (PiSSA and OLoRA, given the base)"
        )


def _other(raw: Mapping[str, Any]) -> str:
    """Return the way out for an adapter that is no LoRA of peft."""
    kind = raw.get("peft_type")
    if kind is None:
        return "if another library wrote it (mlx, torchtune), 'grid convert-adapter' turns it into peft's format"
    return "it changes no weights, so train a LoRA" if str(kind).upper() in PROMPTS else SEQUENTIAL


def _rank(raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= SERVED_RANKS[-1]:
        raise ValueError(f"{key}={value!r:.60}; expected a whole number from 1 to {SERVED_RANKS[-1]}, as vLLM serves")
    return value


def _alpha(raw: Mapping[str, Any], key: str) -> float:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value == 0:
        raise ValueError(f"{key}={value!r:.60}; expected a number, not 0")
    return value


def _flag(raw: Mapping[str, Any], key: str) -> bool:
    value = raw.get(key, False)
    if value not in (True, False, None):
        raise ValueError(f"{key}={value!r:.60}; expected true or false")
    return bool(value)


def _pattern(raw: Mapping[str, Any], key: str, read: Any) -> dict[str, Any]:
    value = raw.get(key) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{key}={value!r:.60}; expected names of layers with a number each")
    try:
        return {pattern: read(value, pattern) for pattern in value}
    except ValueError as error:
        raise ValueError(f"in {key} {error}") from error


def _texts(raw: Mapping[str, Any], key: str, *, or_none: bool = False) -> Sequence[str] | str:
    value = raw.get(key)
    if or_none and value is None:
        return ()
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(entry, str) for entry in value)):
        return value if isinstance(value, str) else tuple(value)
    raise ValueError(f"{key}={value!r:.60}; expected a list of names of layers, or a regular expression")


def _layers(raw: Mapping[str, Any], key: str) -> tuple[int, ...]:
    value = raw.get(key)
    layers = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in layers):
        raise ValueError(f"{key}={value!r:.60}; expected numbers of layers")
    return tuple(layers)


def _listed(texts: Sequence[str] | str) -> Sequence[str]:
    return ([texts] if texts else []) if isinstance(texts, str) else texts


def _indexed(pattern: str) -> str:
    """Return the expression that finds the number of a layer behind one of ``layers_pattern``."""
    return rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\."


def _ending_in(pattern: str) -> str:
    """Return the expression that finds a layer by the end of its name (peft/utils/other.py, ``get_pattern_key``)."""
    return rf"(.*\.)?({pattern})$"


def _expressions(config: LoraConfig) -> list[str]:
    """Return all regular expressions that a configuration's values are matched in."""
    alone = [entry for entry in (config.target_modules, config.exclude_modules) if isinstance(entry, str)]
    by_name = map(_ending_in, [*config.rank_pattern, *config.alpha_pattern])
    return [*alone, *map(_indexed, config.layers_pattern), *by_name]


def _require_quick(pattern: str) -> None:
    """Check that an expression is valid and matches or fails quickly.

    Raises:
        ValueError: If it is too long, or has so many ways to match that Python's ``re`` may try them for ever.
        re.error: If it is not valid.
    """
    if len(pattern) > _LONGEST_PATTERN or _way_bits(sre_parser.parse(pattern)) > _MOST_WAY_BITS:
        raise ValueError(
            f"a pattern that may take for ever to match ({pattern!r:.60}); expected names of layers, or a pattern with "
            "at most four of '*' and '+' and none inside another"
        )
    re.compile(pattern)


def _way_bits(parsed: Iterable[tuple[Any, Any]]) -> float:
    """Return the binary logarithm of the ways in which an expression can match a name, roughly; endless is infinite."""
    bits = 0.0
    for kind, value in parsed:
        name = str(kind)
        if name.endswith("_REPEAT"):
            least, most, body = value
            inside = _way_bits(body)
            bits += math.inf if inside and most > 1 else inside + math.log2(min(most - least, _NAME_LENGTH) + 1)
        elif name == "BRANCH":
            n_open = sum(not (branch and str(branch[0][0]) == "LITERAL") for branch in value[1])
            bits += math.log2(n_open + 1) + max(map(_way_bits, value[1]))
        elif isinstance(value, tuple):  # groups and looks around
            bits += sum(_way_bits(part) for part in value if isinstance(part, sre_parser.SubPattern))
        elif isinstance(value, sre_parser.SubPattern):
            bits += _way_bits(value)
    return bits


def _names(names: Sequence[str] | str, module: str) -> bool:
    """Whether a list of names, or a regular expression, names a layer."""
    if isinstance(names, str):
        return bool(names) and re.fullmatch(names, module) is not None
    return module in names or any(module.endswith(f".{name}") for name in names)


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """Return the value of the first pattern that a layer's name ends in."""
    return next((value for key, value in patterns.items() if re.match(_ending_in(key), module)), default)
