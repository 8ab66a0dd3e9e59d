"""Segmentation: crops, training, sliding windows, and the numbers of each case."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ctplatform.dataset.atlas import read_atlas
from ctplatform.evaluation.assembly import assemble
from ctplatform.evaluation.dense import segmentation
from ctplatform.evaluation.dense.lung_volume import LungVolume
from ctplatform.evaluation.dense.segmentation import Crops, case_numbers, segment, train
from drasclr.encoder import Encoder
from drasclr.heads import Segmenter
from tests.ctplatform.evaluation_world import RUN
from tests.ctplatform.labelled_world import labelled_recipe


def lungs(size: int = 64) -> LungVolume:
    inside = np.zeros((size,) * 3, bool)
    inside[16:48, 16:48, 16:48] = True
    return LungVolume(np.full((size,) * 3, -850, np.int16), inside, np.diag([1.0, 1, 1, 1]), np.eye(4))


def test_cases_by_hand():
    volume = lungs()
    stretched = LungVolume(volume.hu_ZYX, volume.lungs_ZYX, np.diag([1.0, 1.0, 2.0, 1.0]), np.eye(4))
    truth, called = np.zeros((2, 64, 64, 64), np.uint8)
    truth[20:30, 20:30, 20:30] = 1
    called[23:33, 20:30, 20:30] = 1  # moved by three voxels along z, which are 6 mm
    dice, hd95, false_ml = case_numbers(stretched, truth, called, classes=1)[0]
    assert dice == pytest.approx(0.7)
    assert hd95 == pytest.approx(6.0)
    assert np.isnan(false_ml)
    dice, hd95, _ = case_numbers(stretched, truth, np.zeros_like(truth), classes=1)[0]
    assert dice == 0
    assert hd95 == pytest.approx(np.sqrt(128**2 + 2 * 64**2))
    dice, hd95, false_ml = case_numbers(stretched, np.zeros_like(truth), called, classes=1)[0]
    assert np.isnan([dice, hd95]).all()
    assert false_ml == pytest.approx(2.0)


@pytest.fixture(scope="module")
def nodules(swept):
    """The labelled volumes of a task on structures."""
    workspace, cohort, _ = swept
    context, _ = assemble(workspace, cohort, labelled_recipe(), run=RUN)
    return context.problems["nodules"].volumes


def crops(volumes, seed, **options):
    sources = list(volumes.train)
    options = {"hu_window": (-1024, 240), "device": "cpu", **options}
    return Crops(volumes, sources, read_atlas(volumes.workspace), seed=seed, **options)


def test_crops_are_those_of_the_seed_and_hold_the_structure_half_of_the_time(nodules):
    draw = crops(nodules, 0)
    batches = [draw() for _ in range(30)]
    again = crops(nodules, 0)()
    for a, b in zip(batches[0], again, strict=True):
        assert torch.equal(a, b)
    patches, locations, target = batches[0]
    assert patches.shape == target.shape == (2, 1, 32, 32, 32)
    assert locations.shape == (2, 3)
    assert -1 <= patches.min() < patches.max() <= 1
    share = np.mean([bool((t > 0).any()) for _, _, batch in batches for t in batch])
    assert share > 0.5
    # A nodule is denser than the lung around it: labels lie on the voxels of the crop.
    found = [(p[t > 0].mean() - p[t == 0].mean()) for p, _, t in batches if (t > 0).any()]
    assert min(found) > 0.2


def test_training_lowers_the_loss_and_keeps_statistics_where_it_should(nodules):
    torch.manual_seed(0)
    model = Segmenter(Encoder(1), classes=2)
    model.encoder.head.requires_grad_(False)
    config = nodules.config.segmentation.model_copy(update={"steps": 6, "lr": 3e-3})
    before = {n: t.clone() for n, t in model.encoder.state_dict().items() if "running" in n}
    losses = train(model, crops(nodules, 0), config, encoder_lr=1e-3, keep_statistics=True)
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    after = model.encoder.state_dict()
    assert all(torch.equal(after[n], t) for n, t in before.items())


def test_windows_without_lung_are_background(nodules):
    source = nodules.test[0]
    volume = nodules.volume(source)
    torch.manual_seed(0)
    model = Segmenter(Encoder(1), classes=2).eval()
    empty = replace(volume, lungs_ZYX=np.zeros_like(volume.lungs_ZYX))
    atlas, config = read_atlas(nodules.workspace), nodules.config.segmentation
    assert segment(model, empty, atlas, config, hu_window=(-1024, 240)).max() == 0
    found = segment(model, volume, atlas, config, hu_window=(-1024, 240))
    assert found.shape == volume.hu_ZYX.shape
    assert found.dtype == np.uint8


def test_how_many_windows_are_computed_together_changes_nothing(nodules, monkeypatch):
    volume = nodules.volume(nodules.test[0])
    torch.manual_seed(0)
    model = Segmenter(Encoder(2), classes=2).eval()
    atlas, config = read_atlas(nodules.workspace), nodules.config.segmentation
    maps = []
    for windows in (1, 2, 8):
        monkeypatch.setattr(segmentation, "WINDOWS", windows)
        maps.append(segment(model, volume, atlas, config, hu_window=(-1024, 240)))
    assert maps[0].any()
    # Rounding may turn a voxel whose classes are equally likely.
    assert max(np.mean(other != maps[0]) for other in maps[1:]) < 1e-4
