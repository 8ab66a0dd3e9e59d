"""Building the report of a run: reading the inputs, composing the sections, writing page, charts and tables."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctplatform.config.recipe import Recipe
from ctplatform.errors import StageError
from ctplatform.report import words
from ctplatform.report.document import Omitted, Page
from ctplatform.report.inputs import Inputs, read_inputs
from ctplatform.report.page import render
from ctplatform.report.sections import (
    ablations,
    acquisition,
    calibration,
    cohort,
    comparisons,
    efficiency,
    embedding_map,
    gallery,
    maps,
    nearest,
    pretraining,
    provenance,
    quality,
    scatter,
    summary,
    survival,
)
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

ORDER = (
    summary,
    cohort,
    quality,
    acquisition,
    gallery,
    pretraining,
    efficiency,
    comparisons,
    ablations,
    scatter,
    maps,
    calibration,
    survival,
    embedding_map,
    nearest,
    provenance,
)


@dataclass(frozen=True)
class ReportPaths:
    """Locations of the page, and of the folder with its charts (SVG) and tables (CSV)."""

    html: str
    figures: str


def build_report(
    workspace: Workspace, recipe: Recipe, *, run: str, scan_table: pd.DataFrame | None = None
) -> ReportPaths:
    """Write evaluation/<run>/report.html and evaluation/<run>/figures/ from the results of the stages.

    Sections without input are left out and named at the end of the page. The map of the scans is coloured by columns
    of the scan table, too, where it is given.

    Raises:
        StageError: there is nothing to report on, or a table lacks a needed column.
    """
    inputs = dataclasses.replace(read_inputs(workspace, recipe, run=run), scan_table=scan_table)
    if inputs.is_empty:
        raise StageError(
            f"{workspace.display()} holds no prepared scans, no pretraining log and no results of run {run!r}",
            "Run `drasclr prepare` first, or check the workspace and the run's name",
            code="nothing-to-report",
        )
    page = compose(inputs)
    _write_figures(workspace, page, run)
    workspace.write_bytes(render(page).encode(), *layout.report(run))
    return ReportPaths(workspace.display(*layout.report(run)), workspace.display(*layout.figures(run)))


def compose(inputs: Inputs) -> Page:
    """The page of these inputs: every section, in order."""
    parts = [module.section(inputs) for module in ORDER]
    return Page(
        title=inputs.recipe.report.title,
        subtitle=f"Run {inputs.run}, recipe {inputs.recipe.name}",
        sections=[part for part in parts if not isinstance(part, Omitted)],
        omitted=[part for part in parts if isinstance(part, Omitted)],
        generated=words.generated(),
    )


def _write_figures(workspace: Workspace, page: Page, run: str) -> None:
    """Write charts and tables; those of an earlier report of this run are deleted."""
    workspace.delete(*layout.figures(run))
    for section in page.sections:
        for figure in section.figures:
            for panel in figure.panels:
                workspace.write_bytes(panel.svg.encode(), *layout.figure(run, panel.name))
            for i, table in enumerate(figure.tables, 1):
                name = figure.name if len(figure.tables) == 1 else f"{figure.name}-{i}"
                workspace.write_bytes(table.csv().encode(), *layout.figure_table(run, name))
