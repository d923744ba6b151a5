"""Proof that an engine applies an adapter: its layers are in place, and scores move."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from transfergrid.engine.adapters.folder import MODULE_KEY, WEIGHTS_FILE
from transfergrid.engine.interfaces import Adapter, AdapterError
from transfergrid.engine.models.shapes import layer_name


def adapter_modules(adapter: Adapter) -> frozenset[str]:
    """Return the linear layers that an adapter's file has non-zero A for, named from ``layers.`` on."""
    return _nonzero_layers(adapter, "A")


def is_null_adapter(adapter: Adapter) -> bool:
    """Whether every B of an adapter is zero, so that it must score exactly as the base."""
    return not _nonzero_layers(adapter, "B")


def require_modules(adapter: Adapter, applied: Iterable[str]) -> None:
    """Check that the layers that carry an adapter in the engine are those its file has.

    Args:
        adapter: The adapter.
        applied: Layers with non-zero weights in the adapter's slot.

    Raises:
        AdapterError: If a layer is missing or unexpected.
    """
    expected, found = adapter_modules(adapter), {layer_name(name) for name in applied}
    if expected == found:
        return
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    raise AdapterError(
        f"adapter {adapter.name!r} is not applied as saved: missing layers {missing[:3]} ({len(missing)}), unexpected "
        f"layers {unexpected[:3]} ({len(unexpected)}); check that it was trained on this base"
    )


def _nonzero_layers(adapter: Adapter, side: str) -> frozenset[str]:
    """Return the layers whose A or B is not all zero in an adapter's file."""
    from safetensors import safe_open

    found = set()
    with safe_open(adapter.path / WEIGHTS_FILE, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            match = MODULE_KEY.fullmatch(key)
            if match and match["side"] == side and bool(file.get_tensor(key).any()):
                found.add(layer_name(match["module"]))
    return frozenset(found)


def require_effect(adapter: Adapter, probe: npt.NDArray[np.float32], base: npt.NDArray[np.float32]) -> None:
    """See that an adapter changes the scores of a probe unless every B of it is zero.

    Args:
        adapter: The adapter.
        probe: Log-probabilities of the probe under it.
        base: Log-probabilities of the probe under the base.

    Raises:
        AdapterError: If it changes none, or changes some without weights.
    """
    changed = not np.array_equal(probe, base)
    if changed == is_null_adapter(adapter):
        raise AdapterError(
            f"adapter {adapter.name!r} {'changes' if changed else 'does not change'} the scores of a probe, so "
            "its weights are not applied as saved; save it again, or report this as a bug"
        )
