#!/usr/bin/env bash
# torch on a CPU convolves one small 3-D volume several times as slowly as two, and as one with more channels.
#
# Versions: torch 2.13.0 (CPU), numpy 2.4.6, Python 3.11; one thread, AMD EPYC with AVX2.
# Input: volumes of C channels and N x N x N voxels in float32, kernels of 3 x 3 x 3, as many channels out; CPU time, the
# fastest of several calls.
# Behaviour: with a batch of one, and up to some size (it counts channels, depth and height, and leaves the width out),
# conv3d does not call oneDNN but a slower implementation. One patch of 32^3 voxels and 16 channels takes more time than
# two of them, or than one with 24 channels, whose arithmetic is 2.25 times as much. Models that work on one patch at a
# time, as a sliding window does by default, pay it without a sign. Two patches, or mkldnn_convolution called by name,
# give the same numbers to rounding.
# Output seen (times differ between processors):
#   16 channels, 16^3: one volume takes 3.4 times the time of two, 6.9 times that of oneDNN
#   16 channels, 32^3: one volume takes 6.6 times the time of two, 13.3 times that of oneDNN
#   one volume of 32^3: 16 channels take 5.8 times the time of 24
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --target "$folder/packages" numpy==2.4.6 torch==2.13.0
cd "$folder"
PYTHONPATH="$folder/packages" OMP_NUM_THREADS=1 python3 - <<'PYTHON'
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)


def seconds(function):
    """CPU seconds of the fastest of some calls."""
    function()
    found = []
    for _ in range(12):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


def convolution(volumes, channels, side):
    """(input, kernel) of a convolution that keeps the number of channels."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(channels, channels, 3, 3, 3, generator=generator) / (27 * channels) ** 0.5
    return torch.randn(volumes, channels, side, side, side, generator=generator), kernel


with torch.inference_mode():
    for side in (16, 32):
        both, kernel = convolution(2, 16, side)
        one = both[:1]

        def named(one=one, kernel=kernel):
            return torch.mkldnn_convolution(one, kernel, None, [1] * 3, [1] * 3, [1] * 3, 1)

        difference = (named() - F.conv3d(one, kernel, padding=1)).abs().max()
        assert difference < 1e-5, difference
        alone = seconds(lambda: F.conv3d(one, kernel, padding=1))
        to_two = alone / seconds(lambda: F.conv3d(both, kernel, padding=1))
        to_named = alone / seconds(named)
        print(
            f"16 channels, {side}^3: one volume takes {to_two:.1f} times the time of two, "
            f"{to_named:.1f} times that of oneDNN"
        )
        assert to_two > 1.3, "one volume is no longer slower than two"
    few, more = (convolution(1, channels, 32) for channels in (16, 24))
    ratio = seconds(lambda: F.conv3d(*few, padding=1)) / seconds(lambda: F.conv3d(*more, padding=1))
    print(f"one volume of 32^3: 16 channels take {ratio:.1f} times the time of 24")
    assert ratio > 1.3, "16 channels are no longer slower than 24"
PYTHON
