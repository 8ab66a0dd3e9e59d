"""Speed and memory of the method against the published computation: `python -m tests.benchmarks.method`.

Same weights, same inputs, one thread; repeats of both are interleaved and the fastest of each counts, in CPU seconds of
the process, so that a busy machine blurs the ratio as little as possible. Each case has a process of its own, twice:
with glibc's allocator as it comes, which gives freed memory back and pays for it again in page faults, and as
pretraining starts its workers, where neither side has any. What a process did before decides how often the former
happens, so that cases in one process would not compare. Prints Markdown tables; `--write` puts them into
docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ctplatform.training.pretrain import MALLOC
from drasclr import augment
from drasclr.contrast import DrasCLR
from drasclr.encoder import Encoder, channels_last
from drasclr.published import import_published
from tests.benchmarks import document
from tests.benchmarks.peak import peak_mib
from tests.published import SlowEncoder, checkpoint

AUGMENTED = 128  # patches
TITLES = {
    "train": "train",
    "inference": "inference",
    "augmentation": f"augmentation of {AUGMENTED} patches",
    "momentum": "momentum update",
}


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


@dataclass(frozen=True)
class Case:
    """Both sides of one line of the table. `threads` of one process each side."""

    kind: str
    bar: float | None
    places: int = 0
    scans: int = 0
    threads: int = 1

    @property
    def name(self) -> str:
        """As the table has it."""
        where = f", {self.places} location(s) x {self.scans} scans" if self.places else ""
        return TITLES[self.kind] + where + (f", {self.threads} threads" if self.threads > 1 else "")


def training(case: Case, repeats: int) -> tuple[float, float, float]:
    """CPU seconds of both, and the largest difference of their features."""
    slow, fast = pair()
    slow.train(), fast.train()
    patches, locations = inputs(case.places, case.scans)
    flat, each = patches.flatten(0, 1), locations.repeat_interleave(case.scans, dim=0)
    theirs = training_step(slow, lambda: slow(flat, each)[1])
    ours = training_step(fast, lambda: fast.grouped(patches, locations))
    difference = (theirs() - ours().flatten(0, 1)).abs().max().item()
    return *seconds(theirs, ours, repeats=repeats), difference


@torch.no_grad()
def inference(case: Case, repeats: int) -> tuple[float, float, float]:
    """The same in evaluation mode."""
    slow, fast = pair()
    slow.eval(), fast.eval()
    patches, locations = inputs(case.places, case.scans)
    flat, each = patches.flatten(0, 1), locations.repeat_interleave(case.scans, dim=0)
    difference = (slow(flat, each)[1] - fast.grouped(patches, locations).flatten(0, 1)).abs().max().item()
    loop, batched = seconds(
        lambda: slow(flat, each)[1], lambda: fast.grouped(patches, locations), repeats=repeats
    )
    return loop, batched, difference


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


def augmentation(case: Case, repeats: int) -> tuple[float, float, float]:
    """CPU seconds of MONAI, a sample at a time, and of ours."""
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
    count = AUGMENTED
    patches = torch.randint(-1024, 240, (1, count, 32, 32, 32), dtype=torch.int16)
    scans, location = torch.arange(count), torch.tensor([3])

    def theirs() -> None:
        for patch in patches[0].numpy():
            clipped = np.clip(patch, -1024, 240).astype(np.float32)[None] + 1024
            torch.as_tensor(np.asarray(pipeline(clipped))) / 632 - 1

    def ours() -> None:
        augment.apply(patches, augment.draw(seed=0, epoch=0, scans=scans, locations=location, view=0))

    return *seconds(theirs, ours, repeats=repeats), math.nan


def momentum(case: Case, repeats: int) -> tuple[float, float, float]:
    """CPU seconds of a parameter at a time, and of ours."""
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

    return *seconds(theirs, model.update_key_encoder, repeats=10 * repeats), math.nan


CASES = (
    Case("train", None, 1, 16),
    Case("train", 5.0, 1, 64),
    Case("train", 7.0, 1, 128),
    Case("train", 4.0, 8, 4),
    Case("train", None, 4, 8),
    Case("inference", 7.0, 1, 64),
    Case("inference", 7.0, 1, 64, threads=2),
    Case("inference", None, 8, 8),
    Case("augmentation", 4.0),
    Case("momentum", None),
)
MEASURES = {
    "train": training,
    "inference": inference,
    "augmentation": augmentation,
    "momentum": momentum,
}


def _measured(case: Case, repeats: int, connection: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(case.threads)
    connection.send(MEASURES[case.kind](case, repeats))


def in_its_own_process(case: Case, repeats: int, environment: dict[str, str]) -> tuple[float, float, float]:
    """One case, in a process with these variables from its start."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with mock.patch.dict(os.environ, environment):
        process = context.Process(target=_measured, args=(case, repeats, sender))
        process.start()
    sender.close()
    result = receiver.recv()
    process.join()
    return result


