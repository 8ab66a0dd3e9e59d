"""What differs between two CTs of the same lung: depth of breath, dose and reconstruction kernel.

All functions change a batch of patches in place, and only those patches whose parameter is not neutral.

Legend: N patches, DHW space (D runs from slice to slice, H and W lie in the plane of a slice), HU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drasclr import randomness

AIR = -1000.0  # HU
# Lung below, other tissue above; in between the change fades out. Vessels, walls and nodules keep their density.
LUNG, TISSUE = -700.0, -300.0  # HU
# The density of lung may grow by half at most: up to there a denser voxel stays a denser one.
MAX_BREATH = 0.5
# Voxels on either side that a filter reaches: 3 standard deviations of the widest one.
RADIUS = 4
MAX_BLUR = 4 / 3  # voxels
# Width of the Gaussian that sharpening takes away, voxels.
UNSHARP = 0.8


def breathe(x_NDHW: Tensor, volume_N: Tensor, *, zero: float) -> None:
    """Change the volume of the lung: with the mass the same, HU + 1000 changes as 1 / volume.

    HU + 1000 is proportional to density (water 1000, air 0), so that a lung of `volume` times the gas and tissue volume
    has (HU + 1000) / volume. A smooth weight, 1 up to -700 HU and 0 from -300 HU, confines it to lung.

    Args:
        x_NDHW: HU - zero.
        volume_N: volume relative to the scan's; 1 for no change.
        zero: HU of x = 0.
    """
    chosen = (volume_N != 1).nonzero().flatten()
    if len(chosen):
        x = x_NDHW[chosen]
        share = (x + (zero - LUNG)).div_(TISSUE - LUNG).clamp_(0, 1)
        weight = share.square().mul_(share.mul_(-2).add_(3)).neg_().add_(1)  # 1 - smoothstep
        change = (1 / volume_N[chosen] - 1)[:, None, None, None]
        x_NDHW[chosen] = torch.addcmul(x, weight.mul_(change), x + (zero - AIR))


def add_noise(x_NDHW: Tensor, std_N: Tensor, grain_N: Tensor, keys_N: Tensor) -> None:
    """Add the noise of a lower dose: Gaussian, correlated in the plane of a slice as by a smooth kernel.

    Args:
        x_NDHW: HU, from any zero.
        std_N: standard deviation, HU; 0 for no noise.
        grain_N: standard deviation of the Gaussian that white noise is filtered with, voxels; 0 for white noise.
        keys_N: int64, what the noise is generated from.
    """
    chosen = (std_N > 0).nonzero().flatten()
    if len(chosen):
        noise = randomness.normal(keys_N[chosen], count=x_NDHW[0].numel()).view(-1, *x_NDHW.shape[1:])
        taps = gaussian(grain_N[chosen])
        # The sum of squares of the taps is the variance that is left of white noise, along each of two axes.
        scale = std_N[chosen] / taps.square().sum(1)
        x_NDHW.index_add_(0, chosen, _filter(noise, taps) * scale[:, None, None, None])


def reconstruct(x_NDHW: Tensor, kernel_N: Tensor) -> None:
    """Filter each slice as a smoother or sharper reconstruction kernel would, tissue and noise alike.

    Args:
        x_NDHW: HU, from any zero.
        kernel_N: above 0 the standard deviation, voxels, of a Gaussian blur; below 0, by its size, the share of detail
            that is added again: along each axis (1 + a) x - a blur(x); 0 for no change.
    """
    chosen = (kernel_N != 0).nonzero().flatten()
    if len(chosen):
        kernel = kernel_N[chosen]
        blur = gaussian(torch.where(kernel > 0, kernel, torch.full_like(kernel, UNSHARP)))
        amount = kernel.neg().clamp(min=0)[:, None]
        identity = torch.zeros_like(blur)
        identity[:, RADIUS] = 1
        sharp = (1 + amount) * identity - amount * blur
        x_NDHW[chosen] = _filter(x_NDHW[chosen], torch.where((kernel > 0)[:, None], blur, sharp))


def gaussian(std_N: Tensor) -> Tensor:
    """Taps of a Gaussian, [N, 2 RADIUS + 1], which sum up to 1; std 0 gives the identity."""
    at = torch.arange(-RADIUS, RADIUS + 1, dtype=std_N.dtype, device=std_N.device)
    # A Gaussian so narrow that its other taps underflow stands for the identity.
    taps = torch.exp(-0.5 * (at / std_N.clamp(min=1e-3)[:, None]).square())
    return taps / taps.sum(1, keepdim=True)


def _filter(x_NDHW: Tensor, taps_NT: Tensor) -> Tensor:
    """Convolve each patch along H and W with its own symmetric taps; edges are replicated."""
    *_, height, width = x_NDHW.shape
    along_h, along_w = _matrix(taps_NT, height), _matrix(taps_NT, width)
    x = x_NDHW.flatten(1, 2) @ along_w.transpose(1, 2)
    return along_h[:, None] @ x.view(x_NDHW.shape)


def _matrix(taps_NT: Tensor, length: int) -> Tensor:
    """The convolution of a line as a matrix, [N, length out, length in]: one product a batch, far above im2col."""
    out = torch.arange(length, device=taps_NT.device)[:, None]
    source = (out + torch.arange(-RADIUS, RADIUS + 1, device=taps_NT.device)).clamp(0, length - 1)
    matrix = taps_NT.new_zeros(len(taps_NT), length, length)
    return matrix.scatter_add_(
        2, source.expand(len(taps_NT), -1, -1), taps_NT[:, None].expand(-1, length, -1)
    )
