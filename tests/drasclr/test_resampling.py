"""Affine resampling: two ways that agree, and mirrored patches."""

import pytest
import torch

from drasclr import augment, resampling


def transform_of(parameters: augment.Parameters, size: tuple[int, ...]) -> torch.Tensor:
    affine = (parameters.rotation_GS3, parameters.translation_GS3, parameters.scale_GS3)
    return resampling.transform(*(value.flatten(0, 1) for value in affine), size=torch.Size(size))


@pytest.mark.parametrize("size", [(32, 32, 32), (8, 12, 10)])
def test_sampling_by_planes_equals_sampling_at_once(size):
    parameters = augment.draw(seed=5, epoch=0, scans=torch.arange(6), locations=torch.arange(3), view=0)
    theta = transform_of(parameters, size)
    noise = torch.randint(0, 1264, (18, *size), generator=torch.Generator().manual_seed(0)).float()
    smooth = (noise.cumsum(1) / 8 % 1264).contiguous()
    far = theta.clone()
    far[:, :, 3] += 3  # wholly beyond the edge
    for patches in (noise, smooth):
        for positions in (theta, far):
            torch.testing.assert_close(
                resampling.by_planes(patches, positions),
                resampling.at_once(patches.double(), positions.double()).float(),
                rtol=0,
                atol=0.2,  # of 1264 HU from one voxel to the next
            )


@pytest.mark.parametrize("resample", [resampling.at_once, resampling.by_planes])
@pytest.mark.parametrize("size", [(32, 32, 32), (8, 12, 10)])
def test_a_negative_scale_mirrors_the_result(resample, size):
    parameters = augment.draw(seed=2, epoch=0, scans=torch.arange(4), locations=torch.arange(2), view=0)
    patches = torch.rand(8, *size, generator=torch.Generator().manual_seed(0)) * 1264
    plain = resample(patches, transform_of(parameters, size))
    for axis in range(3):
        signs = torch.ones(3)
        signs[axis] = -1
        mirrored = augment.Parameters(**{**vars(parameters), "scale_GS3": parameters.scale_GS3 * signs})
        torch.testing.assert_close(
            resample(patches, transform_of(mirrored, size)), plain.flip(axis + 1), rtol=0, atol=0.2
        )
