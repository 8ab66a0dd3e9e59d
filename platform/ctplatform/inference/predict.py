"""Predictions of a kept model: for the scans of a workspace that are embedded already, and for given scans."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ctplatform.dataset import ledger
from ctplatform.dataset.atlas import read_atlas
from ctplatform.dataset.ledger import DENSITY
from ctplatform.dataset.shards import footer_of, read_patches
from ctplatform.dataset.splits import read_split
from ctplatform.errors import StageError
from ctplatform.inference.encoders import weights_digest
from ctplatform.inference.encoding import coordinates_of, encode_patches
from ctplatform.inference.kept_model import Carded, KeptModel, check_fits
from ctplatform.storage import layout
from ctplatform.storage.layout import PRETRAIN, SPLITS_FILE, WEIGHTS_FILE
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    from ctplatform.inference.scan_embedding import EmbeddedScan
    from drasclr.encoder import Encoder


def predict_workspace(
    workspace: Workspace,
    model: KeptModel,
    *,
    scan_ids: Sequence[str] = (),
    encoder: Encoder | None = None,
) -> pd.DataFrame:
    """A row a scan: scan_id, subject_id, state, split, and the columns of `predictions`.

    Every scan is predicted from its own vector; the head was fitted on means over the scans of a subject.

    Args:
        workspace: in which the scans are prepared, and embedded with the model's weights.
        model: of a sweep in this or another workspace.
        encoder: a network's own, which takes the scans' patches.
        scan_ids: these scans only; all that have vectors by default.

    Raises:
        StageError: weights, atlas or HU window are not the model's, or a scan has no vector.
    """
    columns = ["scan_id", "subject_id", "state", "content_hash", *DENSITY]
    rows = ledger.read_ledger(workspace, columns=columns).set_index("scan_id")
    if model.features["encoder"] == "density":
        vectors = {str(i): row for i, row in zip(rows.index, rows[list(DENSITY)].to_numpy(float))}
        vectors = {scan: vector for scan, vector in vectors.items() if np.isfinite(vector).all()}
    elif encoder is not None:
        check_weights(model, encoder)
        usable = ledger.usable(rows.reset_index(), use_flagged=True)["scan_id"]
        asked = set(scan_ids) or set(usable)
        vectors = _network_vectors(workspace, model, encoder, [scan for scan in usable if scan in asked])
    else:
        vectors = _vectors(workspace, model)
    wanted = list(scan_ids) or sorted(scan for scan in vectors if scan in rows.index)
    missing = [scan for scan in wanted if scan not in vectors or scan not in rows.index]
    if missing or not wanted:
        raise StageError(
            f"{len(missing)} scan(s) have no vector: {', '.join(missing[:5])}"
            if missing
            else "no scan has a vector",
            "Check the ids with `drasclr status`, and run `drasclr embed`",
            code="no-vector",
        )
    x_NP = np.stack([vectors[scan] for scan in wanted])
    check_fits(model, {"width": x_NP.shape[1]})
    subjects = rows.loc[wanted, "subject_id"].astype(str)
    found = pd.DataFrame({"scan_id": wanted, "subject_id": subjects.to_numpy()})
    found["state"] = rows.loc[wanted, "state"].to_numpy()
    if workspace.exists(SPLITS_FILE):
        split = read_split(workspace)
        sides = dict.fromkeys(split.train, "train") | dict.fromkeys(split.test, "test")
        found["split"] = [sides.get(subject, "") for subject in subjects]
    return found.join(predictions(model, x_NP))


def predict_embedded(model: KeptModel, scans: Sequence[EmbeddedScan]) -> pd.DataFrame:
    """A row a scan: scan_id, subject_id, path, state, reason, and the columns of `predictions`; empty without a vector.

    Args:
        model: a kept model.
        scans: embedded with the weights that `check_weights` has accepted.

    Raises:
        StageError: the vectors are not as wide as the model's features.
    """
    names = ("scan_id", "subject_id", "path", "state", "reason")
    found = pd.DataFrame([{name: scan.row.get(name, "") for name in names} for scan in scans])
    density = model.features["encoder"] == "density"

    def vector(scan: EmbeddedScan) -> np.ndarray:
        if density:
            return np.array([scan.row[name] for name in DENSITY], float)
        assert scan.embedding is not None
        return model.vector(scan.embedding)

    usable = [number for number, scan in enumerate(scans) if scan.has_vectors]
    if not usable:
        return found.assign(prediction=np.nan)
    x_NP = np.stack([vector(scans[n]) for n in usable])
    check_fits(model, {"width": x_NP.shape[1]})
    return found.join(predictions(model, x_NP).set_axis(usable))


def check_weights(model: Carded, encoder: Encoder) -> None:
    """Whether an encoder, as `drasclr.load` returns it, gives the features that a model takes.

    Raises:
        StageError: its weights, atlas, HU window or statistics are others; naming all of them.
    """
    from drasclr import weights

    if model.features["encoder"] == "density":
        return
    stated = encoder.card.get("files", {}).get(WEIGHTS_FILE)
    digest = stated or hashlib.sha256(weights.files(encoder, encoder.card)[WEIGHTS_FILE]).hexdigest()
    window, statistics = encoder.card.get("hu_window"), encoder.representation
    check_fits(
        model,
        {
            "weights_sha256": digest,
            "statistics_sha256": statistics and hashlib.sha256(statistics).hexdigest(),
            "atlas_hash": encoder.atlas.hash if encoder.atlas else None,
            "hu_window": [float(end) for end in window] if window else None,
        },
    )


def predictions(model: KeptModel, x_NP: np.ndarray) -> pd.DataFrame:
    """Columns `prediction`, with the calibration's `low` and `high` where it has any; survival: `risk` and the curve.

    `risk` is the hazard relative to a score of 0, the training subjects' mean; `survival_<days>` the probability of no
    event by then, at times within the training subjects' follow-up.
    """
    value_N = model.head.predict(x_NP)
    if model.head.kind == "survival":
        times = [float(t) for t in model.card["curve_times"]]
        curve_NT = model.head.survival(x_NP, np.array(times))
        named = {f"survival_{t:g}": curve_NT[:, i] for i, t in enumerate(times)}
        return pd.DataFrame({"prediction": value_N, "risk": np.exp(value_N), **named})
    table = pd.DataFrame({"prediction": value_N})
    ends_N2 = model.intervals(value_N)
    return table if np.isnan(ends_N2).all() else table.assign(low=ends_N2[:, 0], high=ends_N2[:, 1])


def _vectors(workspace: Workspace, model: KeptModel) -> dict[str, np.ndarray]:
    """Scan -> its vector from the model's weights."""
    run = _run_with(workspace, model.features)
    card = workspace.read_json(*layout.card(run))
    found: dict[str, Any] = {
        "atlas_hash": read_atlas(workspace).hash,
        "hu_window": [float(end) for end in card["hu_window"]],
    }
    if model.features.get("statistics_sha256") and workspace.exists(*layout.representation(run)):
        content = workspace.read_bytes(*layout.representation(run))
        found["statistics_sha256"] = hashlib.sha256(content).hexdigest()
    check_fits(model, found)
    parts = layout.patient_vectors(run, "drasclr")
    if not workspace.exists(*parts):
        raise StageError(f"run {run} has no vectors", "Run `drasclr embed`", code="no-vector")
    table = workspace.read_table(*parts)
    vectors = np.stack(table.column("vector").to_pylist()).astype(float)
    return dict(zip(table.column("scan_id").to_pylist(), vectors))


