"""What the published training costs, from counted operations and bytes: `python -m tests.benchmarks.training_cost`.

9,179 scans x 581 locations x 20 epochs, two neighbours, by our code. Nothing here is timed on a GPU: the operations of
an anchor are counted by formula (tests/drasclr/test_operations.py holds it against torch's own counter), the bytes by
what a GPU has to move if every layer reads and writes its activations in its memory. The slower of both at the rates
of a data sheet is a floor for what goes layer by layer; augmentation, launches and waiting come on top. What is
reached in practice is a share of it, which a GPU has to be had to measure (`tests.benchmarks.gpu`). `--write` puts the
table into docs/benchmarks/.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from drasclr.encoder import FEATURES, LAYERS, PATCH_SIZE
from tests.benchmarks import document

SCANS, LOCATIONS, EPOCHS, NEIGHBOURS, KEYS = 9179, 581, 20, 2, 4096
TAPS = 27
#: A scan's shard and its patches unpacked, bytes: docs/benchmarks/scale.md.
SHARD, PATCH = 30.3e6, 2 * PATCH_SIZE**3
#: Reads and writes of a layer's activations: convolution 1, statistics 1, normalisation and ELU 2, next layer 1.
FORWARD_PASSES = 5
#: Through ELU and normalisation 2 + 3, gradient of the input 2, of the kernels 2.
BACKWARD_PASSES = 9
SHARE = 0.2


@dataclass(frozen=True)
class Device:
    """Data-sheet rates: operations a second without sparsity, bytes a second of memory."""

    name: str
    fp32: float
    bf16: float
    memory: float


DEVICES = (
    Device("NVIDIA A100 80 GB SXM", 19.5e12, 312e12, 2.04e12),
    Device("NVIDIA H100 80 GB SXM", 67e12, 989e12, 3.35e12),
)


def shapes() -> list[tuple[int, int, int]]:
    """(channels in, channels out, output voxels) of each convolution."""
    side, found = PATCH_SIZE, []
    for channels_in, channels_out, stride in LAYERS:
        side //= stride
        found.append((channels_in, channels_out, side**3))
    return found


def forward_flops() -> int:
    """Floating-point operations of convolutions and projection, a patch; padding counts as torch counts it."""
    convolutions = sum(2 * TAPS * a * b * voxels for a, b, voxels in shapes())
    return convolutions + 2 * 2 * FEATURES * FEATURES


def backward_flops() -> int:
    """Gradients of kernels and of inputs, a patch; patches themselves need none."""
    first_in, first_out, first_voxels = shapes()[0]
    return 2 * forward_flops() - 2 * TAPS * first_in * first_out * first_voxels


def contrast_flops(neighbours: int = NEIGHBOURS) -> int:
    """Both losses against all keys, forward, and backward to the embeddings, an anchor."""
    losses = 2 if neighbours else 1
    return losses * 2 * 2 * (KEYS + 1) * FEATURES


def anchor_flops(neighbours: int = NEIGHBOURS) -> int:
    """An anchor: query and neighbours forward and backward, key forward, both losses."""
    trained = (1 + neighbours) * (forward_flops() + backward_flops())
    return trained + forward_flops() + contrast_flops(neighbours)


def anchor_bytes(size: int, neighbours: int = NEIGHBOURS) -> int:
    """What the encoders move through a GPU's memory for an anchor, at `size` bytes a value."""
    values = sum(channels_out * voxels for _, channels_out, voxels in shapes())
    passes = (1 + neighbours) * (FORWARD_PASSES + BACKWARD_PASSES) + FORWARD_PASSES
    return passes * values * size


def anchors() -> int:
    """Anchors of the published training."""
    return SCANS * LOCATIONS * EPOCHS


def rows() -> list[list[str]]:
    """A line a device and precision."""
    found = []
    for device in DEVICES:
        for precision, rate, size in (("fp32", device.fp32, 4), ("bf16", device.bf16, 2)):
            compute = anchors() * anchor_flops() / rate / 3600
            memory = anchors() * anchor_bytes(size) / device.memory / 3600
            floor = max(compute, memory)
            found.append(
                [device.name, precision, f"{compute:.2f}", f"{memory:.2f}", f"{floor:.1f}"]
                + [f"{floor / SHARE:.0f}", f"{anchors() / (floor / SHARE * 3600):,.0f}"]
            )
    return found


def main() -> None:
    """Print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", type=float, help="measured anchors a second of one core, for the core-hours")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    options = parser.parse_args()
    head = ["device", "precision", "operations alone, h", "memory alone, h", "floor, GPU-h"]
    table = document.table([*head, f"at {SHARE:.0%} of it, GPU-h", "which is anchors/s"], rows())
    read = SCANS * SHARD
    lines = [
        f"`python -m tests.benchmarks.training_cost`: {SCANS:,} scans x {LOCATIONS} locations x {EPOCHS} epochs = "
        f"{anchors() / 1e6:.1f} million anchors with",
        f"{NEIGHBOURS} neighbours each. **No GPU was at hand: these are counts, not measurements.** An anchor costs "
        f"{anchor_flops() / 1e9:.2f} GFLOP,",
        f"a forward pass of one patch {forward_flops() / 1e9:.3f}; layer by layer an anchor moves "
        f"{anchor_bytes(4) / 1e6:.0f} MB in single precision. All of it:",
        f"{anchors() * anchor_flops() / 1e15:.0f} x 10^15 operations. The floor is the slower of both at data-sheet "
        "rates (no sparsity, no TF32), without",
        "augmentation, launches and waiting. What is reached is less, as channels are few; the last columns take "
        f"{SHARE:.0%} of the",
        "floor's speed: a guess to plan with, no more.",
        "",
        table,
        "",
        f"An epoch reads {read / 1e9:,.0f} GB of shards, all of them {EPOCHS * read / 1e12:.1f} TB: in 10 hours "
        f"{EPOCHS * read / 36e3 / 1e6:.0f} MB/s. The key memory is {LOCATIONS * KEYS * FEATURES * 4 / 1e9:.2f} GB.",
    ]
    if options.cpu:
        hours = anchors() / options.cpu / 3600
        lines += [
            "",
            f"On CPUs, at the {options.cpu:g} anchors a second that one core was measured at (section The whole step): "
            f"{hours:,.0f} core-hours.",
        ]
    text = "\n".join(lines)
    print(text)
    if options.write:
        document.replace("The cost of the published training", text)


if __name__ == "__main__":
    main()
