"""Speed and memory of the method against the published computation: `python -m tests.benchmarks.method`.

Same weights, same inputs, one thread, one run; repeats of both are interleaved and the fastest of each counts, in
CPU seconds of the process, so that a busy machine blurs the ratio as little as possible. Prints Markdown tables;
`--write` puts them into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from drasclr import augment
from drasclr.contrast import DrasCLR
from drasclr.encoder import Encoder, channels_last
from drasclr.weights import import_published
from tests.benchmarks import document
from tests.published import SlowEncoder, checkpoint

TRAINING = ((1, 16, None), (1, 64, 5.0), (1, 128, 7.0), (8, 4, 4.0), (4, 8, None))
INFERENCE = ((1, 64, 7.0), (8, 8, None))


def seconds(
    first: Callable[[], object], second: Callable[[], object], *, repeats: int
) -> tuple[float, float]:
    """Fewest CPU seconds of each, after one warm-up call."""
    best = [math.inf, math.inf]
    for repeat in range(repeats + 1):
        for index, function in enumerate((first, second)):
            start = time.process_time()
            function()
            if repeat:
                best[index] = min(best[index], time.process_time() - start)
    return best[0], best[1]


def pair() -> tuple[SlowEncoder, Encoder]:
    """The published computation and ours, with the same weights."""
    torch.manual_seed(0)
    slow = SlowEncoder()
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        torch.save(checkpoint(slow), file.name)
        return slow, import_published(file.name)


def inputs(places: int, scans: int) -> tuple[Tensor, Tensor]:
    """Location-major patches [G, S, 1, 32, 32, 32] and locations [G, 3]."""
    generator = torch.Generator().manual_seed(places * 1000 + scans)
    patches = torch.rand(places, scans, 1, 32, 32, 32, generator=generator) * 2 - 1
    return patches, torch.rand(places, 3, generator=generator) * 2 - 1


def training_step(model: torch.nn.Module, features: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Forward and backward through the features."""

    def step() -> Tensor:
        model.zero_grad(set_to_none=True)
        result = features()
        (result * result.detach().cos()).sum().backward()
        return result.detach()

    return step


def train_rows(repeats: int) -> list[list[str]]:
    slow, fast = pair()
    slow.train(), fast.train()
    rows = []
    for places, scans, bar in TRAINING:
        patches, locations = inputs(places, scans)
        flat, each = patches.flatten(0, 1), locations.repeat_interleave(scans, dim=0)
        theirs = training_step(slow, lambda flat=flat, each=each: slow(flat, each)[1])
        ours = training_step(
            fast, lambda patches=patches, locations=locations: fast.grouped(patches, locations)
        )
        difference = (theirs() - ours().flatten(0, 1)).abs().max().item()
        loop, batched = seconds(theirs, ours, repeats=repeats)
        rows.append(
            row(f"train, {places} location(s) x {scans} scans", loop, batched, bar, f"{difference:.0e}")
        )
        print(rows[-1], file=sys.stderr)
    return rows


def inference_rows(repeats: int) -> list[list[str]]:
    slow, fast = pair()
    slow.eval(), fast.eval()
    rows = []
    with torch.no_grad():
        for places, scans, bar in INFERENCE:
            patches, locations = inputs(places, scans)
            flat, each = patches.flatten(0, 1), locations.repeat_interleave(scans, dim=0)

            def theirs(flat: Tensor = flat, each: Tensor = each) -> Tensor:
                return slow(flat, each)[1]

            def ours(patches: Tensor = patches, locations: Tensor = locations) -> Tensor:
                return fast.grouped(patches, locations)

            difference = (theirs() - ours().flatten(0, 1)).abs().max().item()
            loop, batched = seconds(theirs, ours, repeats=repeats)
            rows.append(
                row(
                    f"inference, {places} location(s) x {scans} scans",
                    loop,
                    batched,
                    bar,
                    f"{difference:.0e}",
                )
            )
            print(rows[-1], file=sys.stderr)
    return rows


def format_rows(repeats: int, *, compiled: bool) -> list[list[str]]:
    """The same step layer by layer, in each layout and precision, against the parts that `trunk` works in."""
    _, fast = pair()
    fast.train()
    patches, locations = inputs(1, 16)

    def layered(*, last: bool, act: Callable[..., Tensor] = norm_elu) -> Callable[[], Tensor]:
        def features() -> Tensor:
            x = channels_last(patches[0]) if last else patches[0]
            for stage in fast.layers:
                conv, norm = stage.conv, stage.norm
                kernel = conv.kernels(locations)[0]
                kernel = kernel if last else kernel.contiguous()
                x = act(F.conv3d(x, kernel, conv.bias, conv.stride, 1), norm.weight, norm.bias)
            return x.flatten(1)

        return training_step(fast, features)

    def bfloat16() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return layered(last=True)()

    ours = training_step(fast, lambda: fast.grouped(patches, locations))
    cases = {
        "layer by layer, plain layout": layered(last=False),
        "layer by layer, channels last": layered(last=True),
        "the same under bfloat16 autocast": bfloat16,
    }
    if compiled:
        function = torch.compile(norm_elu, dynamic=False)
        torch._dynamo.config.recompile_limit = 64
        cases["the same with compiled normalisation and ELU"] = layered(last=True, act=function)
    rows = []
    for name, step in cases.items():
        start = time.perf_counter()
        step()
        first = time.perf_counter() - start
        other, own = seconds(step, ours, repeats=repeats)
        rows.append([name, f"{other * 1e3:.0f}", f"{own * 1e3:.0f}", f"{other / own:.1f}x", f"{first:.1f}"])
        print(rows[-1], file=sys.stderr)
    return rows


