"""The most similar patients of a scan in a workspace: by the patient's vector, and by the patch at a place.

Legend: S scans of the workspace, N locations, D features, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ctplatform.dataset import ledger, shards
from ctplatform.dataset.atlas import read_atlas
from ctplatform.errors import StageError
from ctplatform.inference.pooling import MIN_INSIDE, STANDARDISED, pool
from ctplatform.inference.similarity import most_similar, similarity_to
from ctplatform.storage import layout
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    from drasclr.atlas import Atlas

ENCODER = "drasclr"
EMPHYSEMA_HU = -950
SOLID_HU, SOLID = -500, 0.15  # a location with a larger share above is mostly chest wall or heart


@dataclass(frozen=True)
class Query:
    """The scan that others are compared with.

    Attributes:
        name: its id, or the name of its file.
        subject: None if it is not in the workspace.
        patient_P: pooled as the workspace's vectors are.
        hu_NDHW: int16, its patches.
        patches_ND: a vector a location; None if they are read from the workspace, where `name` is a scan.
        inside_N: share of each patch in the scan; None likewise.
    """

    name: str
    subject: str | None
    patient_P: np.ndarray
    hu_NDHW: np.ndarray
    patches_ND: np.ndarray | None = None
    inside_N: np.ndarray | None = None


@dataclass(frozen=True)
class Neighbour:
    """A similar scan: its cosine by the patient's vector (location None) or by the patch there."""

    scan_id: str
    subject_id: str
    cosine: float


@dataclass(frozen=True)
class Nearest:
    """What was found.

    Attributes:
        query: the scan.
        run: whose embeddings were searched.
        searched: scans.
        patients: by the vectors of patients.
        locations: location -> the nearest by the vector of the patch there.
        centres_mm: of those locations, LPS mm of the template.
    """

    query: Query
    run: str
    searched: int
    patients: list[Neighbour]
    locations: dict[int, list[Neighbour]]
    centres_mm: dict[int, list[float]]

    def plain(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "scan": self.query.name,
            "run": self.run,
            "searched": self.searched,
            "patients": [_plain(found) for found in self.patients],
            "locations": [
                {
                    "location": location,
                    "centre_mm": self.centres_mm[location],
                    "patients": list(map(_plain, found)),
                }
                for location, found in self.locations.items()
            ],
        }


def embedded_run(workspace: Workspace, run: str | None = None) -> str:
    """The run whose embeddings are searched: the only one, unless it is named.

    Raises:
        StageError: there is none, not this one, or several.
    """
    runs = [
        name
        for name in workspace.folders(layout.EMBEDDINGS)
        if workspace.exists(*layout.patient_vectors(name, ENCODER))
    ]
    if not runs:
        raise StageError(
            f"{workspace.display()} has no embeddings", "Run `drasclr embed` first", code="missing"
        )
    if run is None and len(runs) > 1:
        raise StageError(
            f"{workspace.display()} has embeddings of {len(runs)} runs: {', '.join(runs)}",
            "Name one: --run RUN",
            code="usage",
        )
    if run is not None and run not in runs:
        raise StageError(
            f"no embeddings of run {run!r}", f"There are those of {', '.join(runs)}", code="usage"
        )
    return run or runs[0]


def query_of_scan(workspace: Workspace, run: str, scan_id: str) -> Query:
    """A scan of the workspace.

    Raises:
        StageError: it has no vector.
    """
    table = _patients(workspace, run)
    rows = table[table["scan_id"] == scan_id]
    if rows.empty:
        raise StageError(
            f"{scan_id} has no vector of run {run}",
            "See `drasclr explain` for why; or give a file",
            code="no-such-scan",
        )
    row = rows.iloc[0]
    _, hu_NDHW = shards.read_patches(workspace, scan_id)
    return Query(scan_id, str(row["subject_id"]), np.asarray(row["vector"], float), hu_NDHW)


def query_of_file(workspace: Workspace, run: str, path: str, *, series_uid: str = "") -> Query:
    """A scan that is not in the workspace, embedded as the workspace's scans were.

    Raises:
        ScanError: the scan cannot be read, or is rejected.
        StageError: the run's weights cannot be used.
    """
    from pathlib import Path

    from ctplatform.errors import ScanError
    from ctplatform.inference.encoders import load_encoder
    from ctplatform.inference.patient_vectors import read_statistics
    from ctplatform.inference.scan_embedding import ScanEmbedder, preparation_of

    card = workspace.read_json(*layout.card(run))
    model = load_encoder(workspace, run, hu_window=preparation_of(card).hu_window)
    embedder = ScanEmbedder(model, pooling="mean")
    name = Path(path).name
    scan = embedder.sample({"scan_id": name, "path": path, "series_uid": series_uid})
    if scan.verdict.state == "rejected":
        raise ScanError(
            f"{name} is rejected: {'; '.join(scan.verdict.reasons)}",
            "Look at it first: `drasclr view`",
            code="quality",
        )
    patches_ND, inside_N = embedder.encode(scan.patches.hu_NDHW), scan.patches.inside_N
    pooling = card.get("pooling", "mean")
    statistics = read_statistics(workspace, run) if pooling in STANDARDISED else None
    patient_P = pool(patches_ND[None], inside_N[None], pooling, statistics, embedder.atlas.centres_mm_N3)[0]
    return Query(name, None, patient_P, scan.patches.hu_NDHW, patches_ND, inside_N)


