#!/usr/bin/env bash
# torch on a CPU normalises a whole volume in the channels-last layout with wrong statistics.
#
# Versions: torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11; one thread.
# Input: one volume of N x N x N voxels and two channels in float32, in both layouts of the same numbers: standard normal
# numbers, and Hounsfield units of a lung (mean -800, standard deviation 200).
# Behaviour: BatchNorm3d in training mode on a channels_last_3d tensor adds up a channel's numbers one by one in single
# precision. With the size the sum loses more and more of each number: without a warning, outputs and the running
# statistics, which stay in the model, are off by some percent (the mean of the lung by
# 54 HU), and more on fewer threads. Contiguous tensors are right.
# Output seen (last digits may differ between processors):
#   normal numbers, 320^3, contiguous: running variance 1.0001, mean -0.0001433; standard deviation of the output 1.000
#   normal numbers, 320^3, channels_last_3d: running variance 0.92662, mean -0.0001433; standard deviation of the output 1.039
#   lung in HU, 256^3, contiguous: running variance 40010, mean -800.1; standard deviation of the output 1.000
#   lung in HU, 256^3, channels_last_3d: running variance 41494, mean -854.2; standard deviation of the output 0.982
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder/packages" numpy==2.4.6 torch==2.13.0
cd "$folder"
PYTHONPATH="$folder/packages" OMP_NUM_THREADS=1 python3 - <<'PYTHON'
import torch

torch.set_num_threads(1)


def normalised(volume, layout):
    """(running variance, running mean, standard deviation of the output), of the first channel."""
    norm = torch.nn.BatchNorm3d(volume.shape[1], momentum=1.0, affine=False)
    output = norm(volume.contiguous(memory_format=layout))
    return float(norm.running_var[0]), float(norm.running_mean[0]), float(output[:, 0].double().std())


def both(name, side, mean, deviation):
    numbers = torch.randn(1, 2, side, side, side, generator=torch.Generator().manual_seed(0))
    volume = numbers.mul_(deviation).add_(mean)
    found = {}
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        label = str(layout).removeprefix("torch.").removesuffix("_format")
        found[label] = normalised(volume, layout)
        variance, average, output = found[label]
        print(
            f"{name}, {side}^3, {label}: running variance {variance:.5g}, mean {average:.4g}; "
            f"standard deviation of the output {output:.3f}"
        )
    return found


found = both("normal numbers", 320, 0.0, 1.0)
assert abs(found["contiguous"][0] - 1) < 0.002
assert 0.8 < found["channels_last_3d"][0] < 0.96
found = both("lung in HU", 256, -800.0, 200.0)
assert abs(found["contiguous"][1] + 800) < 1
assert found["channels_last_3d"][1] < -820
PYTHON
