"""What `tests.benchmarks.gpu` measures, each on any device: yardsticks, sampling, augmentation, steps, embedding."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ctplatform.preparation.interpolation import Axis, interpolate_box
from drasclr import augment, neighbourhood
from drasclr.contrast import DrasCLR
from drasclr.encoder import LAYERS, PATCH_SIZE, Encoder
from tests.published import SlowEncoder, SlowTraining

NEIGHBOURS = 2
SIDES = (PATCH_SIZE,) * 3
HU_WINDOW = (-1024, 240)


def wall_seconds(function: Callable[[], object], *, repeats: int, warm_up: int = 2) -> float:
    """Mean wall-clock seconds, after calls that warm up."""
    for _ in range(warm_up):
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
    source = torch.empty(1 << (28 if device.type == "cuda" else 22), device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / wall_seconds(lambda: target.copy_(source), repeats=20)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    side = 8192 if device.type == "cuda" else 512
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


def sampling(device: torch.device, *, side: int, repeats: int) -> tuple[float, float, float]:
    """Cubic B-spline of a volume on a box of the same size, as `prepare` computes it.

    Returns:
        (seconds on the device, seconds of `prepare` on a CPU, largest difference in HU).
    """
    rng = np.random.default_rng(0)
    volume_ZYX = rng.integers(-1000, 200, (side, side, side)).astype(np.int16)
    # A shift of a fraction of a voxel and a spacing of 0.8: nothing falls on a voxel.
    axes = tuple(Axis.at(0.3 + 0.8 * np.arange(side), side, "bspline") for _ in range(3))
    held = torch.from_numpy(volume_ZYX).to(device)
    weights = []
    for axis in axes:
        matrix = torch.zeros(side, side)
        for block, taken, part in axis.blocks:
            matrix[block, taken] = torch.from_numpy(part)
        weights.append(matrix.to(device))
    x, y, z = weights

    def box() -> Tensor:
        part = torch.einsum("xi,zyi->zyx", x, held.float())
        part = torch.einsum("yi,zix->zyx", y, part)
        part = torch.einsum("zi,iyx->zyx", z, part)
        return part.round_().clamp_(*HU_WINDOW).short()

    cpu = wall_seconds(lambda: interpolate_box(volume_ZYX, axes, HU_WINDOW), repeats=repeats, warm_up=1)
    found = interpolate_box(volume_ZYX, axes, HU_WINDOW)
    difference = (box().cpu().int() - torch.from_numpy(found).int()).abs().max()
    return wall_seconds(box, repeats=repeats), cpu, float(difference)


def augmentation(device: torch.device, *, places: int, scans: int, repeats: int) -> float:
    """Seconds to draw and apply one view of so many patches."""
    hu = torch.randint(-1000, 200, (places, scans, *SIDES), dtype=torch.int16, device=device)
    locations, numbers = torch.arange(places, device=device), torch.arange(scans, device=device)

    def view() -> Tensor:
        drawn = augment.draw(seed=0, epoch=0, scans=numbers, locations=locations, view=0)
        return augment.apply(hu, drawn)

    return wall_seconds(view, repeats=repeats)


def step(
    device: torch.device,
    dtype: torch.dtype,
    *,
    places: int,
    scans: int,
    locations: int,
    queue: int,
    repeats: int,
    encode_once: bool = False,
    compiled: bool = False,
) -> tuple[float, float]:
    """A whole training step on views that are there: (seconds, peak bytes; 0 on a CPU).

    Each location's neighbours are those that follow it; with `encode_once` the anchors follow one another, as those of
    a block do.
    """
    torch.manual_seed(0)
    index = torch.arange(locations)
    model = DrasCLR(
        encoder=Encoder(),
        coordinates_N3=torch.rand(locations, 3) * 2 - 1,
        neighbours_NK=(index[:, None] + 1 + torch.arange(NEIGHBOURS)) % locations,
        queue_size=queue,
        monitored=False,
        encode_once=encode_once,
    ).to(device)
    model.memory.to(device)
    if compiled:
        for encoder in (model.query, model.key):
            for layer in encoder.layers:
                layer.compile()
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9, fused=True
    )
    anchors, subjects = torch.arange(places, device=device), torch.arange(scans, device=device)
    others = len(neighbourhood.others(anchors, model.neighbours_NK[anchors]))
    query, key = (torch.rand(places, scans, 1, *SIDES, device=device) * 2 - 1 for _ in range(2))
    near = (others,) if encode_once else (places, NEIGHBOURS)
    around = torch.rand(*near, scans, 1, *SIDES, device=device) * 2 - 1
    while int(model.memory.filled(anchors.cpu()).min()) < queue:
        keys = torch.nn.functional.normalize(torch.randn(places, scans, 128, device=device), dim=-1)
        model.memory.enqueue(anchors, keys, subjects + 1_000_000)

    def once() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            result = model(query, key, around, anchors, subjects)
        result.loss.backward()
        optimizer.step()
        model.memory.enqueue(anchors, result.keys_GSD, subjects)

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = wall_seconds(once, repeats=repeats)
    return seconds, torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def published_step(device: torch.device, *, scans: int, queue: int, repeats: int) -> float:
    """Seconds of the published step, a loop over samples: one location, its neighbours, so many scans."""
    torch.manual_seed(0)
    keys = torch.nn.functional.normalize(torch.randn(128, queue, 1 + NEIGHBOURS, device=device), dim=0)
    loop = SlowTraining(SlowEncoder().to(device), keys)
    query, key = (torch.rand(scans, 1, *SIDES, device=device) * 2 - 1 for _ in range(2))
    around = torch.rand(NEIGHBOURS, scans, 1, *SIDES, device=device) * 2 - 1
    coordinates = torch.rand(1 + NEIGHBOURS, 3, device=device) * 2 - 1
    return wall_seconds(lambda: loop.step(query, key, around, 0, coordinates), repeats=repeats, warm_up=1)


def embedding(
    device: torch.device,
    dtype: torch.dtype,
    *,
    places: int,
    scans: int,
    repeats: int,
    how: str = "",
) -> float:
    """Seconds to encode so many scans at so many locations; `how` is "", "compiled" or "CUDA graph"."""
    torch.manual_seed(0)
    encoder = Encoder().to(device).eval()
    if how == "compiled":
        for layer in encoder.layers:
            layer.compile()
    patches = torch.rand(places, scans, 1, *SIDES, device=device) * 2 - 1
    coordinates = torch.rand(places, 3, device=device) * 2 - 1

    @torch.no_grad()
    def once() -> Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            return encoder.grouped(patches, coordinates)

    if how == "CUDA graph":
        side_stream = torch.cuda.Stream()
        with torch.cuda.stream(side_stream):
            once()
        torch.cuda.current_stream().wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            once()
        return wall_seconds(graph.replay, repeats=repeats)
    return wall_seconds(once, repeats=repeats)
