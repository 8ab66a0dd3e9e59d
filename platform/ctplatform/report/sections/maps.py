"""Predicted label maps beside CT and truth, of region classification (emphysema subtypes) and segmentation."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from ctplatform.errors import ConfigError
from ctplatform.evaluation.slices import Slice, read_slices
from ctplatform.report import style, words
from ctplatform.report.commands import command
from ctplatform.report.document import Figure, Image, Key, Omitted, Section, Table
from ctplatform.report.inputs import Inputs
from ctplatform.tasks import get_task
from ctplatform.tasks.label_map import VolumeTask

TITLE = "Maps of the lung"
OPACITY = 0.55
GAP, HEAD = 6, 18
# Classes in the order of a task; regions leave their first class (normal lung) unpainted.
COLOURS = (style.ORANGE, style.SKY, style.PURPLE, style.GREEN, style.VERMILION)


def section(inputs: Inputs) -> Section | Omitted:
    """A figure a task on label maps, an image a subject: CT, truth, and the map of each initialisation."""
    found = read_slices(inputs.workspace, inputs.run)
    tasks = [name for name in dict.fromkeys(task for task, _ in found) if _volume_task(inputs, name)]
    if not tasks:
        return Omitted(TITLE, "no task on label maps was evaluated")
    order = [*inputs.recipe.sweep.initialisations]
    figures = []
    for name in tasks:
        mine = {init: slices for (task, init), slices in found.items() if task == name}
        ranked = sorted(mine, key=lambda n: order.index(n) if n in order else len(order))
        figures.append(_figure(inputs, name, {n: mine[n] for n in ranked}))
    return Section(
        "maps",
        TITLE,
        [
            "Voxelwise predictions for the held-out subjects with the most disease, with the median amount and in "
            "between. Scores are under label efficiency; these images show where the errors are."
        ],
        figures=figures,
    )


def _volume_task(inputs: Inputs, name: str) -> VolumeTask | None:
    """The task of that name; None if it is no task on label maps, or none of this version and recipe."""
    try:
        task = get_task(name, inputs.recipe.tasks)
    except ConfigError:
        return None
    return task if isinstance(task, VolumeTask) else None


def painted_classes(task: VolumeTask) -> list[tuple[int, str, str]]:
    """(number in the maps, class, colour) of the classes that are painted."""
    numbered = list(enumerate(task.classes, 1))
    shown = numbered[1:] if task.kind == "regions" else numbered
    return [(number, name, COLOURS[i % len(COLOURS)]) for i, (number, name) in enumerate(shown)]


def _figure(inputs: Inputs, name: str, by_initialisation: dict[str, list[Slice]]) -> Figure:
    task = _volume_task(inputs, name)
    assert task is not None
    classes = painted_classes(task)
    first = next(iter(by_initialisation.values()))
    names = [words.initialisation(i) for i in by_initialisation]
    images = []
    for slice_ in first:
        maps = [
            next((s.predicted for s in slices if s.scan_id == slice_.scan_id), None)
            for slices in by_initialisation.values()
        ]
        images.append(_image(inputs, task, slice_, names, maps, classes))
    regions = task.kind == "regions"
    return Figure(
        name=f"maps-{words.slug(name)}",
        title=words.sentence(words.task(name)),
        caption=(
            f"From left to right: CT, truth, {words.listing(names)}. Each is the "
            f"{first[0].plane} slice with the most {'diseased' if regions else 'labelled'} voxels, the patient's "
            "right on the left. "
            + (f"Windows are {inputs.recipe.sweep.dense.stride} mm apart. " if regions else "")
            + "Select an image to enlarge it."
        ),
        n=f"{words.count(len(first), 'held-out subject')} of {_subjects(inputs, name)}",
        interval="single subjects, no interval",
        command=command("sweep", inputs.recipe),
        images=images,
        keys=[Key(words.sentence(label), colour) for _, label, colour in classes],
        tables=[table] if (table := _table(inputs, name, [s.subject_id for s in first])) else [],
    )


def _subjects(inputs: Inputs, name: str) -> str:
    if inputs.predictions is None:
        return words.DASH
    rows = inputs.predictions[inputs.predictions["task"] == name]
    return f"{rows['subject_id'].nunique():,}"


def _image(
    inputs: Inputs,
    task: VolumeTask,
    slice_: Slice,
    names: list[str],
    maps: list[np.ndarray | None],
    classes: list[tuple[int, str, str]],
) -> Image:
    height, width = slice_.grey.shape
    panels = [("CT", None), ("Truth", slice_.truth), *zip(names, maps)]
    strip = Picture.new("RGB", (len(panels) * (width + GAP) - GAP, height + HEAD), (255, 255, 255))
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(12)
    for place, (label, classes_RC) in enumerate(panels):
        x = place * (width + GAP)
        draw.text((x + 2, 1), words.short(label, max(8, width // 7)), fill=(28, 39, 51), font=font)
        strip.paste(Picture.fromarray(_overlay(slice_.grey, classes_RC, classes)), (x, HEAD))
    stream = io.BytesIO()
    strip.save(stream, "WEBP", quality=82, method=4)
    states = inputs.ledger.set_index("scan_id")["state"] if len(inputs.ledger) else pd.Series(dtype=str)
    return Image(
        name=slice_.scan_id,
        data=stream.getvalue(),
        kind="image/webp",
        width=strip.width,
        height=strip.height,
        alt=(
            f"{words.sentence(slice_.plane)} slice of {slice_.scan_id}: CT, then the {words.task(task.name)} of the "
            f"truth: {_areas(slice_.truth, classes)}; "
            + "; ".join(f"{n}: {_areas(m, classes)}" for n, m in zip(names, maps) if m is not None)
        ),
        state=str(states.get(slice_.scan_id, "")),
        lines=[f"Truth: {_areas(slice_.truth, classes)}"],
    )


def _overlay(
    grey: np.ndarray, classes_RC: np.ndarray | None, classes: list[tuple[int, str, str]]
) -> np.ndarray:
    rgb = np.repeat(grey[..., None], 3, axis=2).astype(float)
    if classes_RC is not None:
        for number, _, colour in classes:
            here = classes_RC == number
            paint = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], float)
            rgb[here] = (1 - OPACITY) * rgb[here] + OPACITY * paint
    return rgb.astype(np.uint8)


def _areas(classes_RC: np.ndarray, classes: list[tuple[int, str, str]]) -> str:
    """The painted classes of a slice in square centimetres."""
    parts = [
        f"{label} {n / 100:.1f} cm²" for number, label, _ in classes if (n := (classes_RC == number).sum())
    ]
    return words.listing(parts) or "none in this slice"


def _table(inputs: Inputs, name: str, subjects: list[str]) -> Table | None:
    if inputs.predictions is None or "class" not in inputs.predictions:
        return None
    rows = inputs.predictions[inputs.predictions["task"] == name]
    rows = rows[(rows["fraction"] == rows["fraction"].max()) & rows["subject_id"].isin(subjects)]
    if rows.empty:
        return None
    means = rows.groupby(["subject_id", "class", "initialisation"])["prediction"].mean().unstack()
    truth = rows.groupby(["subject_id", "class"])["target"].first()
    order = [i for i in inputs.recipe.sweep.initialisations if i in means] or list(means)
    unit = "% of the lung" if get_task(name, inputs.recipe.tasks).kind == "regions" else "ml"
    cells = [
        (subject, label, words.number(truth[subject, label], 1))
        + tuple(words.number(means.loc[(subject, label), i], 1) for i in order)
        for subject in subjects
        for label in dict.fromkeys(rows["class"])
    ]
    return Table(
        f"{words.sentence(words.task(name))} of the subjects shown, {unit}, mean over seeds",
        ("Subject", "Class", "True", *map(words.initialisation, order)),
        cells,
        numeric=frozenset(range(2, 3 + len(order))),
    )