def nearest(
    workspace: Workspace,
    run: str,
    query: Query,
    *,
    locations: Sequence[int] = (),
    count: int = 4,
    places: int = 3,
) -> Nearest:
    """The most similar other subjects, one scan a subject, by the patient's vector and at some locations.

    Args:
        workspace: with embeddings of the run.
        run: the pretraining run.
        query: the scan.
        locations: of the atlas; none: `places` chosen by `dark_locations`.
        count: K.
        places: how many to choose.

    Raises:
        StageError: no other subject has vectors, or there is no such location.
    """
    atlas = read_atlas(workspace)
    wrong = [location for location in locations if not 0 <= location < atlas.num_locations]
    if wrong:
        raise StageError(
            f"no location {wrong[0]}", f"The atlas has 0 to {atlas.num_locations - 1}", code="usage"
        )
    table = _patients(workspace, run)
    subjects_S = table["subject_id"].astype(str).to_numpy()
    if not (subjects_S != query.subject).any():
        raise StageError("no other subject has vectors", "Embed more scans", code="missing")
    vectors_SP = np.stack(table["vector"].to_list()).astype(float)

    def neighbours(similarity_S: np.ndarray) -> list[Neighbour]:
        picked = most_similar(similarity_S, subjects_S, subject=query.subject, count=count)
        return [
            Neighbour(str(table["scan_id"].iloc[i]), str(subjects_S[i]), float(similarity_S[i]))
            for i in picked
        ]

    chosen = list(locations) or dark_locations(query.hu_NDHW, atlas, places)
    at_places = read_at(workspace, run, chosen)
    found = {}
    for location in chosen:
        vectors, inside = at_places[location]
        own = vectors.get(query.name) if query.patches_ND is None else query.patches_ND[location]
        if own is None:
            raise StageError(
                f"{query.name} has no vectors of patches", "Run `drasclr embed` again", code="missing"
            )
        similarity_S = np.full(len(table), np.nan)
        rows = [i for i, scan in enumerate(table["scan_id"]) if inside.get(scan, 0) >= MIN_INSIDE]
        if rows:
            similarity_S[rows] = similarity_to(
                own, np.stack([vectors[table["scan_id"].iloc[i]] for i in rows])
            )
        found[location] = neighbours(similarity_S)
    return Nearest(
        query,
        run,
        len(table),
        neighbours(similarity_to(query.patient_P, vectors_SP)),
        found,
        {location: [round(float(v), 1) for v in atlas.centres_mm_N3[location]] for location in chosen},
    )


def dark_locations(hu_NDHW: np.ndarray, atlas: Atlas, count: int) -> list[int]:
    """Up to `count` locations with the largest share below −950 HU, no two of which share a voxel.

    Args:
        hu_NDHW: patches at all locations.
        atlas: of them.
        count: how many.
    """
    picked: list[int] = []
    for location in np.argsort(-dark_shares(hu_NDHW), kind="stable"):
        apart = (
            np.abs(atlas.corners_N3[picked] - atlas.corners_N3[location]).max(1, initial=0)
            >= atlas.patch_size
        )
        if apart.all():
            picked.append(int(location))
        if len(picked) == count:
            break
    return picked


def dark_shares(hu_NDHW: np.ndarray) -> np.ndarray:
    """Share of each patch below −950 HU, less 1 for patches of mostly chest wall or heart."""
    share_N: np.ndarray = (hu_NDHW < EMPHYSEMA_HU).mean((1, 2, 3))
    share_N -= (hu_NDHW > SOLID_HU).mean((1, 2, 3)) > SOLID
    return share_N


def read_at(
    workspace: Workspace, run: str, locations: Sequence[int]
) -> dict[int, tuple[dict[str, np.ndarray], dict[str, float]]]:
    """Location -> (scan_id -> vector of its patch, scan_id -> share of the patch in the scan).

    File by file, so that memory is bounded by the locations given; of a scan in several files the newest counts.
    """
    found: dict[int, tuple[dict[str, np.ndarray], dict[str, float]]] = {
        place: ({}, {}) for place in locations
    }
    folder = layout.patch_vectors(run, ENCODER, "")[:-1]
    infos = sorted(workspace.infos(*folder), key=lambda info: info.mtime_ns or 0)
    for info in infos:
        if not (info.base_name.startswith(f"{ENCODER}-") and info.base_name.endswith(layout.PARQUET)):
            continue
        with workspace.fs.open_input_file(workspace.path(*folder, info.base_name)) as stream:
            table = pq.read_table(stream)
        table = table.filter(pc.is_in(table["location"], pa.array(locations, pa.int32())))
        rows = zip(
            *(table[name].to_pylist() for name in ("scan_id", "location", "inside")),
            table["vector"].to_numpy(zero_copy_only=False),
            strict=True,
        )
        for scan, location, inside, vector in rows:
            found[location][0][scan], found[location][1][scan] = vector, inside
    return found


def _patients(workspace: Workspace, run: str) -> pd.DataFrame:
    """Vectors of the scans that may be used, with the ledger's subjects, sorted by scan_id."""
    table = workspace.read_table(*layout.patient_vectors(run, ENCODER)).to_pandas().drop_duplicates("scan_id")
    rows = ledger.usable(
        ledger.read_ledger(workspace, columns=["scan_id", "subject_id", "state"]), use_flagged=True
    )
    merged = table[["scan_id", "vector"]].merge(rows[["scan_id", "subject_id"]], on="scan_id")
    return merged.sort_values("scan_id", ignore_index=True)


def _plain(found: Neighbour) -> dict[str, Any]:
    return {"scan_id": found.scan_id, "subject_id": found.subject_id, "cosine": round(found.cosine, 4)}
