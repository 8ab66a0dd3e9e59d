"""Nearest patients: one atlas location in a held-out patient, and the same location in the most similar patients."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ctplatform.dataset import shards
from ctplatform.errors import StageError
from ctplatform.inference.nearest import dark_shares
from ctplatform.inference.similarity import most_similar, similarities
from ctplatform.report import words
from ctplatform.report.commands import command
from ctplatform.report.document import Figure, Image, Omitted, Section, Table
from ctplatform.report.inputs import Inputs
from ctplatform.report.patch_strip import patch_strip
from ctplatform.storage.layout import patient_vectors

TITLE = "Nearest patients"
NEIGHBOURS = 4
MAX_SCANS = 2000  # between which similarities are computed; of more, an even selection by id
WINDOW = (-1024, -600)  # HU; emphysema is dark against grey lung


def section(inputs: Inputs) -> Section | Omitted:
    """Three held-out patients (most, median and least LAA-950), and the similarity of neighbours over all scans."""
    parts = patient_vectors(inputs.run, "drasclr")
    if not inputs.workspace.exists(*parts):
        return Omitted(TITLE, "this run has no embeddings")
    table = inputs.workspace.read_table(*parts).to_pandas().drop_duplicates("scan_id")
    columns = inputs.usable[["scan_id", "laa950"]].dropna()
    table = table.merge(columns, on="scan_id").sort_values("scan_id", ignore_index=True)
    table = table.iloc[
        np.unique(np.linspace(0, len(table) - 1, min(len(table), MAX_SCANS)).round().astype(int))
    ]
    if table["subject_id"].nunique() <= NEIGHBOURS:
        return Omitted(TITLE, f"fewer than {NEIGHBOURS + 2} subjects have embeddings")
    table = table.reset_index(drop=True)
    similarity_NN = similarities(np.stack(table["vector"].to_list()))
    order_NK = neighbours(similarity_NN, table["subject_id"].to_numpy())
    queries = _queries(table, inputs)
    try:
        location = _location(inputs, str(table.at[queries[0], "scan_id"]))
        images = [_image(inputs, table, q, order_NK[q], similarity_NN[q], location) for q in queries]
    except StageError:
        return Omitted(TITLE, "the patches of the embedded scans are not in this workspace")
    difference, chance = differences(table["laa950"].to_numpy(float), order_NK)
    figure = Figure(
        name="nearest",
        title=f"Atlas location {location}, one strip a patient",
        caption=(
            f"First the patient, then the {NEIGHBOURS} most similar others by the cosine of their centred patient "
            f"vectors: middle axial slice of the patch, {words.interval(*WINDOW, 0)} HU. The location is the most "
            "emphysematous one of the first patient. Patients: the held-out ones with the most, the median and the "
            "least lung below −950 HU."
        ),
        n=f"n = {words.count(len(table), 'scan')} searched",
        interval="single patients; the differences in the text have 95% bootstrap intervals over scans",
        command=command("embed", inputs.recipe),
        images=images,
        tables=[_table(table, queries, order_NK, similarity_NN)],
    )
    text = (
        f"Over {words.count(len(table), 'scan')}, LAA-950 differs by {words.estimate(*difference)} from that of the "
        f"{NEIGHBOURS} nearest patients, and by {words.estimate(*chance)} from that of any other patient (mean "
        "absolute difference, 95% interval)."
    )
    return Section("nearest", TITLE, [text], figures=[figure])


def neighbours(similarity_NN: np.ndarray, subjects_N: np.ndarray) -> np.ndarray:
    """Positions [N, K] of the most similar scans of other subjects, one scan a subject, most similar first."""
    picked = [
        most_similar(row, subjects_N, subject=subject, count=NEIGHBOURS)
        for row, subject in zip(similarity_NN, subjects_N)
    ]
    return np.array(picked)


def differences(
    values_N: np.ndarray, order_NK: np.ndarray, *, resamples: int = 1000
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean absolute difference to the neighbours and to all other scans, each with its 95% bootstrap interval."""
    near_N = np.abs(values_N[:, None] - values_N[order_NK]).mean(1)
    count = len(values_N)
    far_N = np.abs(values_N[:, None] - values_N).sum(1) / (count - 1)
    picks = np.random.default_rng(0).integers(0, count, (resamples, count))

    def with_interval(each_N: np.ndarray) -> tuple[float, float, float]:
        low, high = np.percentile(each_N[picks].mean(1), [2.5, 97.5])
        return float(each_N.mean()), float(low), float(high)

    return with_interval(near_N), with_interval(far_N)


def _queries(table: pd.DataFrame, inputs: Inputs) -> list[int]:
    test = set(map(str, (inputs.splits or {}).get("test", [])))
    held_out = table[table["subject_id"].astype(str).isin(test)]
    ranked = (held_out if len(held_out) >= 3 else table).sort_values(["laa950", "scan_id"]).index
    return [int(ranked[-1]), int(ranked[len(ranked) // 2]), int(ranked[0])]


def _location(inputs: Inputs, scan: str) -> int:
    locations_N, hu_NDHW = shards.read_patches(inputs.workspace, scan)
    return int(locations_N[int(np.argmax(dark_shares(hu_NDHW)))])


def _image(
    inputs: Inputs,
    table: pd.DataFrame,
    query: int,
    order_K: np.ndarray,
    similarity_N: np.ndarray,
    location: int,
) -> Image:
    scans = [str(table.at[int(position), "scan_id"]) for position in (query, *order_K)]
    patches = [shards.read_patches(inputs.workspace, scan, [location])[1][0] for scan in scans]
    data, width, height = patch_strip(patches, window=WINDOW)
    scan, laa = str(table.at[query, "scan_id"]), float(table.at[query, "laa950"])
    others = [
        f"{table.at[int(k), 'scan_id']} (LAA-950 {words.percent(float(table.at[int(k), 'laa950']))}, "
        f"cosine {words.number(float(similarity_N[int(k)]))})"
        for k in order_K
    ]
    state = str(inputs.ledger.set_index("scan_id").at[scan, "state"])
    return Image(
        name=scan,
        data=data,
        kind="image/png",
        width=width,
        height=height,
        alt=f"Patch of {scan} at location {location} and the same location in {words.listing(others)}",
        state=state,
        lines=[f"LAA-950 {words.percent(laa)}; then {', '.join(others)}"],
    )


def _table(table: pd.DataFrame, queries: list[int], order_NK: np.ndarray, similarity_NN: np.ndarray) -> Table:
    rows = [
        (
            str(table.at[q, "scan_id"]),
            words.number(float(table.at[q, "laa950"]), 3),
            f"{rank}",
            str(table.at[int(k), "scan_id"]),
            words.number(float(table.at[int(k), "laa950"]), 3),
            words.number(float(similarity_NN[q, int(k)]), 3),
        )
        for q in queries
        for rank, k in enumerate(order_NK[q], 1)
    ]
    return Table(
        "Patients shown",
        ("Scan", "LAA-950", "Rank", "Neighbour", "Its LAA-950", "Cosine"),
        rows,
        numeric=frozenset({1, 2, 4, 5}),
    )