def norm_elu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalisation by the statistics of the batch, then ELU, as torch has them."""
    return F.elu(F.batch_norm(x, None, None, weight, bias, True, 0.0, 1e-5))


def row(name: str, loop: float, batched: float, bar: float | None, note: str) -> list[str]:
    """One line of the speed table."""
    wanted = "" if bar is None else f">= {bar:g}x"
    return [name, f"{loop * 1e3:.0f}", f"{batched * 1e3:.0f}", f"{loop / batched:.1f}x", wanted, note]


def augmentation_rows(repeats: int) -> list[list[str]]:
    from monai.transforms import Compose, RandAdjustContrast, RandAffine, RandGaussianNoise

    affine = RandAffine(
        prob=1.0,
        mode="bilinear",
        spatial_size=(32,) * 3,
        translate_range=(12,) * 3,
        rotate_range=(math.pi / 18,) * 3,
        scale_range=(0.1,) * 3,
        padding_mode="border",
    )
    pipeline = Compose([affine, RandGaussianNoise(prob=0.25, std=50), RandAdjustContrast(prob=0.25)])
    pipeline.set_random_state(0)
    count = 128
    patches = torch.randint(-1024, 240, (1, count, 32, 32, 32), dtype=torch.int16)
    scans, location = torch.arange(count), torch.tensor([3])

    def theirs() -> None:
        for patch in patches[0].numpy():
            clipped = np.clip(patch, -1024, 240).astype(np.float32)[None] + 1024
            torch.as_tensor(np.asarray(pipeline(clipped))) / 632 - 1

    def ours() -> None:
        augment.apply(patches, augment.draw(seed=0, epoch=0, scans=scans, locations=location, view=0))

    loop, batched = seconds(theirs, ours, repeats=repeats)
    return [row(f"augmentation of {count} patches (peer: MONAI, a sample at a time)", loop, batched, 4.0, "")]


def momentum_rows(repeats: int) -> list[list[str]]:
    model = DrasCLR(
        encoder=Encoder(),
        coordinates_N3=torch.zeros(4, 3),
        neighbours_NK=torch.zeros(4, 0, dtype=torch.long),
        queue_size=8,
    )

    @torch.no_grad()
    def theirs() -> None:
        for key, query in zip(model.key.parameters(), model.query.parameters(), strict=True):
            key.data = key.data * 0.999 + query.data * 0.001

    loop, batched = seconds(theirs, model.update_key_encoder, repeats=10 * repeats)
    return [row("momentum update (peer: a parameter at a time)", loop, batched, None, "")]


def _peak(kind: str, scans: int, connection: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(1)
    slow, fast = pair()
    patches, locations = inputs(1, scans)
    model: torch.nn.Module = slow if kind == "loop" else fast
    model.train()
    # Weights and their gradients are there before and after; what counts is what the step needs on top.
    before = _high_water_mib()
    if kind == "loop":
        training_step(slow, lambda: slow(patches[0], locations.expand(scans, 3))[1])()
    else:
        training_step(fast, lambda: fast.grouped(patches, locations))()
    connection.send(_high_water_mib() - before)


def _high_water_mib() -> float:
    """Peak resident memory of this process; getrusage would report the parent's where that is larger."""
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def memory_rows() -> list[list[str]]:
    """Peak resident memory of one step, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    peaks = []
    for kind in ("loop", "batched"):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_peak, args=(kind, 128, sender))
        process.start()
        peaks.append(receiver.recv())
        process.join()
    loop, batched = peaks
    share = batched / loop
    return [["1 location x 128 scans", f"{loop:.0f}", f"{batched:.0f}", f"{share:.2f}", "< 0.33"]]


def main() -> None:
    """Run everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--formats", action="store_true", help="layouts and precisions only")
    parser.add_argument("--compile", action="store_true", help="compiled normalisation among them; minutes")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.formats:
        head = [
            "1 location x 16 scans, forward + backward",
            "CPU ms",
            "ours, CPU ms",
            "ratio",
            "first call, s",
        ]
        text = document.table(head, format_rows(options.repeats, compiled=options.compile))
        print(text)
        if options.write:
            document.replace(
                Path(__file__).parents[2] / "docs" / "benchmarks.md", "Layouts and precisions", text
            )
        return
    rows = train_rows(options.repeats) + inference_rows(options.repeats)
    rows += augmentation_rows(options.repeats) + momentum_rows(options.repeats)
    speed = document.table(
        ["case", "peer, CPU ms", "ours, CPU ms", "ratio", "bar", "largest difference"], rows
    )
    memory = document.table(["forward + backward", "peer, MiB", "ours, MiB", "share", "bar"], memory_rows())
    text = "\n".join(
        [
            "`python -m tests.benchmarks.method`: 8 experts, float32, one thread, the same weights and inputs in the",
            "same run, fastest of interleaved repeats in CPU time. The peer is the published computation, a loop over",
            f"samples that mixes kernels for each. {platform.machine()}, torch {torch.__version__}.",
            "",
            speed,
            "",
            "Peak resident memory that one step adds, each in a fresh process:",
            "",
            memory,
        ]
    )
    print(text)
    if options.write:
        document.replace(Path(__file__).parents[2] / "docs" / "benchmarks.md", "Method", text)


if __name__ == "__main__":
    main()
