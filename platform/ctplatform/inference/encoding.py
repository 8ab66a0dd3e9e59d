"""Features of sampled patches: what the chain and single scans have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

    from drasclr.atlas import Atlas
    from drasclr.encoder import Encoder


def coordinates_of(atlas: Atlas) -> torch.Tensor:
    """The encoder's coordinates of all locations, float32 [N, 3]."""
    import torch

    return torch.from_numpy(np.array(atlas.coordinates_N3, dtype=np.float32))


def encode_patches(
    encoder: Encoder,
    hu_GSDHW: np.ndarray,
    coordinates_G3: torch.Tensor,
    *,
    hu_window: tuple[int, int],
    features: str = "last",
) -> np.ndarray:
    """Features of the patches of S scans at G locations, float32 [G, S, D].

    Args:
        encoder: in evaluation mode; its device is used.
        hu_GSDHW: int16 HU.
        coordinates_G3: of the locations, as `coordinates_of` gives them.
        hu_window: as in training.
        features: "last", or "multiscale" as `Encoder.grouped_all` gives them.
    """
    import torch

    from ctplatform.compute.free_memory import keep_free_memory
    from drasclr import augment

    keep_free_memory()
    device = next(encoder.parameters()).device
    patches = augment.normalise(torch.from_numpy(hu_GSDHW).to(device), hu_window=hu_window)
    encode = encoder.grouped_all if features == "multiscale" else encoder.grouped
    with torch.inference_mode():
        features_GSD: np.ndarray = encode(patches, coordinates_G3.to(device)).float().cpu().numpy()
    return features_GSD
