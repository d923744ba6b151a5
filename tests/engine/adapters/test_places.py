"""Adapters that somebody else trained: found, and their source cells told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.sweeps import FakeMaker, copy_adapter, small_config, stored_rows
from transfergrid.config.selection import Narrowing
from transfergrid.engine.adapters.folder import CONFIG_FILE, find_adapters
from transfergrid.engine.adapters.places import AdapterFolder, AdapterPlace, folder_places
from transfergrid.engine.evaluation.sweep import evaluate
from transfergrid.engine.interfaces import AdapterError
from transfergrid.engine.work.request import EvalRequest
from transfergrid.grid import Cell, Source, UserError
from transfergrid.store.folder import RunFolder

DE = Cell("arc_challenge", "de")


def place_of(model: str, seed: int, cell: Cell, path: Path) -> AdapterPlace:
    return AdapterPlace(model, Source.of(cell, seed), path)


def add(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / CONFIG_FILE).write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("arc_challenge-de", "{task}-{language}", ("tiny", 0, DE)),
        ("deep/er/arc_challenge-de", "{task}-{language}", ("tiny", 0, DE)),
        ("s17/lora_arc_challenge_de", "s{seed}/lora_{task}_{language}", ("tiny", 17, DE)),
        ("tiny/de.arc_challenge", "{model}/{language}.{task}", ("tiny", 0, DE)),
        ("arc_challenge_zh_hant", "{task}_{language}", ("tiny", 0, Cell("arc_challenge", "zh_hant"))),
    ],
)
def test_a_pattern_tells_the_source_cell(
    tmp_path: Path, name: str, pattern: str, expected: tuple[str, int, Cell]
) -> None:
    add(tmp_path, name)
    places = folder_places(AdapterFolder(folder=tmp_path, pattern=pattern), ["tiny"])
    assert places == (place_of(*expected, tmp_path / name),)


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("lora_arc_challenge_pt_br_17", "lora_{task}_{language}_{seed}", ("tiny", 17, Cell("arc_challenge", "pt_br"))),
        ("tiny_arc_challenge_de", "{model}_{task}_{language}", ("tiny", 0, DE)),
        ("xnli_fr_de", "{task}_{language}", ("tiny", 0, Cell("xnli_fr", "de"))),
    ],
)
def test_a_name_with_several_readings_is_taken_for_the_cell_of_the_configuration(
    tmp_path: Path, name: str, pattern: str, expected: tuple[str, int, Cell]
) -> None:
    add(tmp_path, name)
    known = (DE, Cell("arc_challenge", "pt_br"), Cell("xnli_fr", "de"))
    places = folder_places(AdapterFolder(folder=tmp_path, pattern=pattern), ["tiny"], known)
    assert places == (place_of(*expected, tmp_path / name),)


@pytest.mark.parametrize("known", [(), (Cell("arc_challenge", "pt_br"), Cell("arc_challenge_pt", "br"))])
def test_a_name_with_several_readings_that_the_configuration_does_not_decide_is_refused(
    tmp_path: Path, known: tuple[Cell, ...]
) -> None:
    add(tmp_path, "arc_challenge_pt_br")
    message = (
        r"'arc_challenge_pt_br' can be read as task=arc_challenge language=pt_br or task=arc_challenge_pt language=br, "
        r"and not exactly one of these is a cell of the configuration; say which it is with --adapter-table"
    )
    with pytest.raises(UserError, match=message):
        folder_places(AdapterFolder(folder=tmp_path, pattern="{task}_{language}"), ["tiny"], known)


def test_the_configuration_decides_how_names_are_read_in_a_sweep(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    copy_adapter(tiny_adapters[0], tmp_path / "theirs" / "tiny_arc_challenge_de", note="theirs")
    theirs = AdapterFolder(folder=tmp_path / "theirs", pattern="{model}_{task}_{language}")
    run = RunFolder(tmp_path / "run")
    assert evaluate(small_config(tiny_llama), run, EvalRequest(adapters=theirs), maker=FakeMaker()).is_complete
    assert set(stored_rows(run)["source_task"]) == {None, "arc_challenge"}


def test_checkpoints_inside_an_adapter_are_left_out(tmp_path: Path) -> None:
    add(tmp_path, "arc_challenge-de", "arc_challenge-de/checkpoint-38")
    assert len(folder_places(AdapterFolder(folder=tmp_path), ["tiny"])) == 1


def test_adapters_of_models_that_are_not_scored_are_left_out(tmp_path: Path) -> None:
    add(tmp_path, "tiny/arc_challenge-de", "other/arc_challenge-de")
    theirs = AdapterFolder(folder=tmp_path, pattern="{model}/{task}-{language}")
    assert [place.model for place in folder_places(theirs, ["tiny"])] == ["tiny"]


def test_a_table_tells_the_source_cell(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("path,task,language,seed\na/b,arc_challenge,de,42\nc,xnli,sw,\n", encoding="utf-8")
    places = folder_places(AdapterFolder(folder=tmp_path, table=table), ["tiny"])
    assert places == (
        AdapterPlace("tiny", Source.of(DE, 42), tmp_path / "a" / "b"),
        AdapterPlace("tiny", Source.of(Cell("xnli", "sw"), 0), tmp_path / "c"),
    )


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{task}", "adapter pattern '{task}' is not usable"),
        ("{task}-{language}-{lr}", "is not usable"),
        ("{task}-{language}-{task}", "is not usable"),
        ("run_{task}_{language}", "adapter folder 'arc_challenge-de' does not end in 'run_{task}_{language}'"),
    ],
)
def test_a_pattern_that_does_not_fit_is_refused(tmp_path: Path, pattern: str, message: str) -> None:
    add(tmp_path, "arc_challenge-de")
    with pytest.raises(UserError, match=message):
        folder_places(AdapterFolder(folder=tmp_path, pattern=pattern), ["tiny"])


def test_capitals_in_a_folders_name_are_said_to_be_the_reason(tmp_path: Path) -> None:
    add(tmp_path, "ARC_Challenge-DE")
    with pytest.raises(
        UserError, match=r"'ARC_Challenge-DE' does not end in .*, for names of tasks .* are lower-case; give"
    ):
        folder_places(AdapterFolder(folder=tmp_path), ["tiny"])


def test_links_to_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    add(tmp_path, "store/one", "adapters/xnli-de")
    root = tmp_path / "adapters"
    (root / "arc_challenge-de").symlink_to(tmp_path / "store" / "one")
    (root / "more").symlink_to(tmp_path / "store", target_is_directory=True)
    (root / "back").symlink_to(tmp_path / "adapters", target_is_directory=True)
    (tmp_path / "store" / "one" / "up").symlink_to(tmp_path, target_is_directory=True)
    found = [str(path.relative_to(root)) for path in find_adapters(root)]
    assert {"arc_challenge-de", "more/one", "xnli-de"} <= set(found)
    assert len(found) == len(set(found)) < 20


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    add(tmp_path, "xnli-de")
    (tmp_path / "arc_challenge-de").symlink_to(tmp_path / "gone")
    with pytest.raises(
        AdapterError, match=r"'.*arc_challenge-de' under '.*' cannot be read: No such file .*; give read"
    ):
        find_adapters(tmp_path)


def test_two_adapters_of_one_cell_are_refused(tmp_path: Path) -> None:
    add(tmp_path, "a/arc_challenge-de", "b/arc_challenge-de")
    with pytest.raises(UserError, match="are both arc_challenge-de s0 of 'tiny'; tell them apart"):
        folder_places(AdapterFolder(folder=tmp_path), ["tiny"])


def test_several_models_need_to_be_told_apart(tmp_path: Path) -> None:
    add(tmp_path, "arc_challenge-de")
    with pytest.raises(UserError, match=r"could belong to any of the models \['a', 'b'\]; name one with --model"):
        folder_places(AdapterFolder(folder=tmp_path), ["a", "b"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "adapter table .* cannot be read"),
        ("", r"has the columns \[\]; expected path, task, language"),
        ("path,cell\na,b\n", r"has the columns \['cell', 'path'\]"),
        ("path,task,language\na,xnli,de\nb\n", r"table\.csv', line 3: task is empty; expected path, task and language"),
        (
            "path,kind,source,cells\na,mixture,both,\n",
            r"table\.csv', line 2: cells is empty; expected path, kind, source and cells",
        ),
        ("path,cells\na, \n", r"line 2: cells is empty; expected path and cells"),
        ("path,cells\na,xnli-de+xnli\n", r"'xnli' is not a cell; expected 'task-lang'"),
        ("path,cells\na,xnli-de+xnli-de\n", r"source 'a' names a cell twice"),
        ("path,cells\nxnli-de,xnli-de+xnli-fr\n", r"source name 'xnli-de' is not usable for kind 'mixture'"),
        ("path,task,language\n,xnli,de\n", "line 2: path is empty"),
        ("path,task,language\na,xnli, \n", "line 2: language is empty"),
        ("path,task,language,seed\na,arc_challenge,de,x\n", "has seed 'x'; expected a whole number"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    table = tmp_path / "table.csv"
    if text is not None:
        table.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        folder_places(AdapterFolder(folder=tmp_path, table=table), ["tiny"])


def test_a_table_may_name_the_cells_of_mixtures(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = "both,xnli-de+xnli-fr,,,\nx/three, xnli-de + xnli-fr + xnli-sw ,mine,,\none,xnli-sw,,,\nplain,,,xnli,hi\n"
    table.write_text(f"path,cells,source,task,language\n{rows}", encoding="utf-8")
    found = [place.source for place in folder_places(AdapterFolder(folder=tmp_path, table=table), ["tiny"])]
    de, fr, sw = (Cell("xnli", language) for language in ("de", "fr", "sw"))
    assert found == [
        Source("mixture", "both", (de, fr), 0),
        Source("mixture", "mine", (de, fr, sw), 0),
        Source.of(sw, 0),
        Source.of(Cell("xnli", "hi"), 0),
    ]


def test_foreign_adapters_are_scored_beside_the_base(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], tmp_path: Path
) -> None:
    copy_adapter(tiny_adapters[0], tmp_path / "theirs" / "s3" / "xnli-sw", note="theirs")
    run = RunFolder(tmp_path / "run")
    theirs = AdapterFolder(folder=tmp_path / "theirs", pattern="s{seed}/{task}-{language}")
    report = evaluate(small_config(tiny_llama), run, EvalRequest(adapters=theirs), maker=FakeMaker())
    assert report.is_complete
    found = stored_rows(run).select("seed", "source_task", "source_language").unique().sort("seed")
    assert found.rows() == [(None, None, None), (3, "xnli", "sw")]
    only = EvalRequest(adapters=theirs, narrowing=Narrowing(sources=("base",)))
    assert evaluate(small_config(tiny_llama), run, only, maker=FakeMaker()).n_cells == 4
