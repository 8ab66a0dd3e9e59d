"""A map of the scans: their vectors in two dimensions, coloured by a column that the reader selects."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ctplatform.cohort.table import LUNG_MASK, names_label_maps
from ctplatform.dataset.ledger import ACQUISITION
from ctplatform.inference.similarity import unit_centred
from ctplatform.report import style, words
from ctplatform.report.commands import command
from ctplatform.report.document import Figure, Omitted, Panel, Section, Table
from ctplatform.report.inputs import Inputs
from ctplatform.report.sections.quality import measures
from ctplatform.storage.layout import patient_vectors

TITLE = "Map of the scans"
MAX_SCANS = 1000  # of more, an even selection by id: a chart a column has a mark a scan
FEWEST = 3
TSNE_FROM = 50  # scans; of fewer, the neighbourhoods that t-SNE keeps are most of all scans
PERPLEXITY, COMPONENTS = 30, 30
LISTED = 400
LEVELS = (
    "#440154",
    "#3b528b",
    "#21918c",
    "#5ec962",
    "#c9a800",
)  # viridis at five levels, the last one darker
CATEGORIES = (style.BLUE, style.ORANGE, style.GREEN, style.VERMILION, style.PURPLE, style.SKY, style.WINE)
MARKERS = "osD^vPX"
NOT_SHOWN = ("subject_id", "path", "series_uid", LUNG_MASK)
MAX_COLUMNS = 30
"""Of the scan table: each is a chart."""


@dataclass(frozen=True)
class Column:
    """What scans are coloured by: numbers, or names of classes (NaN or None where unknown)."""

    name: str
    title: str
    values: pd.Series


def section(inputs: Inputs) -> Section | Omitted:
    """One figure with a chart a column, of which the page shows the selected one."""
    parts = patient_vectors(inputs.run, "drasclr")
    if not inputs.workspace.exists(*parts):
        return Omitted(TITLE, "this run has no embeddings")
    table = inputs.workspace.read_table(*parts).to_pandas().drop_duplicates("scan_id")
    table = (
        table[["scan_id", "vector"]]
        .merge(inputs.usable, on="scan_id")
        .sort_values("scan_id", ignore_index=True)
    )
    table = table.iloc[
        np.unique(np.linspace(0, len(table) - 1, min(len(table), MAX_SCANS)).round().astype(int))
    ]
    table = table.reset_index(drop=True)
    if len(table) < FEWEST:
        return Omitted(TITLE, f"fewer than {FEWEST} scans have embeddings")
    points_N2, method = project(np.stack(table["vector"].to_list()))
    columns = [column for column in _columns(inputs, table) if column.values.nunique() > 1]
    if not columns:
        columns = [Column("state", "Verdict", table["state"])]
    figure = Figure(
        name="map",
        title=f"Patient vectors by {method}",
        caption=(
            "A mark a scan. Near each other lie scans with similar vectors (cosine of the centred vectors); "
            + (
                "t-SNE keeps neighbourhoods: distances between groups, their sizes and both axes have no meaning. "
                if method == "t-SNE"
                else "the axes are the first two principal components. "
            )
            + "Numbers are divided into five levels with equal counts. Targets of tasks are known here of held-out "
            "subjects only."
        ),
        n=f"n = {words.count(len(table), 'scan')}",
        interval="single scans, no interval",
        command=command("embed", inputs.recipe),
        choice="Coloured by",
        panels=[_panel(column, points_N2) for column in columns],
        tables=[_table(table, points_N2, columns)],
    )
    return Section("map", TITLE, figures=[figure])


def project(vectors_ND: np.ndarray) -> tuple[np.ndarray, str]:
    """Two dimensions for each vector, and by which method; equal input gives equal output.

    Principal components; from `TSNE_FROM` vectors on, t-SNE that starts from them.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    unit_ND = unit_centred(vectors_ND)
    count = min(COMPONENTS, len(unit_ND) - 1, unit_ND.shape[1])
    with np.errstate(invalid="ignore"):  # the shares of variance of equal vectors
        scores_NC = PCA(count, svd_solver="full").fit_transform(unit_ND)
    if len(unit_ND) < TSNE_FROM:
        points_N2 = np.zeros((len(unit_ND), 2))
        points_N2[:, : min(2, count)] = scores_NC[:, :2]
        return points_N2, "principal components"
    perplexity = min(PERPLEXITY, (len(unit_ND) - 1) / 3)
    points_N2 = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(scores_NC)
    return points_N2, "t-SNE"


def levels(values: pd.Series) -> tuple[pd.Series, list[str]]:
    """Class of each value (NaN where it is missing) and the classes' names, in order.

    Numbers with more than five values are divided at their quintiles; of classes with names the most frequent are kept.
    """
    known = values.dropna()
    if pd.api.types.is_numeric_dtype(known) and known.nunique() > len(LEVELS):
        edges = np.unique(np.quantile(known, np.linspace(0, 1, len(LEVELS) + 1)))
        places = np.clip(np.searchsorted(edges, known, side="right") - 1, 0, len(edges) - 2)
        texts = _distinct(edges)
        names = [f"{low} to {high}" for low, high in pairwise(texts)]
        return pd.Series(places, known.index, dtype=float).reindex(values.index), names
    texts = known.map(_text)
    order = texts.value_counts().index.tolist()[: len(CATEGORIES)]
    order.sort(
        key=lambda text: (known[texts == text].iloc[0]) if pd.api.types.is_numeric_dtype(known) else text
    )
    place = {text: float(i) for i, text in enumerate(order)}
    return texts.map(place).reindex(values.index), order


