"""Parts of the results store: written whole, found by their footers, set aside when they are not whole."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from transfergrid.analysis.transfer.adaptive import read_cells
from transfergrid.grid import BASE, Cell, Source, UserError
from transfergrid.store import file_index, score_store
from transfergrid.store.score_store import CellRecord, Origin, Part, ScoreStore, StoreError, unwritable
from transfergrid.store.score_writer import ScoredCell, StoreWriter
from transfergrid.store.scores import SCORE_SCHEMA, source_columns

DE = Cell("arc_challenge", "de")
EN = Cell("arc_challenge", "en")
ORIGIN = Origin("tiny-1.5", Source.of(DE, 17))
BASE_ORIGIN = Origin("tiny-1.5", BASE)
KEY_PARTS = {"model": {"revision": "abc"}}


def record(target: Cell, n_items: int = 2, **changes: Any) -> CellRecord:
    values = {"n_unscored": 0, "n_to_retry": 0, "wall_s": 0.5, "n_computed_tokens": 10, "n_repeated_tokens": 30}
    names = {"target": target.name, "run_key": "k", "items_hash": "h", "n_items": n_items}
    return CellRecord(**{**names, **values, **changes})


def rows(origin: Origin, target: Cell, n_items: int = 2) -> pl.DataFrame:
    shared = {
        "model": origin.model,
        "seed": origin.seed,
        **source_columns(origin.source),
        "target_task": target.task,
        "target_language": target.language,
        "gold": 0,
        "pred": 1,
        "pred_norm": 0,
        "loglikelihoods_nats": [-2.0, -1.0],
        "choice_chars": [3, 1],
        "n_truncated_tokens": 0,
        "primary_metric": "acc",
        "run_key": "k",
    }
    return pl.DataFrame([{**shared, "item_id": str(number)} for number in range(n_items)], schema=SCORE_SCHEMA)


def write(store: ScoreStore, origin: Origin, *targets: Cell) -> Part:
    frame = pl.concat([rows(origin, target) for target in targets])
    return store.write(origin, KEY_PARTS, [record(target) for target in targets], frame)


def test_a_part_read_back_says_what_was_written(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    part = write(store, ORIGIN, DE, EN)
    assert part.path.name.startswith("tiny-1.5.s17.arc_challenge-de.")
    assert ScoreStore(tmp_path).scan().parts == (part,)
    assert pl.read_parquet(part.path).equals(pl.concat([rows(ORIGIN, DE), rows(ORIGIN, EN)]))


def test_the_base_has_no_seed_in_its_name(tmp_path: Path) -> None:
    part = write(ScoreStore(tmp_path), BASE_ORIGIN, DE)
    assert part.path.name.startswith("tiny-1.5.base.")
    assert ScoreStore(tmp_path).scan().parts[0].origin == BASE_ORIGIN


def test_finished_cells_are_found_by_origin_and_target(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    write(store, ORIGIN, DE)
    write(store, BASE_ORIGIN, DE, EN)
    assert set(store.scan().finished()) == {(ORIGIN, DE), (BASE_ORIGIN, DE), (BASE_ORIGIN, EN)}


def test_rows_with_other_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="rows have the columns"):
        ScoreStore(tmp_path).write(ORIGIN, KEY_PARTS, [record(DE)], rows(ORIGIN, DE).drop("gold"))


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "other name", "no footer of ours"])
def test_a_part_that_is_not_whole_is_set_aside_and_only_its_cells_are_missing(tmp_path: Path, damage: str) -> None:
    store = ScoreStore(tmp_path)
    write(store, BASE_ORIGIN, DE)
    path = write(store, ORIGIN, DE, EN).path
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "flipped":
        path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif damage == "other name":
        path = path.rename(path.with_name("tiny-1.5.s17.arc_challenge-de.0000000000000000.parquet"))
    else:
        path.unlink()
        path = tmp_path / "somebody-elses.parquet"
        rows(ORIGIN, DE).write_parquet(path)
    scan = store.scan()
    assert set(scan.finished()) == {(BASE_ORIGIN, DE)}
    assert [entry for entry, _ in scan.set_aside] == [path]
    assert (tmp_path / "aside" / path.name).is_file()
    assert not path.exists()
    assert store.scan().set_aside == ()


def test_a_part_whose_checksum_fits_but_whose_content_does_not_is_refused(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / f"tiny.base.{hashlib.sha256(b'text').hexdigest()[:16]}.parquet"
    path.write_bytes(b"text")
    ((named, reason),) = ScoreStore(tmp_path).scan().set_aside
    assert named == path
    assert "cannot be read" in reason


def test_a_changed_part_is_named(tmp_path: Path) -> None:
    path = write(ScoreStore(tmp_path), ORIGIN, DE).path
    path.write_bytes(path.read_bytes()[:-1])
    ((named, reason),) = ScoreStore(tmp_path).scan().set_aside
    assert named == path
    assert "does not have the content that its name says" in reason


def test_a_scan_that_does_not_repair_leaves_the_folder_alone(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    path = write(store, ORIGIN, DE).path
    path.write_bytes(b"")
    (tmp_path / ".half.parquet.1.tmp").write_bytes(b"half")
    before = sorted(tmp_path.iterdir())
    assert [entry for entry, _ in store.scan(repair=False).set_aside] == [path]
    assert sorted(tmp_path.iterdir()) == before


def test_half_written_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".tiny.base.x.parquet.1.tmp").write_bytes(b"half")
    ScoreStore(tmp_path).scan()
    assert list(tmp_path.iterdir()) == []


def test_evicting_a_cell_keeps_the_others_of_its_part(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    part = write(store, ORIGIN, DE, EN)
    rest = store.evict(part, {DE.name})
    assert rest is not None
    assert [cell.target for cell in rest.cells] == [EN.name]
    assert pl.read_parquet(rest.path).equals(rows(ORIGIN, EN))
    assert (tmp_path / "aside" / part.path.name).is_file()
    assert set(store.scan().finished()) == {(ORIGIN, EN)}


def test_evicting_all_cells_leaves_no_part(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    assert store.evict(write(store, ORIGIN, DE), {DE.name}) is None
    assert store.scan().parts == ()


def test_a_part_set_aside_twice_keeps_both_files(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    for _ in range(2):
        store.evict(write(store, ORIGIN, DE), {DE.name})
    assert len(list((tmp_path / "aside").iterdir())) == 2


def test_a_cell_that_stands_in_two_parts_counts_once(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    write(store, ORIGIN, DE)
    write(store, ORIGIN, DE, EN)
    scan = store.scan()
    found = [(part.origin, cell.target) for part in scan.parts for cell in part.cells]
    assert sorted(target for _, target in found) == [DE.name, EN.name]
    assert pl.read_parquet([part.path for part in scan.parts]).height == 4


def scored(origin: Origin, target: Cell) -> ScoredCell:
    return ScoredCell(origin, KEY_PARTS, record(target), lambda: rows(origin, target))


def test_the_writer_puts_the_cells_of_a_source_into_one_part(tmp_path: Path) -> None:
    with StoreWriter(ScoreStore(tmp_path)) as writer:
        for origin, target in ((BASE_ORIGIN, DE), (BASE_ORIGIN, EN), (ORIGIN, DE)):
            writer.submit(scored(origin, target))
    parts = ScoreStore(tmp_path).scan().parts
    assert sorted((part.origin.name, len(part.cells)) for part in parts) == [(BASE_ORIGIN.name, 2), (ORIGIN.name, 1)]


def test_the_writer_does_not_wait_for_the_source_to_end(tmp_path: Path) -> None:
    import time

    with StoreWriter(ScoreStore(tmp_path), flush_after_s=0.01) as writer:
        writer.submit(scored(ORIGIN, DE))
        deadline = time.monotonic() + 10
        while not list(tmp_path.glob("*.parquet")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        writer.submit(scored(ORIGIN, EN))
    assert len(ScoreStore(tmp_path).scan().parts) == 2


def test_what_is_finished_is_written_when_scoring_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), StoreWriter(ScoreStore(tmp_path)) as writer:
        writer.submit(scored(ORIGIN, DE))
        raise KeyboardInterrupt
    assert set(ScoreStore(tmp_path).scan().finished()) == {(ORIGIN, DE)}


class FullStore(ScoreStore):
    """A store on a disk without room."""

    def write(self, *args: Any, **kwargs: Any) -> Part:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_stops_the_sweep_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No space left on device; make room"), StoreWriter(FullStore(tmp_path)) as w:
        w.submit(scored(ORIGIN, DE))


def test_the_next_cell_after_a_failed_write_is_refused(tmp_path: Path) -> None:
    writer = StoreWriter(FullStore(tmp_path), flush_after_s=0.0)
    with pytest.raises(StoreError, match="No space left"), writer:
        writer.submit(scored(ORIGIN, DE))
        writer._thread.join()
        writer.submit(scored(ORIGIN, EN))


def test_a_fault_in_the_writer_is_raised_where_scoring_happens(tmp_path: Path) -> None:
    def broken() -> pl.DataFrame:
        raise ZeroDivisionError("rows")

    with pytest.raises(ZeroDivisionError, match="rows"), StoreWriter(ScoreStore(tmp_path)) as writer:
        writer.submit(ScoredCell(ORIGIN, KEY_PARTS, record(DE), broken))


def test_a_store_that_cannot_be_written_is_a_failure_of_the_user() -> None:
    assert isinstance(unwritable(Path("x"), OSError(errno.EROFS, "Read-only file system")), UserError)


def test_a_part_is_read_once_and_a_change_of_it_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_index, "_SETTLED_NS", 0)
    store = ScoreStore(tmp_path)
    part = write(store, ORIGIN, DE)
    store.scan()
    store.index.save()
    later = ScoreStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(score_store, "_read_footer", lambda path: pytest.fail(f"{path} is read again"))
        assert later.scan().parts == (part,)
    content = bytearray(part.path.read_bytes())
    content[len(content) // 2] ^= 1
    part.path.write_bytes(content)
    assert [path for path, _ in ScoreStore(tmp_path).scan().set_aside] == [part.path]


def test_what_is_written_and_evicted_is_known_without_another_scan(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)
    part = write(store, ORIGIN, DE, EN)
    write(store, BASE_ORIGIN, DE)
    store.evict(part, [DE.name])
    assert set(store.finished()) == {(ORIGIN, EN), (BASE_ORIGIN, DE)}
    assert store.parts == ScoreStore(tmp_path).scan().parts


def test_slices_make_a_cell_once_all_are_there_and_repeats_and_gaps_are_moved_aside(tmp_path: Path) -> None:
    store = ScoreStore(tmp_path)

    def write_slice(start: int, n_items: int, **changes: Any) -> Part:
        cell = record(DE, n_items, start=start, n_all=6, n_planned=6, **changes)
        return store.write(ORIGIN, KEY_PARTS, [cell], rows(ORIGIN, DE, n_items))

    assert read_cells(tmp_path) == {}
    write_slice(0, 2)
    write_slice(3, 3)
    cell = store.scan(repair=False).cells()[ORIGIN, DE]
    assert (cell.n_items, cell.n_planned, cell.is_short, cell.is_whole) == (2, 6, True, False)
    assert store.scan().finished() == {}
    assert [path.name.count(".s17.") for path in (tmp_path / "aside").iterdir()] == [1]
    write_slice(2, 4)
    write_slice(2, 4, wall_s=9.0)
    assert store.scan().finished()[ORIGIN, DE].n_items == 6
    assert len(list((tmp_path / "aside").iterdir())) == 2
    assert read_cells(tmp_path) == store.cells()
