"""How failures are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from transfergrid.engine.work.failures import Failure, describe_failures, read_failures
from transfergrid.grid import UserError


def missing(seed: int, *sources: str) -> list[Failure]:
    return [Failure(model="m", seed=seed, source=source, reason="not there") for source in sources]


def test_sources_that_failed_alike_share_a_line_where_they_are_many() -> None:
    few, many = missing(17, "a-de", "a-en", "a-es"), missing(42, "a-de", "a-en", "a-es", "a-fr")
    assert describe_failures([*few, *many]) == [
        "failed: m s17 a-de: not there",
        "failed: m s17 a-en: not there",
        "failed: m s17 a-es: not there",
        "failed: m s42, 4 sources (a-de, a-en, a-es, ...): not there",
    ]


def test_models_and_single_targets_are_told_one_by_one() -> None:
    models = [Failure(model=name, reason="no such file") for name in "abcd"]
    cells = [
        Failure(model="m", seed=1, source="a-de", target=f"b-{lang}", reason="r") for lang in ("de", "en", "es", "fr")
    ]
    assert describe_failures([*models, *cells]) == [
        *(f"failed: {name}: no such file" for name in "abcd"),
        *(f"failed: m s1 a-de on b-{lang}: r" for lang in ("de", "en", "es", "fr")),
    ]


@pytest.mark.parametrize(
    "content", [b"{", b"{}x", b"3", b"[1]", b'[{"model": "m"}]', b'[{"model": 1, "reason": "r"}]', b"\xff"]
)
def test_a_damaged_list_of_failures_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "failures.json").write_bytes(content)
    with pytest.raises(UserError, match=r"failures.json' cannot be read: .*; remove it, what it lists is tried again"):
        read_failures(tmp_path)


def test_a_folder_in_place_of_the_list_of_failures_is_one_sentence(tmp_path: Path) -> None:
    assert read_failures(tmp_path) == []
    (tmp_path / "failures.json").mkdir()
    with pytest.raises(UserError, match=r"failures.json' cannot be read: Is a directory; remove it"):
        read_failures(tmp_path)
