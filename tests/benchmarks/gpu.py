"""Training throughput on a CUDA device: `python -m tests.benchmarks.gpu`.

For each batch shape and precision: patches a second of one whole step (both losses, one neighbour, momentum update,
optimizer, memory), peak memory, and the achieved share of what the device itself reaches on a large copy and a large
matrix product. `--write` puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from drasclr.contrast import DrasCLR
from drasclr.encoder import LAYERS, PATCH_SIZE, Encoder
from tests.benchmarks import document

SHAPES = ((1, 128), (4, 32), (8, 16), (8, 64))
NEIGHBOURS = 1
LOCATIONS = 64
QUEUE = 4096


def wall_seconds(function: Callable[[], object], *, repeats: int) -> float:
    """Mean wall-clock seconds, after two warm-up calls."""
    for _ in range(2):
        function()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.empty(1 << 28, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / wall_seconds(lambda: target.copy_(source), repeats=20)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    side = 8192
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / wall_seconds(lambda: a @ b, repeats=10)


def work_of_patch() -> tuple[float, float]:
    """(floating-point operations, values of activations) of one patch, forward."""
    side, operations, values = PATCH_SIZE, 0.0, 0.0
    for channels_in, channels_out, stride in LAYERS:
        values += channels_in * side**3
        side //= stride
        operations += 2 * 27 * channels_in * channels_out * side**3
        values += channels_out * side**3
    return operations, values


def measure(
    places: int, scans: int, dtype: torch.dtype, device: torch.device, repeats: int
) -> tuple[float, float]:
    """(seconds a step, peak bytes)."""
    torch.manual_seed(0)
    index = torch.arange(LOCATIONS)
    model = DrasCLR(
        encoder=Encoder(),
        coordinates_N3=torch.rand(LOCATIONS, 3) * 2 - 1,
        neighbours_NK=(index[:, None] + 1 + torch.arange(NEIGHBOURS)) % LOCATIONS,
        queue_size=QUEUE,
        monitored=False,
    ).to(device)
    model.memory.to(device)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9, fused=True
    )
    shape = (1, PATCH_SIZE, PATCH_SIZE, PATCH_SIZE)
    query, key = (torch.rand(places, scans, *shape, device=device) * 2 - 1 for _ in range(2))
    around = torch.rand(places, NEIGHBOURS, scans, *shape, device=device) * 2 - 1
    locations, subjects = torch.arange(places, device=device), torch.arange(scans, device=device)
    while int(model.memory.filled(locations.cpu()).min()) < QUEUE:
        keys = torch.nn.functional.normalize(torch.randn(places, scans, 128, device=device), dim=-1)
        model.memory.enqueue(locations, keys, subjects + 1_000_000)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            result = model(query, key, around, locations, subjects)
        result.loss.backward()
        optimizer.step()
        model.memory.enqueue(locations, result.keys_GSD, subjects)

    torch.cuda.reset_peak_memory_stats()
    seconds = wall_seconds(step, repeats=repeats)
    return seconds, torch.cuda.max_memory_allocated()


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: this benchmark needs one, and a CUDA build of torch")
    device = torch.device("cuda")
    # Convolutions use TF32 by default; so that shares compare like with like, the matrix product does, too.
    torch.set_float32_matmul_precision("high")
    operations, values = work_of_patch()
    # Forward of query, key and neighbours; backward of query and neighbours costs twice their forward.
    passes = 1 + 3 * (1 + NEIGHBOURS)
    bandwidth, rows = copy_rate(device), []
    for dtype in (torch.float32, torch.bfloat16):
        rate = matrix_rate(device, dtype)
        for places, scans in SHAPES:
            seconds, peak = measure(places, scans, dtype, device, options.repeats)
            anchors = places * scans
            matrix = passes * operations * anchors / seconds / rate
            # The least that must move: every value of every pass is read and written once.
            moved = passes * values * anchors * torch.finfo(dtype).bits / 8 / seconds / bandwidth
            speed = f"{anchors * (2 + NEIGHBOURS) / seconds:,.0f}"
            name = str(dtype).removeprefix("torch.")
            rows.append(
                [f"{places} x {scans}", name, speed, f"{peak / 2**20:,.0f}", f"{moved:.0%}", f"{matrix:.0%}"]
            )
    head = ["locations x scans", "precision", "patches/s", "peak, MiB", "of copy bandwidth", "of matrix rate"]
    text = "\n\n".join(
        [
            f"`python -m tests.benchmarks.gpu`: {torch.cuda.get_device_name(device)}, torch {torch.__version__}. Whole "
            f"training step, {NEIGHBOURS} neighbour, {QUEUE} keys a location. A large copy reaches "
            f"{bandwidth / 1e9:,.0f} GB/s. Shares are of what a large copy and a large matrix product of the same "
            "precision reach, counting the least traffic and work that the step needs.",
            document.table(head, rows),
        ]
    )
    print(text)
    if options.write:
        document.replace(Path(__file__).parents[2] / "docs" / "benchmarks.md", "GPU", text)


if __name__ == "__main__":
    main()