def _distinct(edges: np.ndarray) -> list[str]:
    """Ascending numbers with three significant digits, or as many more as tell them apart."""
    texts: list[str] = []
    for digits in range(3, 13):
        texts = [words.significant(float(edge), digits) for edge in edges]
        if len(set(texts)) == len(texts):
            break
    return texts


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return words.short(words.without_paths(value), 24)


def _columns(inputs: Inputs, table: pd.DataFrame) -> Iterator[Column]:
    subjects = table["subject_id"].astype(str)
    predictions = pd.DataFrame({"task": []}) if inputs.predictions is None else inputs.predictions
    for task in dict.fromkeys(predictions["task"]):
        rows = predictions[predictions["task"] == task]
        if "target" not in rows or ("class" in rows and rows["class"].nunique() > 1):
            continue
        target = rows.dropna(subset=["target"]).groupby(rows["subject_id"].astype(str))["target"].first()
        yield Column(f"task-{words.slug(task)}", words.sentence(words.task(task)), subjects.map(target))
    for measure in measures(inputs.recipe.prepare.quality):
        yield Column(measure.column, measure.title, table[measure.column])
    for name in ACQUISITION:
        if name in table:
            yield Column(name, words.sentence(words.plain(name)), table[name])
    yield Column("state", "Verdict", table["state"])
    if inputs.scan_table is not None:
        yield from islice(_of_scan_table(inputs.scan_table, table["scan_id"]), MAX_COLUMNS)
    if inputs.splits:
        test = set(map(str, inputs.splits.get("test", [])))
        part = pd.Series(np.where(subjects.isin(test), "held out", "training"), table.index)
        yield Column("part", "Part of the split", part)


def _of_scan_table(scan_table: pd.DataFrame, scan_ids: pd.Series) -> Iterator[Column]:
    """Numbers and classes of the scan table; neither ids, nor paths, nor texts that differ in nearly every scan."""
    ids = scan_table["scan_id"].astype(str)
    rows = scan_table.assign(scan_id=ids).drop_duplicates("scan_id").set_index("scan_id")
    for name in (name for name in rows if name not in NOT_SHOWN):
        values = rows[name].reindex(scan_ids.astype(str)).reset_index(drop=True)
        known = values.dropna()
        if not pd.api.types.is_numeric_dtype(values):
            values = values.astype(object)
            if known.nunique() > len(known) / 2 or names_label_maps(values.tolist()):
                continue
        title = words.short(words.without_paths(name), 40)
        yield Column(f"table-{words.slug(name)}", f"{title} (scan table)", values)


def _panel(column: Column, points_N2: np.ndarray) -> Panel:
    place, names = levels(column.values)
    ordered = pd.api.types.is_numeric_dtype(column.values)
    colours = [LEVELS[round(i * (len(LEVELS) - 1) / max(1, len(names) - 1))] for i in range(len(names))]
    if not ordered or len(names) > len(LEVELS):
        colours = list(CATEGORIES[: len(names)])

    def draw(axes: Axes) -> None:
        x, y = points_N2.T
        other = place.isna().to_numpy()
        axes.scatter(x[other], y[other], s=12, color=style.GREY, alpha=0.45, linewidths=0)
        for i, (name, colour) in enumerate(zip(names, colours)):
            here = (place == i).to_numpy()
            marker = "o" if ordered else MARKERS[i % len(MARKERS)]
            axes.scatter(x[here], y[here], s=22, color=colour, marker=marker, linewidths=0, label=name)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(False)
        axes.margins(0.06)
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(0, -0.02),
            ncols=2,
            frameon=False,
            fontsize=9,
            handletextpad=0.3,
            borderpad=0,
        )

    name = f"map-{column.name}"
    counts = [f"{label}: {int((place == i).sum())}" for i, label in enumerate(names)]
    unknown = int(place.isna().sum())
    return Panel(
        name,
        column.title,
        style.chart(name, draw, height=style.WIDE * 1.05),
        f"Map of {len(points_N2)} scans, coloured by {column.title}. {words.listing(counts)}; "
        f"other or unknown: {unknown}.",
        f"{unknown:,} of {len(place):,} other or unknown (grey)" if unknown else "",
    )


def _table(table: pd.DataFrame, points_N2: np.ndarray, columns: list[Column]) -> Table:
    shown = columns[:6]
    rows = [
        (
            str(table["scan_id"].iloc[i]),
            words.number(float(points_N2[i, 0]), 3),
            words.number(float(points_N2[i, 1]), 3),
            *(words.DASH if words.missing(c.values.iloc[i]) else _text(c.values.iloc[i]) for c in shown),
        )
        for i in range(min(LISTED, len(table)))
    ]
    left = len(table) - len(rows)
    return Table(
        "Scans on the map",
        ("Scan", "x", "y", *(column.title for column in shown)),
        rows,
        numeric=frozenset({1, 2}),
        note=f"{left:,} more scans are on the map." if left > 0 else "",
    )
