"""Augmentation as drawn parameters and a pure, batched function of them.

The distribution is the published one (affine, then Gaussian noise, then gamma contrast, as MONAI's RandAffine,
RandGaussianNoise and RandAdjustContrast draw them) unless other `Strengths` are given. Randomness is a counter-based
hash: the parameters of a patch depend on (seed, epoch, scan, location, view) and on nothing else, so any batch, worker
or resumed run draws the same.

Legend: G locations, S scans, DHW space; axis order of rotation, translation and scale is D, H, W.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from drasclr import acquisition, resampling
from drasclr.randomness import GOLDEN, MIX_2
from drasclr.randomness import mix as _mix
from drasclr.randomness import normal as _normal
from drasclr.randomness import uniform as _uniform

HU_WINDOW = (-1024, 240)
# Numbers that are drawn for a patch. The first 14 are the published augmentation's; others were added behind them, so
# that its draws stay what they were.
_DRAWS = 25
# Patches that are resampled at a time: their sampling grid then stays in the processor's cache.
_CHUNK = 16


@dataclass(frozen=True)
class Strengths:
    """How strongly views of a patch differ; by default as published. Whatever is 0 is off.

    Attributes:
        rotation: largest angle about each axis, either way, rad.
        translation: largest shift along each axis, either way, voxels.
        scale: largest change of size along each axis, either way, as a share.
        flip_probability: of mirroring, for each axis.
        noise_probability: of white noise.
        noise_std: its largest standard deviation, HU.
        gamma_probability: of a change of contrast.
        gamma: least and largest exponent of the contrast.
        kernel_probability: of another reconstruction kernel.
        blur: standard deviation of the smoothest kernel, voxels; at most 4 / 3.
        sharpen: share of detail that the sharpest kernel adds.
        dose_probability: of a lower dose.
        dose_std: largest standard deviation of its noise, HU.
        grain: largest correlation length of its noise in the plane of a slice (standard deviation of the Gaussian that
            white noise is filtered with), voxels; at most 4 / 3.
        breath_probability: of another depth of breath.
        breath: largest change of the volume of the lung, as a share: 0.2 draws from 1 / 1.2 to 1.2 times the volume, on
            a logarithmic scale; at most 0.5.

    Raises:
        ValueError: a value outside its range, named.
    """

    rotation: float = math.pi / 18
    translation: float = 12.0
    scale: float = 0.1
    flip_probability: float = 0.0
    noise_probability: float = 0.25
    noise_std: float = 50.0
    gamma_probability: float = 0.25
    gamma: tuple[float, float] = (0.5, 4.5)
    kernel_probability: float = 0.5
    blur: float = 0.0
    sharpen: float = 0.0
    dose_probability: float = 0.5
    dose_std: float = 0.0
    grain: float = 0.0
    breath_probability: float = 0.5
    breath: float = 0.0

    def __post_init__(self) -> None:
        largest = {
            "scale": 0.9,
            "blur": acquisition.MAX_BLUR,
            "grain": acquisition.MAX_BLUR,
            "breath": acquisition.MAX_BREATH,
        }
        for field in fields(self):
            value = getattr(self, field.name)
            limit = largest.get(field.name, 1.0 if field.name.endswith("probability") else math.inf)
            if field.name != "gamma" and not 0 <= value <= limit:
                raise ValueError(
                    f"augmentation: {field.name} is between 0 and {limit:g}, not {value}"
                    if limit < math.inf
                    else f"augmentation: {field.name} is 0 or above, not {value}"
                )
        if not 0 < self.gamma[0] <= self.gamma[1]:
            raise ValueError(f"augmentation: gamma is (least, largest), both above 0, not {self.gamma}")


PUBLISHED = Strengths()


@dataclass(frozen=True)
class Parameters:
    """What happens to each patch.

    Attributes:
        rotation_GS3: rad.
        translation_GS3: voxels.
        scale_GS3: factor; below 0 where the axis is mirrored.
        noise_std_GS: HU; 0 for no noise.
        gamma_GS: exponent; 1 for no change of contrast.
        noise_key_GS: int64, what the noise of the patch is generated from.
        volume_GS: volume of the lung relative to the scan's; 1 for no change.
        dose_std_GS: HU, of the noise of a lower dose; 0 for none.
        grain_GS: voxels, correlation length of that noise.
        dose_key_GS: int64, what that noise is generated from.
        kernel_GS: reconstruction kernel, see `acquisition.reconstruct`; 0 for no change.
    """

    rotation_GS3: Tensor
    translation_GS3: Tensor
    scale_GS3: Tensor
    noise_std_GS: Tensor
    gamma_GS: Tensor
    noise_key_GS: Tensor
    volume_GS: Tensor
    dose_std_GS: Tensor
    grain_GS: Tensor
    dose_key_GS: Tensor
    kernel_GS: Tensor

    def to(self, device: torch.device | str) -> Parameters:
        """The same on another device."""
        return Parameters(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def draw(
    *,
    seed: int,
    epoch: int,
    scans: Tensor,
    locations: Tensor,
    view: int,
    strengths: Strengths = PUBLISHED,
) -> Parameters:
    """Draw the parameters of every (location, scan) pair.

    Args:
        seed: of the run.
        epoch: 0, 1, ...
        scans: int64 [S], a number that identifies the scan in the cohort.
        locations: int64 [G].
        view: 0 for the query, 1 for the key, 2 for the neighbours; views are independent.
        strengths: ranges and probabilities. Each parameter has a random number of its own: another translation leaves
            the rotation of a patch what it was.
    """
    start = _mix(torch.tensor(seed, dtype=torch.int64, device=scans.device) + GOLDEN)
    for value in (torch.tensor(epoch), torch.tensor(view)):
        start = _mix(start ^ (value.to(start) + GOLDEN))
    key_G = _mix(start ^ (locations.to(start) + GOLDEN))
    key_GS = _mix(key_G[:, None] ^ (scans.to(start)[None] * MIX_2 + GOLDEN))
    counter = torch.arange(1, _DRAWS + 1, device=scans.device) * GOLDEN
    bits = _mix(key_GS[..., None] + counter)
    u = _uniform(bits)
    signed = 2 * u - 1
    zero, one = torch.zeros_like(u[..., 0]), torch.ones_like(u[..., 0])

    def sometimes(index: int, probability: float, value_GS: Tensor, otherwise_GS: Tensor) -> Tensor:
        return torch.where(u[..., index] < probability, value_GS, otherwise_GS)

    at = strengths
    mirror_GS3 = torch.where(u[..., 14:17] < at.flip_probability, -1.0, 1.0)
    kernel_GS = -at.sharpen + u[..., 18] * (at.blur + at.sharpen)
    volume_GS = torch.exp(signed[..., 24] * math.log1p(at.breath))
    return Parameters(
        rotation_GS3=signed[..., 0:3] * at.rotation,
        translation_GS3=signed[..., 3:6] * at.translation,
        scale_GS3=(1 + signed[..., 6:9] * at.scale) * mirror_GS3,
        noise_std_GS=sometimes(9, at.noise_probability, u[..., 10] * at.noise_std, zero),
        gamma_GS=sometimes(
            11, at.gamma_probability, at.gamma[0] + u[..., 12] * (at.gamma[1] - at.gamma[0]), one
        ),
        noise_key_GS=bits[..., 13],
        kernel_GS=sometimes(17, at.kernel_probability, kernel_GS, zero),
        dose_std_GS=sometimes(19, at.dose_probability, u[..., 20] * at.dose_std, zero),
        grain_GS=u[..., 21] * at.grain,
        dose_key_GS=bits[..., 22],
        volume_GS=sometimes(23, at.breath_probability, volume_GS, one),
    )


def apply(
    patches_hu: Tensor, parameters: Parameters, *, hu_window: tuple[float, float] = HU_WINDOW
) -> Tensor:
    """Augment and normalise, as a pure function of its arguments.

    In the order in which a scan comes about: pose and size, depth of breath, noise of the dose, reconstruction kernel
    (which filters that noise, too); then the published noise and contrast.

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
    theta = resampling.transform(
        parameters.rotation_GS3.flatten(0, 1),
        parameters.translation_GS3.flatten(0, 1),
        parameters.scale_GS3.flatten(0, 1),
        size=patches_hu.shape[2:],
    )
    resample, chunk = (resampling.at_once, len(x)) if x.is_cuda else (resampling.by_planes, _CHUNK)
    out = torch.empty(x.shape, device=x.device)
    for start in range(0, len(x), chunk):
        part = slice(start, start + chunk)
        out[part] = resample(x[part].float().clamp(low, high).sub_(low), theta[part])
    acquisition.breathe(out, parameters.volume_GS.flatten(), zero=low)
    acquisition.add_noise(
        out,
        parameters.dose_std_GS.flatten(),
        parameters.grain_GS.flatten(),
        parameters.dose_key_GS.flatten(),
    )
    acquisition.reconstruct(out, parameters.kernel_GS.flatten())
    _add_noise(out, parameters.noise_std_GS.flatten(), parameters.noise_key_GS.flatten())
    _change_contrast(out, parameters.gamma_GS.flatten())
    out.div_((high - low) / 2).sub_(1)
    return out.view(places, scans, 1, *patches_hu.shape[2:])


def normalise(patches_hu: Tensor, hu_window: tuple[float, float] = HU_WINDOW) -> Tensor:
    """Clip to the window and scale to [-1, 1], float32: [..., D, H, W] -> [..., 1, D, H, W]."""
    low, high = hu_window
    # Clipped before it becomes float: half the fresh memory, and the same numbers.
    return patches_hu.clamp(low, high).float().sub_(low).div_((high - low) / 2).sub_(1).unsqueeze(-4)


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
