"""Augmentation as drawn parameters and a pure, batched function of them.

The distribution is the published one (affine, then Gaussian noise, then gamma contrast, as MONAI's RandAffine,
RandGaussianNoise and RandAdjustContrast draw them). Randomness is a counter-based hash: the parameters of a patch
depend on (seed, epoch, scan, location, view) and on nothing else, so any batch, worker or resumed run draws the same.

Legend: G locations, S scans, DHW space; axis order of rotation, translation and scale is D, H, W.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

HU_WINDOW = (-1024, 240)
ROTATION = math.pi / 18  # rad, each axis, either way
TRANSLATION = 12.0  # voxels, each axis, either way
SCALE = 0.1  # share, each axis, either way
NOISE_PROBABILITY = 0.25
NOISE_STD = 50.0  # HU, largest
GAMMA_PROBABILITY = 0.25
GAMMA = (0.5, 4.5)

# Constants of the splitmix64 generator (Steele, Lea, Flood 2014), as signed 64-bit integers.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_DRAWS = 14
# Patches that are resampled at a time: their sampling grid then stays in the processor's cache.
_CHUNK = 16


@dataclass(frozen=True)
class Parameters:
    """What happens to each patch.

    Attributes:
        rotation_GS3: rad.
        translation_GS3: voxels.
        scale_GS3: factor.
        noise_std_GS: HU; 0 for no noise.
        gamma_GS: exponent; 1 for no change of contrast.
        noise_key_GS: int64, what the noise of the patch is generated from.
    """

    rotation_GS3: Tensor
    translation_GS3: Tensor
    scale_GS3: Tensor
    noise_std_GS: Tensor
    gamma_GS: Tensor
    noise_key_GS: Tensor

    def to(self, device: torch.device | str) -> Parameters:
        """The same on another device."""
        return Parameters(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def draw(*, seed: int, epoch: int, scans: Tensor, locations: Tensor, view: int) -> Parameters:
    """Draw the parameters of every (location, scan) pair.

    Args:
        seed: of the run.
        epoch: 0, 1, ...
        scans: int64 [S], a number that identifies the scan in the cohort.
        locations: int64 [G].
        view: 0 for the query, 1 for the key, 2 for the neighbours; views are independent.
    """
    start = _mix(torch.tensor(seed, dtype=torch.int64, device=scans.device) + _GOLDEN)
    for value in (torch.tensor(epoch), torch.tensor(view)):
        start = _mix(start ^ (value.to(start) + _GOLDEN))
    key_G = _mix(start ^ (locations.to(start) + _GOLDEN))
    key_GS = _mix(key_G[:, None] ^ (scans.to(start)[None] * _MIX_2 + _GOLDEN))
    counter = torch.arange(1, _DRAWS + 1, device=scans.device) * _GOLDEN
    bits = _mix(key_GS[..., None] + counter)
    u = _uniform(bits)
    signed = 2 * u - 1
    zero, one = torch.zeros_like(u[..., 0]), torch.ones_like(u[..., 0])
    return Parameters(
        rotation_GS3=signed[..., 0:3] * ROTATION,
        translation_GS3=signed[..., 3:6] * TRANSLATION,
        scale_GS3=1 + signed[..., 6:9] * SCALE,
        noise_std_GS=torch.where(u[..., 9] < NOISE_PROBABILITY, u[..., 10] * NOISE_STD, zero),
        gamma_GS=torch.where(
            u[..., 11] < GAMMA_PROBABILITY, GAMMA[0] + u[..., 12] * (GAMMA[1] - GAMMA[0]), one
        ),
        noise_key_GS=bits[..., 13],
    )


def apply(
    patches_hu: Tensor, parameters: Parameters, *, hu_window: tuple[float, float] = HU_WINDOW
) -> Tensor:
    """Augment and normalise, as a pure function of its arguments.

    Args:
        patches_hu: [G, S, D, H, W], HU, any integer or float type, unchanged.
        parameters: of the same patches.
        hu_window: HU that become -1 and 1.

    Returns:
        float32 [G, S, 1, D, H, W] in [-1, 1]; noise may lead slightly beyond, as published.
    """
    places, scans = patches_hu.shape[:2]
    low, high = hu_window
    x = patches_hu.flatten(0, 1)
    theta = _theta(parameters, size=patches_hu.shape[2:])
    resample, chunk = (_resample_at_once, len(x)) if x.is_cuda else (_resample_by_planes, _CHUNK)
    out = torch.empty(x.shape, device=x.device)
    for start in range(0, len(x), chunk):
        part = slice(start, start + chunk)
        out[part] = resample(x[part].float().clamp(low, high).sub_(low), theta[part])
    _add_noise(out, parameters.noise_std_GS.flatten(), parameters.noise_key_GS.flatten())
    _change_contrast(out, parameters.gamma_GS.flatten())
    out.div_((high - low) / 2).sub_(1)
    return out.view(places, scans, 1, *patches_hu.shape[2:])


def normalise(patches_hu: Tensor, hu_window: tuple[float, float] = HU_WINDOW) -> Tensor:
    """Clip to the window and scale to [-1, 1], float32: [..., D, H, W] -> [..., 1, D, H, W]."""
    low, high = hu_window
    # Clipped before it becomes float: half the fresh memory, and the same numbers.
    return patches_hu.clamp(low, high).float().sub_(low).div_((high - low) / 2).sub_(1).unsqueeze(-4)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64; every input bit changes every output bit with probability 1/2."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX_1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _uniform(bits: Tensor) -> Tensor:
    """The upper 24 bits as float32 in [0, 1)."""
    return ((bits >> 40) & 0xFFFFFF).float() * 2.0**-24


def _normal(keys_N: Tensor, *, count: int) -> Tensor:
    """`count` standard normal numbers a key, float32 [N, count], by Box and Muller."""
    half = (count + 1) // 2
    counter = torch.arange(1, half + 1, device=keys_N.device) * _GOLDEN
    bits = _mix(keys_N[:, None] + counter)
    radius = ((((bits >> 32) & 0xFFFFFFFF).float() + 1) * 2.0**-32).log_().mul_(-2).sqrt_()
    angle = (bits & 0xFFFFFF).float().mul_(2 * math.pi * 2.0**-24)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]


def _theta(parameters: Parameters, *, size: torch.Size) -> Tensor:
    """Output to input transform in grid_sample's coordinates, [N, 3, 4], rows and columns x, y, z.

    In voxels about the centre of the patch, input = Rx Ry Rz (translation + scale * output), axes D, H, W.
    """
    angle = parameters.rotation_GS3.flatten(0, 1)
    shift = parameters.translation_GS3.flatten(0, 1)
    scale = parameters.scale_GS3.flatten(0, 1)
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(c[:, 0]), torch.ones_like(c[:, 0])

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, dim=1).view(-1, 3, 3)

    first = matrix(one, zero, zero, zero, c[:, 0], -s[:, 0], zero, s[:, 0], c[:, 0])
    second = matrix(c[:, 1], zero, s[:, 1], zero, one, zero, -s[:, 1], zero, c[:, 1])
    third = matrix(c[:, 2], -s[:, 2], zero, s[:, 2], c[:, 2], zero, zero, zero, one)
    rotation = first @ second @ third
    linear = rotation * scale[:, None, :]
    offset = (rotation @ shift[:, :, None])[..., 0]
    half = torch.tensor(size, dtype=linear.dtype, device=linear.device) / 2
    linear = linear * half[None, None, :] / half[None, :, None]
    return torch.cat([linear.flip(1).flip(2), (offset / half).flip(1)[..., None]], dim=2)


def _resample_at_once(x_NDHW: Tensor, theta: Tensor) -> Tensor:
    """Trilinear, edges replicated: output voxel o shows the input at theta o."""
    grid = torch.stack([_positions(theta, axis, x_NDHW.shape[1:]) for axis in range(3)], dim=-1)
    moved = F.grid_sample(x_NDHW[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved[:, 0]


def _resample_by_planes(x_NDHW: Tensor, theta: Tensor) -> Tensor:
    """The same by two-dimensional sampling, which torch vectorises on a CPU; the three-dimensional one is scalar.

    All planes lie below each other in one picture; a second channel is the same picture one plane further down, so that
    one call samples the planes before and behind each position. What is left is to mix the two. The picture is a
    thousand rows high, so that positions are rounded to 1e-4 voxels.
    """
    count, depth, height, width = x_NDHW.shape
    x_NDHW = x_NDHW.contiguous()

    def voxels(axis: int, length: int) -> Tensor:
        return _positions(theta, axis, x_NDHW.shape[1:]).add_(1).mul_(length / 2).sub_(0.5)

    z = voxels(2, depth).clamp_(0, depth - 1)
    plane = z.floor().clamp_(max=depth - 2)
    share = z.sub_(plane)
    y = voxels(1, height).clamp_(0, height - 1).add_(plane, alpha=height)
    rows = (depth - 1) * height
    grid = torch.empty(*y.shape, 2)
    torch.mul(voxels(0, width), 2 / (width - 1), out=grid[..., 0])
    torch.mul(y, 2 / (rows - 1), out=grid[..., 1])
    pictures = x_NDHW.as_strided(
        (count, 2, rows, width), (depth * height * width, height * width, width, 1), x_NDHW.storage_offset()
    )
    both = F.grid_sample(
        pictures, grid.sub_(1).flatten(2, 3), mode="bilinear", padding_mode="border", align_corners=True
    )
    return both[:, 0].lerp_(both[:, 1], share.flatten(2)).view(x_NDHW.shape)


def _positions(theta: Tensor, axis: int, size: torch.Size) -> Tensor:
    """Where each output voxel comes from along an axis (0 for x), [N, D, H, W], in grid_sample's coordinates.

    Three one-dimensional terms, broadcast, instead of a product a voxel.
    """

    def term(column: int, length: int) -> Tensor:
        centres = (torch.arange(length, dtype=theta.dtype, device=theta.device) * 2 + 1) / length - 1
        return theta[:, axis, column, None] * centres

    depth, height, width = size
    in_plane = (term(1, height)[:, :, None] + term(0, width)[:, None]).flatten(1)
    through = term(2, depth) + theta[:, axis, 3, None]
    return (through[:, :, None] + in_plane[:, None]).view(-1, depth, height, width)


def _add_noise(x_NDHW: Tensor, std_N: Tensor, keys_N: Tensor) -> None:
    chosen = (std_N > 0).nonzero().flatten()
    if len(chosen):
        noise = _normal(keys_N[chosen], count=x_NDHW[0].numel()).view(-1, *x_NDHW.shape[1:])
        x_NDHW.index_add_(0, chosen, noise * std_N[chosen, None, None, None])


def _change_contrast(x_NDHW: Tensor, gamma_N: Tensor) -> None:
    chosen = (gamma_N != 1).nonzero().flatten()
    if len(chosen):
        y = x_NDHW[chosen]
        low, high = (value[:, None, None, None] for value in y.flatten(1).aminmax(dim=1))
        exponent = gamma_N[chosen, None, None, None]
        # 1e-7 as in MONAI: a constant patch stays what it is.
        x_NDHW[chosen] = y.sub_(low).div_(high - low + 1e-7).pow_(exponent).mul_(high - low).add_(low)
