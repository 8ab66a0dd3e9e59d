"""Densities, dose and features by reconstruction kernel: what the acquisition moves, beside what disease does."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ctplatform.dataset.ledger import with_acquisition
from ctplatform.report import style, words
from ctplatform.report.commands import command
from ctplatform.report.document import Figure, Omitted, Panel, Section, Table
from ctplatform.report.inputs import Inputs
from ctplatform.report.sections.quality import matched_decimals, median_interval
from ctplatform.storage.layout import patient_vectors

TITLE = "Kernels and dose"
DRAWN = 8  # most kernels that are drawn and listed; the others are one group
OTHERS = "other kernels"
_MEASURES = (
    ("laa950", "Lung below −950 HU (LAA-950)", "share of lung voxels"),
    ("perc15", "15th percentile of density (Perc15)", "HU"),
    ("ctdi_vol_mgy", "Dose (CTDIvol)", "mGy"),
    ("exposure_mas", "Exposure", "mAs"),
)


def section(inputs: Inputs) -> Section | Omitted:
    """A strip of scans a kernel for density and dose, and the first two components of the features."""
    if inputs.ledger.empty:
        return Omitted(TITLE, "no scan has been prepared yet")
    rows = with_acquisition(inputs.usable)
    if rows["kernel"].isna().all():
        return Omitted(TITLE, "no scan has a known reconstruction kernel")
    rows = rows.assign(group=grouped_kernels(rows["kernel"]))
    order = list(rows["group"].value_counts().index)
    order = [name for name in order if name != OTHERS] + [OTHERS] * (OTHERS in order)
    present = [m for m in _MEASURES if rows[m[0]].notna().any()]
    vectors = _features(inputs, rows)
    width = style.panel_width(len(present) + (vectors is not None))
    panels = [_strip(rows, order, *measure, width) for measure in present]
    text = []
    if vectors is not None:
        panels.append(_scatter(vectors, order, width))
        x_NP = np.stack(vectors["vector"].to_list()).astype(float)
        share, chance = explained(x_NP, vectors["group"].to_numpy())
        text.append(
            f"Over {words.count(len(vectors), 'scan')} the kernel explains {words.percent(share)} of the variance of "
            f"the features; kernels dealt out at random explain {words.percent(chance)}."
        )
    missing = int(rows["group"].isna().sum())
    figure = Figure(
        name="kernels",
        title="Densities, dose and features by reconstruction kernel",
        caption=(
            "Each point is a scan, each bar the median of a kernel. Sharp kernels and low doses raise the share of "
            "lung below −950 HU without any emphysema. mAs of different manufacturers do not mean the same."
        ),
        n=f"n = {words.count(int(rows['group'].notna().sum()), 'scan')} with a known kernel"
        + (f", {missing:,} without" if missing else ""),
        interval="medians with 95% bootstrap intervals over scans",
        command=command("prepare", inputs.recipe),
        panels=panels,
        tables=[_table(rows, order, present)],
    )
    return Section("acquisition", TITLE, text, figures=[figure])


def grouped_kernels(kernels: pd.Series) -> pd.Series:
    """The most frequent kernels by name, upper and lower case alike, the others as one group; missing where unknown."""
    names = kernels.astype(object)
    upper = names.where(names.isna(), names.astype(str).str.upper())
    spelling = names.groupby(upper).first()
    common = upper.value_counts().index[: DRAWN if upper.nunique() <= DRAWN else DRAWN - 1]
    return upper.map(lambda name: spelling[name] if name in common else OTHERS, na_action="ignore")


def explained(x_NP: np.ndarray, groups_N: np.ndarray, *, draws: int = 200) -> tuple[float, float]:
    """Share of the features' variance that lies between the groups (eta squared over all dimensions), and the mean of
    that share with the groups permuted."""
    codes_N = pd.factorize(groups_N)[0]
    centred_NP = x_NP - x_NP.mean(0)
    total = float((centred_NP**2).sum()) or 1.0
    sizes_G = np.bincount(codes_N)

    def between(codes: np.ndarray) -> float:
        sums_GP = np.zeros((len(sizes_G), x_NP.shape[1]))
        np.add.at(sums_GP, codes, centred_NP)
        return float((sums_GP**2 / sizes_G[:, None]).sum()) / total

    rng = np.random.default_rng(0)
    return between(codes_N), float(np.mean([between(rng.permutation(codes_N)) for _ in range(draws)]))


def _features(inputs: Inputs, rows: pd.DataFrame) -> pd.DataFrame | None:
    """Patient vectors of the scans with a known kernel; None where there are too few."""
    parts = patient_vectors(inputs.run, "drasclr")
    if not inputs.workspace.exists(*parts):
        return None
    table = inputs.workspace.read_table(*parts).to_pandas().drop_duplicates("scan_id")
    known = rows.loc[rows["group"].notna(), ["scan_id", "group"]]
    table = table[["scan_id", "vector"]].merge(known, on="scan_id").sort_values("scan_id", ignore_index=True)
    return table if len(table) >= 3 and table["group"].nunique() > 1 else None


def _strip(rows: pd.DataFrame, order: list[str], column: str, title: str, unit: str, width: float) -> Panel:
    groups = [rows.loc[rows["group"] == name, column].dropna().to_numpy(float) for name in order]

    def draw(axes: Axes) -> None:
        rng = np.random.default_rng(0)
        for place, values in enumerate(groups):
            if not len(values):
                continue
            spread = rng.uniform(-0.3, 0.3, len(values))
            axes.plot(
                place + spread,
                values,
                "o",
                color=style.BLUE,
                markersize=2.5,
                alpha=0.5,
                rasterized=len(values) > 2000,
            )
            axes.hlines(np.median(values), place - 0.4, place + 0.4, color=style.INK, linewidth=1.5, zorder=3)
        axes.set_xticks(range(len(order)), order, rotation=45, ha="right")
        axes.set_xlim(-0.6, len(order) - 0.4)
        style.ylabel(axes, unit)

    medians = words.listing(
        [
            f"{name} {matched_decimals(float(np.median(values)))[0]} (n = {len(values):,})"
            for name, values in zip(order, groups)
            if len(values)
        ]
    )
    name = f"kernels-{column.replace('_', '-')}"
    return Panel(
        name,
        title,
        style.chart(name, draw, width=width),
        f"{title} ({unit}) of each scan by reconstruction kernel; medians: {medians}.",
        f"n = {sum(map(len, groups)):,}",
    )


def _scatter(vectors: pd.DataFrame, order: list[str], width: float) -> Panel:
    x_NP = np.stack(vectors["vector"].to_list()).astype(float)
    centred_NP = x_NP - x_NP.mean(0)
    _, values, axes_KP = np.linalg.svd(centred_NP, full_matrices=False)
    flip_K = np.sign(axes_KP[np.arange(len(axes_KP)), np.abs(axes_KP).argmax(1)])
    scores_N2 = (centred_NP @ (axes_KP * flip_K[:, None]).T)[:, :2]
    shares = values**2 / max(float((values**2).sum()), 1e-12)
    looks = style.styles(order)

    def draw(axes: Axes) -> None:
        for name in order:
            mine = (vectors["group"] == name).to_numpy()
            colour, marker = looks[name]
            axes.plot(
                *scores_N2[mine].T,
                marker,
                color=colour,
                markersize=3.5,
                alpha=0.7,
                linestyle="none",
                label=name,
            )
        axes.set_xlabel(f"first component, {words.percent(float(shares[0]))} of the variance")
        style.ylabel(axes, f"second component, {words.percent(float(shares[1]))}")
        axes.legend(fontsize=8, frameon=False, loc="best", handletextpad=0.2)

    return Panel(
        "kernels-features",
        "Features of scans",
        style.chart("kernels-features", draw, width=width),
        f"First two principal components of the patient vectors of {words.count(len(vectors), 'scan')}, by kernel.",
        f"n = {len(vectors):,}",
    )


def _table(rows: pd.DataFrame, order: list[str], present: list[tuple[str, str, str]]) -> Table:
    cells = []
    for name in order:
        group = rows[rows["group"] == name]
        makers = group["manufacturer"].dropna().value_counts()
        line = [
            name,
            words.listing([str(maker) for maker in makers.index[:3]]) or words.DASH,
            f"{len(group):,}",
        ]
        for column, _, _ in present:
            values = group[column].dropna().to_numpy(float)
            if not len(values):
                line.append(words.DASH)
                continue
            middle, low, high = matched_decimals(float(np.median(values)), *median_interval(values))
            line.append(f"{middle} ({low} to {high})")
        cells.append(tuple(line))
    return Table(
        "Medians by kernel",
        ("Kernel", "Manufacturers", "n", *(f"{title} ({unit})" for _, title, unit in present)),
        cells,
        numeric=frozenset(range(2, 3 + len(present))),
    )
