"""A page with the most similar patients of one scan, with pictures of the same anatomy."""

from __future__ import annotations

from ctplatform.dataset import shards
from ctplatform.inference.nearest import Nearest, Neighbour
from ctplatform.report import words
from ctplatform.report.document import Figure, Image, Page, Section, Table
from ctplatform.report.page import render
from ctplatform.report.patch_strip import patch_strip
from ctplatform.storage.workspace import Workspace


def nearest_page(workspace: Workspace, found: Nearest, *, window: tuple[float, float]) -> str:
    """The complete HTML document; it loads nothing.

    Args:
        workspace: with the shards of the neighbours.
        found: what is shown.
        window: HU of black and of white.

    Raises:
        StageError: a shard is missing.
    """
    patients = Section(
        "patients",
        "By the whole scan",
        [
            f"The nearest of {words.count(found.searched, 'scan')} by the vector of the patient, one scan a subject."
        ],
        figures=[
            _figure(
                workspace,
                found,
                f"patients-{location}",
                f"Atlas location {location}",
                found.patients,
                location,
                window,
            )
            for location in found.locations
        ],
        tables=[_table("Nearest patients", found.patients)],
    )
    places = Section(
        "places",
        "By the place",
        ["The nearest by the vector of the patch at one location of the atlas."],
        figures=[
            _figure(
                workspace,
                found,
                f"place-{location}",
                f"Atlas location {location}",
                neighbours,
                location,
                window,
            )
            for location, neighbours in found.locations.items()
            if neighbours
        ],
    )
    page = Page(
        title=f"Nearest patients of {found.query.name}",
        subtitle=f"Run {found.run}",
        sections=[patients, places],
        generated=words.generated(),
    )
    return render(page)


def _figure(
    workspace: Workspace,
    found: Nearest,
    name: str,
    title: str,
    neighbours: list[Neighbour],
    location: int,
    window: tuple[float, float],
) -> Figure:
    patches = [found.query.hu_NDHW[location]]
    patches += [shards.read_patches(workspace, other.scan_id, [location])[1][0] for other in neighbours]
    data, width, height = patch_strip(patches, window=window)
    others = [f"{other.scan_id} (cosine {words.number(other.cosine)})" for other in neighbours]
    centre = ", ".join(words.number(value, 0) for value in found.centres_mm[location])
    return Figure(
        name=name,
        title=title,
        caption=(
            f"First {found.query.name}, then its neighbours: middle axial slice of the patch, "
            f"{words.interval(window[0], window[1], 0)} HU. Centre in the atlas, LPS: {centre} mm."
        ),
        n=words.count(len(neighbours), "neighbour"),
        interval="single patients, no interval",
        command=f"drasclr nearest {found.query.name} --workspace WORKSPACE --location {location}",
        images=[
            Image(
                name=found.query.name,
                data=data,
                kind="image/png",
                width=width,
                height=height,
                alt=f"Patch of {found.query.name} at location {location}, and of {words.listing(others)}",
                state="",
                lines=[f"then {', '.join(others)}"],
            )
        ],
        tables=[_table(f"Nearest at location {location}", neighbours)],
    )


def _table(caption: str, neighbours: list[Neighbour]) -> Table:
    rows = [
        (str(rank), other.scan_id, other.subject_id, words.number(other.cosine, 3))
        for rank, other in enumerate(neighbours, 1)
    ]
    return Table(caption, ("Rank", "Scan", "Subject", "Cosine"), rows, numeric=frozenset({3}))
