"""The configuration of an adapter beside sound weights."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import strategies as st

from tests.fuzz.adapters import BASE, CONFIG, WEIGHTS
from tests.fuzz.strategies import damaged_json
from transfergrid.engine.adapters.check import check_adapter
from transfergrid.engine.adapters.folder import CONFIG_FILE, WEIGHTS_FILE

_PIECES = ("a", "l", ".", "[^x]", r"\w", r"\d", "(", ")", "(?:", "(?=", "|", "*", "+", "?", "{1,9}", "{50}", r"\.", "q_proj", "$", r"\1")  # fmt: skip
_PATTERNS = st.lists(st.sampled_from(_PIECES), max_size=14).map("".join) | st.sampled_from(
    [r"(.*)*x", r"((\w|\.)+)+x", r"(\w+\.?)*x", r".*.*.*.*.*.*.*.*x", "(a?){50}a{50}", r"(.|\w|[^x])*x", "x" * 100_000]
)
_PLACES = (
    lambda pattern: {"target_modules": pattern},
    lambda pattern: {"exclude_modules": pattern},
    lambda pattern: {"layers_pattern": [pattern]},
    lambda pattern: {"rank_pattern": {pattern: 2}},
    lambda pattern: {"alpha_pattern": {pattern: 2}},
)
_WITH_PATTERN = st.builds(lambda place, pattern: {**CONFIG, **place(pattern)}, st.sampled_from(_PLACES), _PATTERNS)
CONTENTS = damaged_json(CONFIG) | _WITH_PATTERN.map(json.dumps).map(str.encode)


def read(content: bytes, folder: Path) -> None:
    (folder / CONFIG_FILE).write_bytes(content)
    (folder / WEIGHTS_FILE).write_bytes(WEIGHTS)
    check_adapter(folder, BASE, name="mine")
