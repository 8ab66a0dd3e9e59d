"""Encoders of a user's own, for tests of their running: MONAI's smallest networks at random weights."""

from __future__ import annotations

import numpy as np
import torch
from monai.networks.nets import Regressor


def network() -> torch.nn.Module:
    """A patch of 32 voxels a side in, 5 numbers out."""
    torch.manual_seed(0)
    return Regressor((1, 32, 32, 32), (5,), channels=(2, 2), strides=(4, 4)).eval()


class Patches:
    version = "1"

    def __init__(self) -> None:
        self.network = network()

    @torch.inference_mode()
    def encode_patches(self, patches_NDHW: np.ndarray, locations_N3: np.ndarray) -> np.ndarray:
        assert len(patches_NDHW) == len(locations_N3)
        x = torch.from_numpy(patches_NDHW).float() / 1000
        return self.network(x[:, None]).numpy()


class Volume:
    def __init__(self) -> None:
        self.network = network()

    @torch.inference_mode()
    def encode_volume(self, volume_ZYX: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
        x = torch.from_numpy(volume_ZYX)[None, None].float() / 1000
        small = torch.nn.functional.interpolate(x, (32, 32, 32))
        return np.concatenate([self.network(small)[0].numpy(), np.array(spacing_mm, np.float32)])


class Both(Patches, Volume):
    pass


def broken() -> None:
    raise RuntimeError("no weights")