def speed_row(case: Case, repeats: int) -> list[str]:
    """One line of the speed table."""
    loop, batched, difference = in_its_own_process(case, repeats, {})
    kept = in_its_own_process(case, repeats, MALLOC)
    ratio, kept_ratio = loop / batched, kept[0] / kept[1]
    return [
        case.name,
        f"{loop * 1e3:.0f}",
        f"{batched * 1e3:.0f}",
        f"{ratio:.1f}x",
        f"{kept[0] * 1e3:.0f}",
        f"{kept[1] * 1e3:.0f}",
        f"{kept_ratio:.1f}x",
        f">= {case.bar:g}x: {verdict(ratio, kept_ratio, case.bar)}" if case.bar else "",
        "" if math.isnan(difference) else f"{difference:.0e}",
    ]


def verdict(ratio: float, kept_ratio: float, bar: float) -> str:
    """Whether a bar holds in both settings."""
    if min(ratio, kept_ratio) >= bar:
        return "yes"
    return "no" if max(ratio, kept_ratio) < bar else "in one of the two"


def _peak(kind: str, scans: int, connection: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(1)
    slow, fast = pair()
    patches, locations = inputs(1, scans)
    model: torch.nn.Module = slow if kind == "loop" else fast
    model.train()
    # Weights and their gradients are there before and after; what counts is what the step needs on top.
    before = peak_mib()
    if kind == "loop":
        training_step(slow, lambda: slow(patches[0], locations.expand(scans, 3))[1])()
    else:
        training_step(fast, lambda: fast.grouped(patches, locations))()
    connection.send(peak_mib() - before)


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
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks/")
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
            document.replace("Layouts and precisions", text)
        return
    rows = []
    for case in CASES:
        rows.append(speed_row(case, options.repeats))
        print(rows[-1], file=sys.stderr)
    head = ["case", "peer, CPU ms", "ours, CPU ms", "ratio"]
    head += ["peer, memory kept", "ours, memory kept", "ratio, memory kept", "bar", "largest difference"]
    speed = document.table(head, rows)
    memory = document.table(["forward + backward", "peer, MiB", "ours, MiB", "share", "bar"], memory_rows())
    text = "\n".join(
        [
            "`python -m tests.benchmarks.method`: 8 experts, float32, one thread unless said, the same weights and",
            "inputs, fastest of interleaved repeats in CPU time, each case in a process of its own. The peer is the",
            "published computation, a loop over samples that mixes kernels for each; of augmentation MONAI, a sample",
            'at a time; of the momentum update a parameter at a time. "Memory kept": both with the allocator\'s',
            "settings of our training workers, under which freed memory stays with the process; without, much of what",
            f"the peer takes are page faults. {platform.machine()}, torch {torch.__version__}.",
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
        document.replace("Method", text)


if __name__ == "__main__":
    main()
