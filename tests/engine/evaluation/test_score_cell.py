"""What a cell's record counts."""

from __future__ import annotations

from pathlib import Path

from tests.engine.fake_scorer import FakeScorer
from tests.engine.tokenizers import gemma_style
from transfergrid.benchmarks.items import Item
from transfergrid.engine.evaluation.score_cell import CellScorer
from transfergrid.engine.models.tokenizer import TokenisationSettings
from transfergrid.engine.work.cells import CellItems, tokenise_cells
from transfergrid.grid import BASE, Cell
from transfergrid.store.counts import sum_counts
from transfergrid.store.key import RunKey
from transfergrid.store.score_store import Origin, ScoreStore

_CELL = Cell("arc_challenge", "en")


def test_a_cell_counts_what_happened_to_its_items_and_the_store_keeps_it(tmp_path: Path) -> None:
    choices = {"shifted": ("s x", " x"), "apart": ("s", " x"), "long": ("xyz", "x" * 90), "plain": (" a", " b")}
    items = [
        Item(item_id=name, context="a teacher", choices=texts, gold=0, delimiter="") for name, texts in choices.items()
    ]
    items.append(Item(item_id="cut", context="b" * 70, choices=(" a", " b"), gold=0, delimiter=""))
    settings = TokenisationSettings(max_length=64, truncation="left")
    targets = tokenise_cells([CellItems(_CELL, tuple(items), "acc", "hash")], gemma_style(), settings)
    scorer = FakeScorer(function=lambda item, choice, adapter: -1.0 if item.item_id == "plain" else -1.0 - choice)
    origin, key = Origin("tiny", BASE), RunKey({})
    scored = CellScorer(scorer, targets, lambda event: None, "a GPU").score(origin, None, key, _CELL)
    expected = {"n_unscored": 1, "n_tied": 1, "n_truncated": 1, "n_not_prefix": 1, "n_encoded_apart": 1}
    store = ScoreStore(tmp_path)
    store.write(origin, key.parts, [scored.record], scored.make_rows())
    (part,) = store.scan().parts
    assert {name: getattr(part.cells[0], name) for name in expected} == expected
    assert part.cells[0].device == "a GPU"
    assert sum_counts([{"n_unscored": 2}]) == {**dict.fromkeys(expected, 0), "n_unscored": 2}, "an older record"
