"""Real tissue as part of the evidence: a few-shot texture test of encoders that have seen phantoms only.

1,337 labelled patches of 31 x 31 pixels of smokers' CTs, six classes (emphysema patches of the Chest Imaging Platform).
They are 2-D, carry no pixel size, no place in the lung and no patient: patches of one patient may lie on both sides of
a draw, for every method alike, and intervals are over draws of the labels and pretraining seeds, not over patients.
The file is read where `DRASCLR_EMPHYSEMA_PATCHES` names it, and never copied.

Legend: N patches, D features, K seeds, R draws, B resamples.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ctplatform.metrics.bootstrap import interval
from tests.benchmarks import evidence_real
from tests.benchmarks.evidence_parts import (
    DEVELOPMENT,
    MAIN,
    RANDOM,
    SEEDS,
    Evidence,
    recipe_of,
    write_result,
)

PATCHES = "DRASCLR_EMPHYSEMA_PATCHES"
NAME = "real_tissue"
SHOTS = (5, 20, 80)
DRAWS = 20
BOOTSTRAP = 2000
#: Row of the atlas that stands for the place of patches that have none.
PLACE = 30
LAST, MULTISCALE = "last", "multiscale"
HISTOGRAM, MOMENTS = "histogram", "moments"
BASELINES = "baselines"
Part = tuple[Path, list[str]]


def patches_file() -> Path | None:
    """The file of patches; None where it is not there, so that the claim is skipped."""
    path = Path(os.environ.get(PATCHES, ""))
    return path if path.is_file() else None


def phases(evidence: Evidence) -> list[list[Part]]:
    """One part an encoder, and one for the baselines; none without the file."""
    if patches_file() is None:
        print(
            f"{NAME}: skipped, set {PATCHES} to EmphysemaPatches.mat of the Chest Imaging Platform",
            flush=True,
        )
        return []
    before = evidence_real.phases(evidence)
    kinds = (MAIN, RANDOM, evidence_real.REAL) if before else (MAIN, RANDOM)
    encoders = [(encoder, seed) for encoder in kinds for seed in SEEDS] + [(BASELINES, 0)]
    return [
        *before,
        [(scored_file(evidence, *encoder), ["tissue", encoder[0], str(encoder[1])]) for encoder in encoders],
    ]


def scored_file(evidence: Evidence, encoder: str, seed: int) -> Path:
    """Balanced accuracies of one encoder."""
    return evidence.folder / "tissue" / f"{encoder}-{seed}.json"


def score(evidence: Evidence, encoder: str, seed: int) -> None:
    """Features of all patches from one encoder (or the baselines), and their scores at each number of labels."""
    import torch

    from tests.benchmarks.phantom_calibration import real_patches

    path = patches_file()
    if path is None:
        raise SystemExit(f"Set {PATCHES} to EmphysemaPatches.mat.")
    torch.set_num_threads(1)
    classes = real_patches(path)
    hu_NYX = np.concatenate(list(classes.values())).astype(np.float32)
    class_N = np.repeat(np.arange(len(classes)), [len(patches) for patches in classes.values()])
    start = time.process_time()
    features = baselines(hu_NYX) if encoder == BASELINES else _encoded(evidence, encoder, seed, hu_NYX)
    scores = {
        name: {str(shots): accuracies(x_ND, class_N, shots=shots) for shots in SHOTS}
        for name, x_ND in features.items()
    }
    counts = np.bincount(class_N).tolist()
    seconds = time.process_time() - start
    write_result(
        scored_file(evidence, encoder, seed), {"scores": scores, "classes": counts, "cpu_seconds": seconds}
    )


def baselines(hu_NYX: np.ndarray) -> dict[str, np.ndarray]:
    """What needs no network: a histogram of 32 bins (log counts), and mean, SD and LAA-950."""
    edges = np.linspace(-1024, 240, 33)
    clipped_NYX = hu_NYX.clip(-1024, 240)
    moments = (hu_NYX.mean((1, 2)), hu_NYX.std((1, 2)), (hu_NYX < -950).mean((1, 2)))
    return {
        HISTOGRAM: np.log(np.stack([np.histogram(patch, bins=edges)[0] for patch in clipped_NYX]) + 5.0),
        MOMENTS: np.stack(moments, 1),
    }


def cubes(hu_NYX: np.ndarray) -> np.ndarray:
    """Patches as the encoder reads them, [N, 32, 32, 32] HU: a row and a column repeated, and the slice in depth."""
    padded_NYX = np.pad(hu_NYX, ((0, 0), (0, 1), (0, 1)), mode="edge")
    return np.repeat(padded_NYX[:, None], padded_NYX.shape[1], axis=1)


def _encoded(evidence: Evidence, encoder: str, seed: int, hu_NYX: np.ndarray) -> dict[str, np.ndarray]:
    import torch

    from ctplatform.dataset.atlas import read_atlas
    from drasclr import augment
    from drasclr.encoder import FEATURES

    home = evidence_real.REAL if encoder == evidence_real.REAL else DEVELOPMENT
    model = evidence.encoder(encoder, seed, home=home).eval()
    window = recipe_of(DEVELOPMENT).prepare.hu_window
    coordinates_N3 = np.array(read_atlas(evidence.workspace(DEVELOPMENT)).coordinates_N3, dtype=np.float32)
    place_13 = torch.from_numpy(coordinates_N3[[PLACE]])
    found = []
    with torch.inference_mode():
        for first in range(0, len(hu_NYX), 16):
            hu = torch.from_numpy(cubes(hu_NYX[first : first + 16]))
            found.append(
                model.grouped_all(augment.normalise(hu[None], hu_window=window), place_13)[0].numpy()
            )
    x_ND = np.concatenate(found)
    return {LAST: x_ND[:, :FEATURES], MULTISCALE: x_ND[:, FEATURES:]}


def accuracies(x_ND: np.ndarray, class_N: np.ndarray, *, shots: int) -> list[float]:
    """Balanced accuracy of logistic regression on `shots` labels a class (half a class at most), of each draw.

    The patches that a draw leaves are its test. The same draws for every representation.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.preprocessing import StandardScaler

    found = []
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)
        members = [rng.permutation(np.flatnonzero(class_N == c)) for c in np.unique(class_N)]
        train = np.concatenate([m[: min(shots, len(m) // 2)] for m in members])
        test = np.setdiff1d(np.arange(len(class_N)), train)
        scale = StandardScaler().fit(x_ND[train])
        head = LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced")
        head.fit(scale.transform(x_ND[train]), class_N[train])
        predicted = head.predict(scale.transform(x_ND[test]))
        found.append(float(balanced_accuracy_score(class_N[test], predicted)))
    return found


def compared(first_KR: np.ndarray, second_KR: np.ndarray) -> dict[str, Any]:
    """Means and their difference, with its 95% interval over draws of the labels and seeds.

    Draws are paired. Seeds are paired where both have as many; a method with one (K = 1) has no seeds.
    """
    rng = np.random.default_rng(0)
    seeds, draws = max(len(first_KR), len(second_KR)), first_KR.shape[1]
    difference_KR = np.broadcast_to(first_KR - second_KR, (seeds, draws))
    picked_BK, picked_BR = (
        rng.integers(0, seeds, (BOOTSTRAP, seeds)),
        rng.integers(0, draws, (BOOTSTRAP, draws)),
    )
    means_B = difference_KR[picked_BK[:, :, None], picked_BR[:, None, :]].mean((1, 2))
    low, high = interval(means_B)
    return {
        "value": round(float(first_KR.mean()), 3),
        "other": round(float(second_KR.mean()), 3),
        "difference": round(float(difference_KR.mean()), 3),
        "interval": [round(low, 3), round(high, 3)],
        "metric": "balanced accuracy",
    }


def claim_of(scores: Mapping[str, Mapping[str, np.ndarray]], *, patches: int) -> dict[str, Any]:
    """The claim: pretrained above random at every number of labels, with the features of all scales.

    Args:
        scores: representation -> number of labels -> [K, R]; representations are `<encoder> <features>` and baselines.
    """
    shots = [str(number) for number in SHOTS]

    def tasks(first: str, second: str) -> dict[str, Any]:
        return {number: compared(scores[first][number], scores[second][number]) for number in shots}

    pretrained = f"{MAIN} {MULTISCALE}"
    found = tasks(pretrained, f"{RANDOM} {MULTISCALE}")
    means = [
        np.broadcast_to(
            scores[pretrained][number] - scores[f"{RANDOM} {MULTISCALE}"][number], (len(SEEDS), DRAWS)
        )
        for number in shots
    ]
    whole = compared(np.mean(means, 0), np.zeros((1, DRAWS)))
    against_histogram = tasks(pretrained, HISTOGRAM)
    on_real_cts = {}
    if f"{evidence_real.REAL} {MULTISCALE}" in scores:
        on_real_cts = {
            "real_cts_against_random": tasks(f"{evidence_real.REAL} {MULTISCALE}", f"{RANDOM} {MULTISCALE}"),
            "real_cts_against_phantoms": tasks(f"{evidence_real.REAL} {MULTISCALE}", pretrained),
        }
    return {
        "name": NAME,
        "holds": all(row["interval"][0] > 0 for row in found.values()),
        "difference": whole["difference"],
        "interval": whole["interval"],
        "n": patches,
        "needed": f"interval above 0 with {', '.join(shots[:-1])} and {shots[-1]} labels a class",
        "reaches_histogram": all(row["difference"] >= 0 for row in against_histogram.values()),
        "shots": found,
        "last_layer": tasks(f"{MAIN} {LAST}", f"{RANDOM} {LAST}"),
        "against_histogram": against_histogram,
        **on_real_cts,
        "accuracies": {
            name: {
                number: [round(float(v), 3) for v in values.mean(1)] for number, values in by_shots.items()
            }
            for name, by_shots in scores.items()
        },
    }


def claim(evidence: Evidence) -> dict[str, Any]:
    """The claim from the stored scores.

    Raises:
        FileNotFoundError: a part has not been run.
    """
    scores: dict[str, dict[str, np.ndarray]] = {}
    kinds = [MAIN, RANDOM]
    if all(scored_file(evidence, evidence_real.REAL, seed).exists() for seed in SEEDS):
        kinds.append(evidence_real.REAL)
    for encoder in kinds:
        runs = [_stored(evidence, encoder, seed)["scores"] for seed in SEEDS]
        for features in (LAST, MULTISCALE):
            scores[f"{encoder} {features}"] = {
                str(shots): np.array([run[features][str(shots)] for run in runs]) for shots in SHOTS
            }
    plain = _stored(evidence, BASELINES, 0)
    for name in (HISTOGRAM, MOMENTS):
        scores[name] = {str(shots): np.array([plain["scores"][name][str(shots)]]) for shots in SHOTS}
    return claim_of(scores, patches=sum(plain["classes"]))


def _stored(evidence: Evidence, encoder: str, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(scored_file(evidence, encoder, seed).read_text(encoding="utf-8"))
    return found