def _network_vectors(
    workspace: Workspace, model: KeptModel, encoder: Encoder, scan_ids: Sequence[str]
) -> dict[str, np.ndarray]:
    """Scan -> the mean feature of a network's locations, from the workspace's shards."""
    atlas = read_atlas(workspace)
    check_fits(model, {"atlas_hash": atlas.hash})
    assert model.locations_L is not None
    coordinates_L3 = coordinates_of(atlas)[model.locations_L]
    window = [float(end) for end in model.features["hu_window"]]
    vectors = {}
    for scan_id in scan_ids:
        stated = (footer_of(workspace, scan_id).metadata or {}).get(b"hu_window")
        if stated:
            check_fits(model, {"hu_window": [float(end) for end in json.loads(stated)]})
        _, hu_LDHW = read_patches(workspace, scan_id, model.locations_L)
        features_LSD = encode_patches(
            encoder, hu_LDHW[:, None], coordinates_L3, hu_window=(int(window[0]), int(window[1]))
        )
        vectors[scan_id] = features_LSD[:, 0].astype(float).mean(0)
    return vectors


def _run_with(workspace: Workspace, features: Any) -> str:
    """The run of the workspace whose weights the model was trained on."""
    runs = [run for run in workspace.folders(PRETRAIN) if workspace.exists(*layout.card(run))]
    for run in sorted(runs, key=lambda name: name != features["run"]):
        if weights_digest(workspace, run) == features["weights_sha256"]:
            return run
    raise StageError(
        f"no run of this workspace has the weights that the model was trained on ({features['weights_sha256'][:12]}); "
        f"it has {', '.join(runs) or 'none'}",
        "Predict in the workspace of the model's sweep, or embed the scans with its weights",
        code="misfit",
    )
