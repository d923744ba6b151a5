"""Writes the report of a run: one HTML file with its data, styles and script inside, and figures beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup
from rich.text import Text

from transfergrid.analysis.charts.embed import libraries, page_script, page_style, script_hash, script_json, themes
from transfergrid.analysis.records import TARGET
from transfergrid.analysis.report.answer import answer
from transfergrid.analysis.report.figures import page_charts, write_figures
from transfergrid.analysis.report.headline import headline, key_figures
from transfergrid.analysis.report.numbers import templates
from transfergrid.analysis.report.origins import ManifestPart, read_run_manifest
from transfergrid.analysis.report.proof import Proof, find_proof
from transfergrid.analysis.report.sentences import REGIME_WORDS, findings
from transfergrid.analysis.tables.build import Progress, build_tables
from transfergrid.analysis.tables.facts import missing_reasons, seeds_only
from transfergrid.analysis.tables.recommendation import LIKELY_HELP
from transfergrid.analysis.tables.regimes import SEEDS_ONLY
from transfergrid.analysis.tables.registry import all_tables
from transfergrid.analysis.tables.table import AnalysisTables
from transfergrid.config.settings import AnalysisConfig, GridConfig
from transfergrid.grid import UserError
from transfergrid.store.files import write_text
from transfergrid.store.folder import RunFolder
from transfergrid.store.imported import read_noise_floor


@dataclass(frozen=True, slots=True)
class Report:
    """Files that were written."""

    page: Path
    n_bytes: int
    """Size of the page."""
    figures: tuple[Path, ...]

    def __rich__(self) -> Text:
        """Say what was written."""
        lines = [f"{self.page} ({self.n_bytes / 2**20:.1f} MB, opens in any browser, needs no network)"]
        return Text("\n".join([*lines, *map(str, self.figures)]))

    def rows(self) -> pl.DataFrame:
        """Return one row per file."""
        return pl.DataFrame({"path": [str(path) for path in (self.page, *self.figures)]})

    def as_json(self) -> dict[str, Any]:
        """Return the files and the size of the page."""
        return {"page": str(self.page), "n_bytes": self.n_bytes, "figures": [str(path) for path in self.figures]}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageContent:
    """All data of a page."""

    name: str
    """Name of the run."""
    tables: AnalysisTables
    settings: AnalysisConfig
    noise_floor: pl.DataFrame
    """Rows of the noise floor; none: not measured."""
    manifest: list[ManifestPart]
    proof: Proof


def write_report(
    run: RunFolder,
    config: GridConfig | None = None,
    *,
    out: Path | None = None,
    figure_folders: dict[str, Path] | None = None,
    on_progress: Progress | None = None,
) -> Report:
    """Analyse a run and write its report.

    Args:
        run: The run's folder; scores, imports, noise floor and manifests are read from it.
        config: Expected cells and seeds, models' traits and the analysis' settings; None: what is there, defaults.
        out: Where the page goes; None: ``report.html`` in the run's folder.
        figure_folders: Folder by format, ``png``, ``svg`` or ``pdf``, for the figures of a paper; None writes none.
        on_progress: Called with the name of every stage before it starts.

    Raises:
        UserError: If there is nothing to report, a file of the run is unusable, or a place cannot be written.
    """
    report = on_progress or (lambda name: None)
    tables = build_tables(run, config, on_progress=report)
    settings = config.analysis if config is not None else AnalysisConfig()
    report("page")
    content = PageContent(
        name=run.root.resolve().name,
        tables=tables,
        settings=settings,
        noise_floor=read_noise_floor(run),
        manifest=read_run_manifest(run, config),
        proof=find_proof(run, config, tables.transfer, settings),
    )
    page = out if out is not None else run.report
    text = render_page(content)
    try:
        write_text(page, text)
        figures = _write_figures(content, figure_folders or {}, report)
    except OSError as error:
        raise UserError(
            f"the report cannot be written to {str(error.filename or page)!r}: {error.strerror or error}; "
            "give another place with --out, --png, --svg or --pdf"
        ) from error
    return Report(page, len(text.encode()), tuple(figures))


def _write_figures(content: PageContent, folders: dict[str, Path], report: Progress) -> list[Path]:
    written = []
    for form, folder in folders.items():
        report(f"figures ({form})")
        written += write_figures(content.tables, content.settings, folder, form=form)
    return written


def render_page(content: PageContent) -> str:
    """Return the page as HTML text; it needs no other file and makes no request."""
    tables, settings = content.tables, content.settings
    regimes = tables.regimes.filter(pl.col("by") == "all").to_dicts()
    style = page_style(tables.transfer.select(TARGET).n_unique())
    nothing = nothing_to_say(tables, content.noise_floor)
    is_mean = pl.col("target_task").is_null() & pl.col("delta_pp").is_not_null()
    script = f"{libraries()}\n{page_script()}"
    return (
        templates("transfergrid.analysis.report")
        .get_template("page.html.j2")
        .render(
            name=content.name,
            advice=answer(tables.recommendations, settings),
            likely=LIKELY_HELP,
            headline=headline(tables, settings),
            figures=key_figures(tables, settings),
            findings=findings(tables, settings),
            proof=content.proof,
            settings=settings,
            regime_words=REGIME_WORDS,
            regimes=regimes,
            mixtures=tables.mixtures.filter(is_mean).to_dicts(),
            merges=tables.merges.filter(is_mean).to_dicts(),
            variants=tables.variants.to_dicts(),
            seeds_only=SEEDS_ONLY if any(map(seeds_only, regimes)) else None,
            noise_floor=noise_rows(content.noise_floor),
            manifest=content.manifest,
            nothing=nothing,
            correlations=tables.distance.to_dicts(),
            power=tables.power.to_dicts(),
            approximate={name: table.approximate for name, table in all_tables().items()},
            style=Markup(style),
            style_hash=script_hash(style),
            script=Markup(script),
            script_hash=script_hash(script),
            data=Markup(script_json({"charts": page_charts(tables, settings, nothing), "themes": themes()})),
        )
    )


def nothing_to_say(tables: AnalysisTables, noise_floor: pl.DataFrame) -> dict[str, str]:
    """Return the sections without a number and why they have none; the page gives each one line."""
    known = {
        "roles": (tables.roles, "score_pp"),
        "variance": (tables.variance, "share"),
        "agreement": (tables.consistency, "median"),
        "distance": (tables.distance_pairs, "mean_pp"),
        "power": (tables.power, "smallest_delta_pp"),
    }
    found = {}
    for section, (table, column) in known.items():
        if table[column].null_count() == table.height:
            told = tables.distance if section == "distance" else table
            reasons = missing_reasons(told, 2) if "reason" in told.columns else []
            otherwise = "no scores by item say how noisy a pair is" if section == "power" else "too few cells"
            found[section] = "; ".join(reason for reason, _ in reasons) or otherwise
    if noise_floor.is_empty():
        found["noise"] = "not measured; 'grid eval --noise-floor' measures how many predictions flip by rounding alone"
    return {section: f"{why}." for section, why in found.items()}


def noise_rows(noise_floor: pl.DataFrame) -> list[dict[str, Any]]:
    """Return one row per model: targets, items, predictions that flipped, and the largest difference in nats."""
    by_model = noise_floor.group_by("model").agg(
        n_targets=pl.len(),
        n_items=pl.col("n_items").sum(),
        n_flips=pl.col("n_flips").sum(),
        max_abs_diff_nats=pl.col("max_abs_diff_nats").max(),
    )
    return by_model.sort("model").to_dicts()
