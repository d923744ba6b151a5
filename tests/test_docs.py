"""Documentation that is made from code is up to date, and names only commands that exist."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

import transfergrid.analysis
import transfergrid.engine
from tests.analysis.synthetic import LANGUAGES, MODELS, TASKS, item_rows, write_run
from transfergrid.analysis.tables.registry import render_tables
from transfergrid.cli import main
from transfergrid.config.text import render_reference

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def test_the_configuration_reference_is_up_to_date() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == render_reference()


def test_the_list_of_tables_is_up_to_date() -> None:
    assert (ROOT / "docs" / "tables.md").read_text(encoding="utf-8") == render_tables()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_commands_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)grid ([a-z][a-z-]+)", text, re.MULTILINE))
    assert named <= set(main.commands), named - set(main.commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_links_only_to_files_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert all((page.parent / link).exists() for link in links), links


def test_the_table_of_the_engine_lists_its_files_and_no_others() -> None:
    listed, folder = {"interfaces.py"}, ""
    for line in (ROOT / "docs" / "engine.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and (names := re.findall(r"`([a-z_]+(?:\.py|/))`", line.split("|")[1])):
            folder = names[0] if names[0].endswith("/") else folder
            listed |= {folder + name for name in names if name.endswith(".py")}
    there = {path.relative_to(ROOT / "engine").as_posix() for path in (ROOT / "engine").rglob("[a-z]*.py")}
    assert listed == there


@pytest.mark.engine
def test_the_example_of_scoring_runs_as_it_stands(
    tiny_llama: Path, tiny_adapters: tuple[Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code = example("Score items under two adapters")
    code = replace_line(code, "MODEL = ", f"MODEL = {str(tiny_llama)!r}")
    code = replace_line(code, "ADAPTERS = ", f"ADAPTERS = Path({str(tiny_adapters[0].parent)!r})")
    exec(compile(code, "docs/python.md", "exec"), {"__name__": "__main__"})
    lines = capsys.readouterr().out.splitlines()
    assert sorted({line.split()[0].partition("@")[0] for line in lines}) == ["adapter-1", "adapter-2", "base"]
    assert len({line.split("(")[1] for line in lines if " sum " in line}) == 3  # each source scores otherwise


def test_the_example_of_the_analysis_runs_as_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", item_rows())
    settings = "analysis: {bootstrap_resamples: 100, permutations: 99}\n"
    grid = f"models: {list(MODELS)}\ntasks: {list(TASKS)}\nlanguages: {list(LANGUAGES)}\nseeds: [17, 42]\n"
    (tmp_path / "grid.yaml").write_text(grid + settings)
    code = example("Analyse a store from a notebook")
    code = replace_line(code, "CONFIG = ", f"CONFIG = Path({str(tmp_path / 'grid.yaml')!r})")
    code = replace_line(code, "RUN = ", f"RUN = RunFolder(Path({str(tmp_path / 'run')!r}))")
    exec(compile(code, "docs/python.md", "exec"), {"__name__": "__main__"})
    out = capsys.readouterr().out
    assert all(word in out for word in ("all transfer", "score_pp", "p_harm", str(tmp_path / "run" / "report.html")))


@pytest.mark.parametrize("package", [transfergrid.analysis, transfergrid.engine], ids=lambda package: package.__name__)
def test_a_package_hands_on_what_it_lists_and_nothing_else(package: ModuleType) -> None:
    assert sorted(package._HOMES) == package.__all__
    with pytest.raises(AttributeError, match=r"has no attribute 'anything'"):
        _ = package.anything


def test_every_name_that_the_analysis_hands_on_is_there() -> None:
    assert all(getattr(transfergrid.analysis, name) for name in transfergrid.analysis.__all__)


def example(heading: str) -> str:
    """Return the first block of Python under a heading of docs/python.md."""
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8").partition(f"## {heading}\n")[2]
    return text.partition("```python\n")[2].partition("```")[0]


def replace_line(code: str, start: str, line: str) -> str:
    """Replace the one line with a beginning."""
    found = [each for each in code.splitlines() if each.startswith(start)]
    assert len(found) == 1
    return code.replace(found[0], line)
