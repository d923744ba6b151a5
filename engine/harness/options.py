"""Options of the harness' own command line that pass through ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transfergrid.benchmarks.harness.index import require_harness
from transfergrid.grid import UserError

_OURS = {
    "tasks": "give --tasks before '--'",
    "output_path": "give --output_path before '--'",
    "model": "give --model before '--'",
    "model_args": "name the model with --model and set the rest in the section engine of the configuration",
    "batch_size": "the engine fills its steps itself",
    "max_batch_size": "the engine fills its steps itself",
    "device": "the engine takes the device that vLLM was built for",
    "use_cache": "its file does not tell adapters apart",
    "cache_requests": "its file does not tell changed data apart",
    "config": "give the options themselves",
    "check_integrity": "it runs the harness' own tests",
    "write_out": "the samples file holds every prompt",
    "show_config": "the results file holds the settings",
    "wandb_args": "the results files can be logged afterwards",
    "wandb_config_args": "the results files can be logged afterwards",
    "trackio_args": "the results files can be logged afterwards",
    "hf_hub_log_args": "the results files can be uploaded afterwards",
    "trust_remote_code": "give --allow-remote-code before '--' for a model; data sets bring no code any more",
}
"""Options that are refused, and what to do instead."""
_ALWAYS = ("log_samples",)
_SEEDS = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
_PASSED = (
    "num_fewshot",
    "limit",
    "samples",
    "system_instruction",
    "apply_chat_template",
    "fewshot_as_multiturn",
    "gen_kwargs",
    "predict_only",
    "confirm_run_unsafe_code",
    "metadata",
)
"""Settings that ``simple_evaluate`` gets as they are."""


@dataclass(frozen=True, slots=True)
class HarnessSettings:
    """What the harness is told for every source."""

    evaluate: Mapping[str, Any]
    """Keyword arguments of ``lm_eval.simple_evaluate``."""
    include_path: Path | None

    @property
    def chat_template(self) -> bool:
        """Whether prompts are put into the chat template."""
        return bool(self.evaluate["apply_chat_template"])


def parse_settings(arguments: Sequence[str], *, num_fewshot: int | None) -> HarnessSettings:
    """Read what stands after ``--`` with the harness' own parser.

    Args:
        arguments: For example ``["--apply_chat_template", "--limit", "10"]``.
        num_fewshot: Examples in every prompt; None leaves it to the task.

    Raises:
        UserError: If the harness refuses an option, or it is one that cannot pass through.
    """
    require_harness()
    from lm_eval._cli.harness import HarnessCLI
    from lm_eval.config.evaluate_config import EvaluatorConfig

    cli = HarnessCLI()
    parser = cli._subparsers.choices["run"]
    parser.error = _refuse
    given = vars(parser.parse_args(list(arguments)))
    for name, instead in _OURS.items():
        if given.get(name) not in (None, False):
            raise UserError(f"--{name} cannot pass through to lm-evaluation-harness: {instead}")
    if num_fewshot is not None:
        given["num_fewshot"] = num_fewshot
    passed = {name: value for name, value in given.items() if name not in (*_OURS, *_ALWAYS, "func")}
    passed["output_path"] = "."  # the harness asks whether there is one; files go to ours
    try:
        config = EvaluatorConfig.from_cli(_Namespace(passed))
    except (ValueError, TypeError) as error:
        raise UserError(f"lm-evaluation-harness refuses its options: {error}") from error
    evaluate = {name: getattr(config, name) for name in _PASSED}
    evaluate["fewshot_as_multiturn"] = bool(config.fewshot_as_multiturn)
    seeds = config.seed or [None] * len(_SEEDS)
    path = None if config.include_path is None else Path(config.include_path)
    return HarnessSettings({**evaluate, **dict(zip(_SEEDS, seeds, strict=True))}, path)


class _Namespace:
    """Parsed options as the harness reads them, by attribute."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.__dict__.update(options)


def _refuse(message: str) -> None:
    raise UserError(f"lm-evaluation-harness refuses its options: {message}; 'lm-eval run --help' lists them")
