"""Training throughput on a CUDA device: `python -m tests.benchmarks.gpu`.

`--device cpu` runs the same on a CPU, in single precision, with smaller yardsticks: to see that it runs.

For each batch shape and precision: patches a second of one whole step (both losses, one neighbour, momentum update,
optimizer, memory), peak memory, and the achieved share of what the device itself reaches on a large copy and a large
matrix product. `--write` puts the table into docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import sys
import time
from collections.abc import Callable

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
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    synchronize()
    return (time.perf_counter() - start) / repeats


def synchronize() -> None:
    """Wait for the device, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.empty(1 << (28 if device.type == "cuda" else 24), device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / wall_seconds(lambda: target.copy_(source), repeats=20)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    side = 8192 if device.type == "cuda" else 1024
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
    places: int, scans: int, dtype: torch.dtype, device: torch.device, repeats: int, *, compiled: bool
) -> tuple[float, float]:
    """(seconds a step, peak bytes; 0 on a CPU)."""
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
    if compiled:
        for encoder in (model.query, model.key):
            for layer in encoder.layers:
                layer.compile()
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
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            result = model(query, key, around, locations, subjects)
        result.loss.backward()
        optimizer.step()
        model.memory.enqueue(locations, result.keys_GSD, subjects)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = wall_seconds(step, repeats=repeats)
    return seconds, torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def name_of(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shapes", nargs="*", metavar="GxS", help="locations x scans, such as 4x32")
    parser.add_argument("--compile", action="store_true", help="measure compiled layers, too")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device: this benchmark needs one, and a CUDA build of torch")
    named = [tuple(map(int, shape.split("x"))) for shape in options.shapes or []]
    # Convolutions use TF32 by default; so that shares compare like with like, the matrix product does, too.
    torch.set_float32_matmul_precision("high")
    operations, values = work_of_patch()
    # Forward of query, key and neighbours; backward of query and neighbours costs twice their forward.
    passes = 1 + 3 * (1 + NEIGHBOURS)
    bandwidth, rows = copy_rate(device), []
    # On a CPU without instructions for it, bfloat16 is tens of times slower: training ignores it there.
    dtypes = (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,)
    cases = itertools.product(dtypes, named or SHAPES, (False, True) if options.compile else (False,))
    rates = {dtype: matrix_rate(device, dtype) for dtype in dtypes}
    for dtype, (places, scans), compiled in cases:
        seconds, peak = measure(places, scans, dtype, device, options.repeats, compiled=compiled)
        anchors = places * scans
        matrix = passes * operations * anchors / seconds / rates[dtype]
        # The least that must move: every value of every pass is read and written once.
        moved = passes * values * anchors * torch.finfo(dtype).bits / 8 / seconds / bandwidth
        speed = f"{anchors * (2 + NEIGHBOURS) / seconds:,.0f}"
        name = str(dtype).removeprefix("torch.") + (", compiled" if compiled else "")
        rows.append(
            [f"{places} x {scans}", name, speed, f"{peak / 2**20:,.0f}", f"{moved:.0%}", f"{matrix:.0%}"]
        )
        print(rows[-1], file=sys.stderr)
    head = ["locations x scans", "precision", "patches/s", "peak, MiB", "of copy bandwidth", "of matrix rate"]
    text = "\n\n".join(
        [
            f"`python -m tests.benchmarks.gpu`: {name_of(device)}, torch {torch.__version__}. Whole "
            f"training step, {NEIGHBOURS} neighbour, {QUEUE} keys a location. A large copy reaches "
            f"{bandwidth / 1e9:,.0f} GB/s. Shares are of what a large copy and a large matrix product of the same "
            "precision reach, counting the least traffic and work that the step needs.",
            document.table(head, rows),
        ]
    )
    print(text)
    if options.write:
        document.replace("GPU", text)


if __name__ == "__main__":
    main()
