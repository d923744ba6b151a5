"""Documentation that is made from code is up to date, and names only commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from transfergrid.analysis.tables.reference import render_tables
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
