"""Adapters are found at any depth, and files that are missing or broken are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE, find_adapters
from transfergrid.engine.interfaces import AdapterError


def test_adapters_are_found_at_any_depth(tiny_adapters: tuple[Path, ...]) -> None:
    assert find_adapters(tiny_adapters[0].parent) == tuple(sorted(tiny_adapters))
    assert find_adapters(tiny_adapters[0]) == (tiny_adapters[0],)


def test_folder_without_adapters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="no adapter under"):
        find_adapters(tmp_path)


def test_missing_weights_are_refused(adapter_folder: Path, base: dict[str, tuple[int, int]]) -> None:
    (adapter_folder / WEIGHTS_FILE).unlink()
    with pytest.raises(AdapterError, match=f"'mine' has no {WEIGHTS_FILE}"):
        check_adapter(adapter_folder, base, name="mine")


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", "[" * 200_000, '{"lora_alpha": 1' + "0" * 400 + "}", '{"r": 8, "r": 4}', '{"r": ' + "9" * 5000 + "}"],
)
def test_broken_configuration_is_refused(adapter_folder: Path, base: dict[str, tuple[int, int]], text: str) -> None:
    (adapter_folder / CONFIG_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(AdapterError, match=f"{CONFIG_FILE} in .* cannot be read: .*; save it again"):
        check_adapter(adapter_folder, base, name="mine")


def test_weights_of_another_library_are_named(adapter_folder: Path, base: dict[str, tuple[int, int]]) -> None:
    (adapter_folder / WEIGHTS_FILE).rename(adapter_folder / "adapter_model.bin")
    with pytest.raises(
        AdapterError, match=r"has no .*; it has 'adapter_model\.bin', which 'grid convert-adapter' reads"
    ):
        check_adapter(adapter_folder, base, name="mine")
