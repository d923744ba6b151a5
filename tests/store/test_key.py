"""What decides the numbers, and how a change is named."""

from __future__ import annotations

from transfergrid.store.key import RunKey, changed_parts

PARTS = {
    "model": {"revision": "a" * 40, "dtype": "float32"},
    "engine": {"way": "multi-lora"},
    "adapter": {"content": None},
}


def test_a_key_depends_on_every_part_and_on_the_items() -> None:
    keys = {
        RunKey(PARTS).digest("items"),
        RunKey(PARTS).digest("other items"),
        RunKey({**PARTS, "adapter": {"content": "x"}}).digest("items"),
        RunKey({**PARTS, "engine": {"way": "sequential"}}).digest("items"),
    }
    assert len(keys) == 4
    assert all(len(key) == 16 for key in keys)


def test_the_order_of_the_parts_does_not_matter() -> None:
    assert RunKey(dict(reversed(PARTS.items()))).digest("i") == RunKey(PARTS).digest("i")


def test_equal_parts_have_no_changes() -> None:
    assert changed_parts(PARTS, PARTS) == []


def test_a_change_is_named_with_both_values_shortened() -> None:
    other = {**PARTS, "model": {"revision": "b" * 40, "dtype": "bfloat16"}}
    assert changed_parts(PARTS, other) == [
        f"model.revision: '{'a' * 23}... -> '{'b' * 23}...",
        "model.dtype: 'float32' -> 'bfloat16'",
    ]


def test_a_part_that_is_new_or_gone_is_a_change() -> None:
    assert changed_parts({"a": {"x": 1}}, {"a": {}, "b": 2}) == ["a.x: 1 -> None", "a: None -> {}", "b: None -> 2"]


def test_the_way_alone_is_no_change() -> None:
    assert changed_parts(PARTS, {**PARTS, "engine": {"way": "sequential"}}) == []
