"""Features are those of the encoder on normalised patches."""

from __future__ import annotations

import numpy as np
import torch

from ctplatform.inference.encoding import coordinates_of, encode_patches
from drasclr import augment
from drasclr.encoder import Encoder
from tests.ctplatform.training_world import small_atlas


def test_features_are_those_of_each_patch():
    torch.manual_seed(0)
    encoder, atlas = Encoder(2, norm="group").eval(), small_atlas()
    hu_GSDHW = np.random.default_rng(0).integers(-1024, 240, (2, 3, 32, 32, 32)).astype(np.int16)
    coordinates_G3 = coordinates_of(atlas)[:2]
    found_GSD = encode_patches(encoder, hu_GSDHW, coordinates_G3, hu_window=(-1024, 240))
    assert (found_GSD.dtype, found_GSD.shape) == (np.float32, (2, 3, 128))
    patch = augment.normalise(torch.from_numpy(hu_GSDHW[1, 2][None, None]), hu_window=(-1024, 240))
    with torch.no_grad():
        alone = encoder(patch.reshape(1, 1, 32, 32, 32), coordinates_G3[1:])
    np.testing.assert_allclose(found_GSD[1, 2], alone[0].numpy(), atol=2e-5)
    assert not np.allclose(found_GSD[0, 2], found_GSD[1, 2])
