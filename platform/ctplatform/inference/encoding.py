"""Features of sampled patches, and one vector of a scan's: what the chain and single scans have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from drasclr.atlas import Atlas
    from drasclr.encoder import Encoder

MIN_INSIDE = 0.5  # patches with a smaller part inside the scan are left out of the scan's vector


def coordinates_of(atlas: Atlas) -> torch.Tensor:
    """The encoder's coordinates of all locations, float32 [N, 3]."""
    import torch

    return torch.from_numpy(np.array(atlas.coordinates_N3, dtype=np.float32))


def encode_patches(
    encoder: Encoder, hu_GSDHW: np.ndarray, coordinates_G3: torch.Tensor, *, hu_window: tuple[int, int]
) -> np.ndarray:
    """Features of the patches of S scans at G locations, float32 [G, S, D].

    Args:
        encoder: in evaluation mode; its device is used.
        hu_GSDHW: int16 HU.
        coordinates_G3: of the locations, as `coordinates_of` gives them.
        hu_window: as in training.
    """
    import torch

    from drasclr import augment

    device = next(encoder.parameters()).device
    patches = augment.normalise(torch.from_numpy(hu_GSDHW).to(device), hu_window=hu_window)
    with torch.inference_mode():
        features_GSD: np.ndarray = encoder.grouped(patches, coordinates_G3.to(device)).float().cpu().numpy()
    return features_GSD


def pool(vectors_SND: np.ndarray, inside_SN: np.ndarray, pooling: str) -> np.ndarray:
    """One vector a scan, float32: the mean of its patches' vectors [S, D], or mean and standard deviation [S, 2 D].

    Over the locations of which at least `MIN_INSIDE` lies inside the scan (all of them, if none does).

    Args:
        vectors_SND: vectors of N locations in S scans.
        inside_SN: part of each patch inside its scan, 0 to 1.
        pooling: "mean" or "mean_std".
    """
    keep = inside_SN >= MIN_INSIDE
    keep[~keep.any(1)] = True
    weights = (keep / keep.sum(1, keepdims=True))[:, :, None]
    mean: np.ndarray = (vectors_SND * weights).sum(1)
    if pooling == "mean":
        return mean.astype(np.float32)
    deviation = np.sqrt((((vectors_SND - mean[:, None]) ** 2) * weights).sum(1))
    return np.concatenate([mean, deviation], axis=1).astype(np.float32)
