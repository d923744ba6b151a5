"""The rows that lme4 fitted: CT-CL of nine models and 44 cells, made without any library's normal deviates."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl

N_MODELS, N_TASKS, N_LANGUAGES = 9, 4, 11


def golden_rows() -> pl.DataFrame:
    """Return 11,880 rows: model, source, target (codes) and y, from uniform random numbers."""
    generator = np.random.Generator(np.random.PCG64(20))
    cells = N_TASKS * N_LANGUAGES
    effects = [generator.random(size) - 0.5 for size in (N_MODELS, cells, cells)]
    model, source, target = (each.ravel() for each in np.indices((N_MODELS, cells, cells)))
    crossed = (source // N_LANGUAGES != target // N_LANGUAGES) & (source % N_LANGUAGES != target % N_LANGUAGES)
    model, source, target = model[crossed], source[crossed], target[crossed]
    noise = generator.random((len(model), 4)).sum(axis=1) - 2
    y = 0.8 + effects[0][model] + 1.5 * effects[1][source] + 5 * effects[2][target] + noise
    return pl.DataFrame({"model": model, "source": source, "target": target, "y": y})


if __name__ == "__main__":
    # R reads codes as factors only where they are text
    rows = golden_rows().with_columns(pl.format("l{}", name).alias(name) for name in ("model", "source", "target"))
    rows.write_csv(Path(sys.argv[1]), float_precision=17)
