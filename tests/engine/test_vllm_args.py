"""Pass-through arguments are a checked list, and the engine's version is guarded."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from transfergrid.engine.vllm_args import OWN_SETTINGS, PASSED_ARGUMENTS, check_vllm_args, check_vllm_version
from transfergrid.grid import UserError


def test_known_arguments_pass() -> None:
    arguments = {"seed": 3, "download_dir": "/models", "cpu_offload_gb": 1.5, "trust_remote_code": False}
    assert check_vllm_args(arguments) == arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"lod_format": "auto"},
            r"unknown engine.vllm_args entry 'lod_format'; expected some of \['attention_backend'",
        ),
        ({"max_model_len": 10}, "'max_model_len'; set engine.max_model_len instead"),
        ({"seed": "3"}, "engine.vllm_args.seed is '3'; expected int"),
        ({"seed": True}, "engine.vllm_args.seed is True; expected int"),
        ({"cpu_offload_gb": "1"}, "expected int or float"),
    ],
)
def test_other_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_vllm_args(arguments)


@pytest.mark.engine
def test_all_listed_arguments_are_vllms() -> None:
    from vllm.engine.arg_utils import EngineArgs

    known = {field.name for field in fields(EngineArgs)}
    assert PASSED_ARGUMENTS.keys() <= known
    assert OWN_SETTINGS.keys() <= known


def test_the_version_the_workers_were_written_for_passes() -> None:
    check_vllm_version("0.32.0")
    check_vllm_version("0.32.0+cu129")


@pytest.mark.parametrize("version", ["0.31.1", "0.32.1", "0.33.0rc1", "dev"])
def test_another_version_is_refused_with_a_sentence(version: str) -> None:
    with pytest.raises(UserError, match=f"vLLM '{version}' is installed, but .* written for '0.32.0'"):
        check_vllm_version(version)
