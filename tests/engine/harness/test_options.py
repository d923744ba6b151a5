"""Options that pass through to the harness, and those that cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from transfergrid.engine.harness.options import parse_settings
from transfergrid.grid import UserError


def test_options_reach_the_harness_as_its_own_command_line_reads_them() -> None:
    given = ["--apply_chat_template", "--limit", "0.5", "--seed", "7", "--include_path", "mine", "--predict_only"]
    given += ["--system_instruction", "Be brief.", "--gen_kwargs", "max_gen_toks=5"]
    settings = parse_settings(given, num_fewshot=3)
    assert settings.include_path == Path("mine")
    assert settings.chat_template
    expected = {"apply_chat_template": True, "fewshot_as_multiturn": True, "limit": 0.5, "num_fewshot": 3}
    expected |= {"random_seed": 7, "fewshot_random_seed": 7, "predict_only": True, "gen_kwargs": {"max_gen_toks": 5}}
    assert {name: settings.evaluate[name] for name in expected} == expected


def test_without_options_the_settings_are_those_of_the_harness() -> None:
    settings = parse_settings([], num_fewshot=None)
    seeds = {"random_seed": 0, "numpy_random_seed": 1234, "torch_random_seed": 1234, "fewshot_random_seed": 1234}
    assert seeds.items() <= settings.evaluate.items()
    assert (settings.evaluate["num_fewshot"], settings.evaluate["limit"], settings.chat_template) == (None, None, False)
    assert parse_settings([], num_fewshot=0).evaluate["num_fewshot"] == 0


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--model", "hf"], "--model cannot pass through to lm-evaluation-harness: give --model before '--'"),
        (["--use_cache", "file"], "--use_cache cannot pass through .* does not tell adapters apart"),
        (["--tasks", "xnli_sw"], "give --tasks before '--'"),
        (["--cache_requests"], "--cache_requests cannot pass through"),
        (["--nonsense"], "lm-evaluation-harness refuses its options: unrecognized arguments: --nonsense"),
        (["--limit", "many"], "refuses its options: argument --limit/-L: invalid float value: 'many'"),
        (["--fewshot_as_multiturn", "true"], "refuses its options: When `fewshot_as_multiturn` is True"),
    ],
)
def test_an_option_that_cannot_pass_through_is_refused(given: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        parse_settings(given, num_fewshot=None)
