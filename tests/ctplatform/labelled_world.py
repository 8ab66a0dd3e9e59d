"""A workspace whose scans have small lung volumes with label maps of known truth.

Emphysema subtypes are darker than normal lung, nodules brighter.
"""

from __future__ import annotations

import numpy as np
import torch

from ctplatform.config.loader import validate
from ctplatform.dataset.ledger import read_ledger
from ctplatform.evaluation.dense.lung_volume import LungVolume, write_labels, write_lung_volume
from ctplatform.evaluation.dense.sources import labelled_scans
from ctplatform.evaluation.dense.windows import cut, normaliser
from ctplatform.storage.layout import LABELLED
from ctplatform.tasks.registry import get_task
from drasclr import weights
from drasclr.encoder import Encoder
from tests.ctplatform.evaluation_world import RUN, build, tiny_atlas

SIDE = 64
MAPS = {"emphysema_subtypes": "subtype_map", "nodules": "nodule_map"}


def labelled_recipe(**keys):
    """A recipe of tasks on label maps whose sweep takes seconds."""
    values = {
        "tasks": ["emphysema_subtypes", "nodules"],
        "initialisations": ["drasclr", "finetune", "scratch", "density"],
        "fractions": [1.0],
        "seeds": 1,
        "bootstrap": 200,
        "max_concurrent": 1,
        "scratch": {"max_steps": 2, "locations": 1, "pool": 1},
        "dense": {"stride": 16, "train_windows": 64, "batch": 8},
        "segmentation": {"steps": 2, "crop": 32, "crops_per_batch": 2, "window": 32, "overlap": 0.0},
        **keys,
    }
    return validate({"sweep": values, "pretrain": {"encoder": {"experts": 1}}})


def labelled(rng: np.random.Generator, *, subtype: int = 2) -> tuple[LungVolume, np.ndarray, np.ndarray]:
    """A lung volume, its subtypes (one tile in eight is diseased) and its nodule."""
    lungs = np.zeros((SIDE,) * 3, bool)
    lungs[16:48, 16:48, 16:48] = True
    hu = rng.normal(-860, 30, lungs.shape)
    subtypes = lungs.astype(np.uint8)
    z, y, x = (int(v) for v in rng.integers(0, 2, 3) * 16 + 16)
    part = slice(z, z + 16), slice(y, y + 16), slice(x, x + 16)
    subtypes[part] = subtype
    hu[part] -= 40 * (subtype - 1)
    nodules = np.zeros_like(subtypes)
    at = rng.integers(20, 40, 3)
    nodules[at[0] : at[0] + 6, at[1] : at[1] + 6, at[2] : at[2] + 6] = 1
    hu[nodules > 0] = 40
    hu[~lungs] = -1024
    to_scan = np.eye(4)
    to_scan[:3, 3] = 3.0
    return LungVolume(hu.astype(np.int16), lungs, to_scan, np.eye(4)), subtypes, nodules


def build_labelled(folder, recipe, *, subjects: int = 12, seed: int = 0):
    """Workspace and cohort with columns subtype_map and nodule_map; what `prepare_scan` makes is there already."""
    workspace, cohort = build(folder, subjects=subjects, seed=seed)
    for column in MAPS.values():
        cohort[column] = [str(folder / f"{scan}-{column}.nii.gz") for scan in cohort["scan_id"]]
    tasks = [get_task(name) for name in MAPS]
    sources = labelled_scans([(task, task.maps(cohort)) for task in tasks], recipe, read_ledger(workspace))
    rng = np.random.default_rng(seed)
    for number, source in enumerate(sources.values()):
        volume, *truths = labelled(rng, subtype=2 + number % 3)
        write_lung_volume(workspace, volume, *source.volume_path)
        for map_source, truth in zip(source.maps, truths, strict=True):
            voxels = np.bincount(truth.ravel(), minlength=len(map_source.classes) + 1)[1:]
            facts = {"voxels": voxels.tolist(), "voxel_ml": volume.voxel_ml}
            write_labels(workspace, truth, facts, *source.labels_path(map_source))
    assert workspace.exists(LABELLED)
    publish(workspace, recipe)
    return workspace, cohort


def publish(workspace, recipe) -> None:
    """Weights of an encoder whose statistics are those of the lung volumes, as pretraining leaves them."""
    torch.manual_seed(0)
    encoder, atlas = Encoder(recipe.pretrain.encoder.experts).train(), tiny_atlas()
    rng = np.random.default_rng(0)
    hu = np.concatenate(
        [cut(labelled(rng, subtype=c)[0].hu_ZYX, np.array([[8, 8, 8], [20, 8, 8]])) for c in (2, 3, 4)]
    )
    for _ in range(20):
        encoder(normaliser((-1024, 240))(torch.from_numpy(hu)[:, None]), torch.rand(len(hu), 3) * 2 - 1)
    card = {"atlas_hash": atlas.hash, "hu_window": [-1024, 240]}
    for name, data in weights.files(encoder.eval(), card).items():
        workspace.write_bytes(data, "pretrain", RUN, name)
