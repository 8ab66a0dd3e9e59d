"""Heads beside the encoder: segmentation with its feature maps as the contracting path, and dense feature maps.

Legend: B samples, C channels, DHW space, z y x.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from drasclr.encoder import FEATURES, MAP_CHANNELS, PATCH_SIZE, Encoder


class Segmenter(nn.Module):
    """U-Net whose contracting path is a (pretrained) encoder; the expanding path is made of MONAI blocks.

    Args:
        encoder: is trained along; freeze it with `encoder.requires_grad_(False)`.
        classes: channels of the output.
    """

    def __init__(self, encoder: Encoder, *, classes: int) -> None:
        from monai.networks.blocks.dynunet_block import UnetOutBlock
        from monai.networks.blocks.unetr_block import UnetrUpBlock

        super().__init__()
        self.encoder, self.classes = encoder, classes
        self.up = nn.ModuleList(
            UnetrUpBlock(
                3, coarse, fine, kernel_size=3, upsample_kernel_size=2, norm_name="instance", res_block=True
            )
            for fine, coarse in reversed(list(itertools.pairwise(MAP_CHANNELS)))
        )
        self.out = UnetOutBlock(3, MAP_CHANNELS[0], classes)

    def forward(self, patches_BCDHW: Tensor, locations_B3: Tensor) -> Tensor:
        """Logits [B, classes, D, H, W] of normalised patches whose sides are multiples of 16 voxels, at least 32."""
        *skips, x = self.encoder.maps(patches_BCDHW, locations_B3)
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = up(x, skip)
        logits: Tensor = self.out(x)
        return logits


@torch.no_grad()
def dense_features(
    encoder: Encoder,
    volume_DHW: Tensor,
    *,
    locate: Callable[[Tensor], Tensor],
    stride: int = PATCH_SIZE // 2,
    batch: int = 256,
) -> Tensor:
    """Features of windows that slide over a volume, as a coarse map.

    Args:
        encoder: in evaluation mode.
        volume_DHW: normalised to [-1, 1], at the spacing that the encoder was trained at.
        locate: centres of windows, voxel index z, y, x [M, 3] -> normalised coordinates [M, 3]; with an atlas and a
            registration that is `atlas.coordinates_at` of the centre's position in the atlas.
        stride: voxels from window to window.
        batch: windows at a time.

    Returns:
        [128, d, h, w]; entry (i, j, k) belongs to the window whose lowest corner is voxel (i, j, k) * stride.

    Raises:
        ValueError: the volume is smaller than a window.
    """
    if min(volume_DHW.shape) < PATCH_SIZE:
        raise ValueError(
            f"the volume has {list(volume_DHW.shape)} voxels, a window {PATCH_SIZE} along each side"
        )
    grid = [(length - PATCH_SIZE) // stride + 1 for length in volume_DHW.shape]
    corners_M3 = torch.cartesian_prod(*(torch.arange(length) * stride for length in grid)).view(-1, 3)
    locations_M3 = locate(corners_M3.float() + (PATCH_SIZE - 1) / 2)
    return window_features(encoder, volume_DHW, corners_M3, locations_M3, batch=batch).T.reshape(
        FEATURES, *grid
    )


@torch.no_grad()
def window_features(
    encoder: Encoder,
    volume_DHW: Tensor,
    corners_M3: Tensor,
    locations_M3: Tensor,
    *,
    normalise: Callable[[Tensor], Tensor] | None = None,
    batch: int = 256,
) -> Tensor:
    """Features [M, 128] of windows of a volume, each encoded with its own location.

    Args:
        encoder: in evaluation mode.
        volume_DHW: at the spacing that the encoder was trained at.
        corners_M3: lowest voxels of the windows, index z, y, x.
        locations_M3: normalised coordinates of the windows' centres.
        normalise: takes cut windows to [-1, 1] on the encoder's device; None: the volume is there already.
        batch: windows at a time.
    """
    if not len(corners_M3):
        return torch.empty(0, FEATURES)
    windows = volume_DHW
    for axis in range(3):
        windows = windows.unfold(axis, PATCH_SIZE, 1)  # a view: windows are cut out batch by batch
    features = []
    for corner, location in zip(
        torch.split(corners_M3, batch), torch.split(locations_M3, batch), strict=True
    ):
        patches = windows[corner[:, 0], corner[:, 1], corner[:, 2]][:, None]
        if normalise is not None:
            patches = normalise(patches)
        features.append(encoder(patches, location.to(patches)))
    return torch.cat(features)
