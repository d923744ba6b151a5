"""Proof that an engine applies an adapter: its layers are in place, and scores move."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from transfergrid.engine.interfaces import Adapter, AdapterError
from transfergrid.engine.models.shapes import layer_name


def require_modules(adapter: Adapter, applied: Iterable[str]) -> None:
    """Check that the layers that carry an adapter in the engine are those its file has.

    Raises:
        AdapterError: If a layer is missing or unexpected.
    """
    found = {layer_name(name) for name in applied}
    if adapter.layers == found:
        return
    missing, unexpected = sorted(adapter.layers - found), sorted(found - adapter.layers)
    raise AdapterError(
        f"adapter {adapter.name!r} is not applied as saved: missing layers {missing[:3]} ({len(missing)}), unexpected "
        f"layers {unexpected[:3]} ({len(unexpected)}); check that it was trained on this base"
    )


def require_effect(adapter: Adapter, probe: npt.NDArray[np.float32], base: npt.NDArray[np.float32]) -> None:
    """Check that an adapter changes the scores of a probe unless its weights say that it changes nothing.

    Raises:
        AdapterError: If it changes none, or changes some without weights.
    """
    changed, is_null = not np.array_equal(probe, base), adapter.strength == 0
    if changed and is_null:
        raise AdapterError(
            f"adapter {adapter.name!r} changes the scores of a probe although A or B is zero in all its layers, so its "
            "weights are not applied as saved; report this as a bug"
        )
    if not changed and not is_null:
        raise AdapterError(
            f"adapter {adapter.name!r} is in place but changes no score of a probe: its weights are faint (scale x "
            f"|A| x |B| is {adapter.strength:.1e} at most), and its change is lost in the engine's rounding; score it "
            "with engine.dtype: float32, or train it further"
        )
