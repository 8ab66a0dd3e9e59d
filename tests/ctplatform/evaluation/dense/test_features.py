"""Features of windows."""

import numpy as np
import torch

from ctplatform.evaluation.dense.features import encode
from ctplatform.evaluation.dense.windows import cut, windows_of
from drasclr import augment
from drasclr.encoder import Encoder
from tests.ctplatform.evaluation_world import tiny_atlas
from tests.ctplatform.labelled_world import labelled


def test_features_of_windows_are_the_encoders_of_each_window_alone():
    torch.manual_seed(0)
    volume, *_ = labelled(np.random.default_rng(0))
    encoder, atlas = Encoder(2).eval(), tiny_atlas()
    windows = windows_of(volume.lungs_ZYX, stride=12)
    features = encode(encoder, volume, windows, atlas, hu_window=(-1024, 240))
    assert features.shape == (len(windows), 128)
    for row in (0, len(windows) - 1):
        corner = windows.corners_M3[[row]]
        at = torch.from_numpy(volume.coordinates(atlas, corner + 15.5))
        patch = augment.normalise(torch.from_numpy(cut(volume.hu_ZYX, corner)))
        with torch.no_grad():
            np.testing.assert_allclose(features[row], encoder(patch, at)[0], atol=1e-5)
