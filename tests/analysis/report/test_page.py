import json
import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from tests.analysis.report.runs import matrix_of, page_of, random_deltas, write_holed_run, write_two_models
from tests.analysis.synthetic import MODELS, TASKS, cells, item_rows, published_table, write_run
from transfergrid.analysis.charts.embed import libraries, script_json
from transfergrid.analysis.imports.donors import import_donors
from transfergrid.analysis.report.page import write_report
from transfergrid.cli import main
from transfergrid.config.settings import AnalysisConfig, GridConfig
from transfergrid.grid import UserError
from transfergrid.store.folder import RunFolder

FAST = GridConfig(
    models=MODELS,
    tasks=TASKS,
    languages=("de", "en", "fr"),
    seeds=(17, 42),
    analysis=AnalysisConfig(bootstrap_resamples=100, permutations=99),
)
ADDRESS = re.compile(
    r"""(?:src|href|action|data)\s*=\s*["'](?!#|data:)|url\(|@import|https?://|fetch\(|XMLHttpRequest"""
)


def grid(*arguments: str, folder: Path) -> Result:
    runner = CliRunner()
    with runner.isolated_filesystem(temp_dir=folder):
        return runner.invoke(main, ["report", *arguments])


def test_the_page_names_no_address_outside_itself(tmp_path: Path) -> None:
    page = page_of(write_two_models(tmp_path)).replace(libraries(), "")
    assert ADDRESS.findall(re.sub(r'"\$schema":"[^"]*"', "", page)) == []


def test_the_page_says_what_tests_of_imported_tables_leave_out(tmp_path: Path) -> None:
    table = published_table(MODELS, cells(), random_deltas(2, 6, 6))
    table.write_csv(tmp_path / "table.csv")
    run = RunFolder(tmp_path / "run")
    import_donors(tmp_path / "table.csv", run)
    said = "imported standard errors are across training seeds"
    page = page_of(run)
    caption = page[page.index('<p class="caption">Harmed:') :]
    assert said in caption[: caption.index("</p>")]
    assert said not in page_of(write_two_models(tmp_path / "scored"))


def test_every_element_is_closed(tmp_path: Path) -> None:
    open_elements: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "link", "input", "br"):
                open_elements.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_elements.pop() == tag

    Checker().feed(page_of(write_two_models(tmp_path)))
    assert open_elements == []


def test_names_from_a_run_cannot_become_markup(tmp_path: Path) -> None:
    bad = '</script><script>alert("1")</script><b>&'
    page = page_of(write_run(tmp_path / "run", item_rows(models=MODELS[:1]).with_columns(model=pl.lit(bad))))
    assert bad not in page
    assert "<b>&" not in page
    assert matrix_of(page)["views"][0]["name"] == bad
    assert page.count("</script>") == 2


def test_json_in_a_script_cannot_end_it_and_reads_back() -> None:
    value = {"text": "</script><!-- & \u2028"}
    text = script_json(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == value


def test_a_number_that_is_not_finite_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json({"delta_pp": float("nan")})


def test_write_report_says_where_it_went_and_how_large_it_is(tmp_path: Path) -> None:
    run = write_two_models(tmp_path)
    stages: list[str] = []
    written = write_report(run, FAST, on_progress=stages.append)
    assert (written.page, written.n_bytes) == (run.report, run.report.stat().st_size)
    assert stages[-1] == "page"
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(written)
    assert "report.html (1.0 MB" in capture.get()
    assert "needs no network" in capture.get()


def test_the_noise_floor_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    run = write_holed_run(tmp_path)
    assert "grid eval --noise-floor" in page_of(run)
    run.noise_floor.mkdir()
    pl.DataFrame(
        {
            "model": MODELS[:1],
            "target_task": ["arc_challenge"],
            "target_language": ["de"],
            "n_items": [32],
            "n_flips": [2],
            "n_flips_acc": [2],
            "max_abs_diff_nats": [0.011],
        }
    ).write_parquet(run.noise_floor / "part.parquet")
    text = " ".join(page_of(run).split())
    assert "<td>32</td><td>2</td> <td>6.2%</td><td>0.011 nats</td>" in text


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    run = write_holed_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the report cannot be written to .*file.*give another place with --out"):
        write_report(run, out=tmp_path / "file" / "report.html")


def test_the_command_writes_page_and_figures(tmp_path: Path) -> None:
    run = write_two_models(tmp_path / "run")
    result = grid(
        "--run", str(run.root), "--png", str(tmp_path / "png"), "--svg", str(tmp_path / "svg"), folder=tmp_path
    )
    assert result.exit_code == 0, result.output
    for path in (
        run.report,
        *(tmp_path / form / f"{name}.{form}" for form in ("png", "svg") for name in ("matrix", "roles_tasks", "harm")),
    ):
        assert str(path) in result.output
        assert path.stat().st_size > 1000


def test_out_takes_the_place_of_the_run_folder(tmp_path: Path) -> None:
    run = write_holed_run(tmp_path / "run")
    assert grid("--run", str(run.root), "--out", str(tmp_path / "a" / "b.html"), folder=tmp_path).exit_code == 0
    assert (tmp_path / "a" / "b.html").is_file()
    assert not run.report.exists()


def test_an_empty_run_is_one_sentence(tmp_path: Path) -> None:
    result = grid("--run", str(tmp_path / "nothing"), folder=tmp_path)
    assert result.exit_code == 1
    assert "has no adapter scores and no imported table; run 'grid eval' or 'grid import' first" in result.output


def test_a_named_configuration_must_exist_the_default_need_not(tmp_path: Path) -> None:
    run = write_holed_run(tmp_path / "run")
    named = grid("--config", "grid.yaml", "--run", str(run.root), folder=tmp_path)
    assert (named.exit_code, "no configuration at 'grid.yaml'" in named.output) == (1, True)
    assert grid("--run", str(run.root), folder=tmp_path).exit_code == 0


def test_an_imported_table_makes_a_report(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    published_table(MODELS, cells(), random_deltas(2, 6, 6)).write_csv(tmp_path / "table.csv")
    import_donors(tmp_path / "table.csv", run)
    view = matrix_of(page_of(run))["views"][1]
    assert view["n"] == [3] * 36
    assert view["n_items"] == []
    assert all(half is not None for half in view["half_pp"])


def test_the_wheel_takes_every_file_of_the_page() -> None:
    import tomllib

    root = Path(__file__).parents[3]
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    for package in ("analysis/report", "analysis/charts", "view"):
        folder = root / package
        patterns = settings["package-data"][f"transfergrid.{package.replace('/', '.')}"]
        taken = {path.name for pattern in patterns for path in folder.glob(pattern)}
        assert taken == {path.name for path in folder.iterdir() if path.suffix not in (".py", "")}, package
