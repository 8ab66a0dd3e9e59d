"""The whole training step against the published one, and the same losses: `python -m tests.benchmarks.step`.

581 locations, 4,096 keys a location, two neighbours, augmentation of every patch, SGD, momentum encoder, key memory:
what `published` does, one location a step. The peer augments a patch at a time with MONAI, convolves a sample at a
time, updates the momentum encoder a parameter at a time and copies keys out of a dense queue (`tests/published.py`).
Both sides start from the same weights and keys and draw the same augmentations. Repeats are interleaved; the fastest of
each counts, in seconds of the clock. `--losses` compares the losses of 50 steps instead. `--write` puts the tables into
docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from drasclr import augment
from drasclr.contrast import DrasCLR
from drasclr.encoder import Encoder
from tests.benchmarks import document
from tests.benchmarks.method import pair
from tests.published import SlowAugmentation, SlowEncoder, SlowTraining

LOCATIONS, KEYS, NEIGHBOURS = 581, 4096, 2
BARS = {32: 4.5, 128: 6.0}
DOCS = Path(__file__).parents[2] / "docs" / "benchmarks.md"


class World:
    """What both sides are given: locations, neighbours, keys, and the patches of each step."""

    def __init__(self, *, locations: int = LOCATIONS, keys: int = KEYS) -> None:
        generator = torch.Generator().manual_seed(0)
        self.coordinates_N3 = torch.rand(locations, 3, generator=generator) * 2 - 1
        self.neighbours_NK = (torch.arange(locations)[:, None] + torch.arange(1, NEIGHBOURS + 1)) % locations
        # Location n holds keys n to n + K of one long list: other ones for each, and a moment's work to make.
        every_LD = torch.nn.functional.normalize(
            torch.randn(keys + locations, 128, generator=generator), dim=-1
        )
        self.keys_NKD = every_LD.as_strided((locations, keys, 128), (128, 128, 1))

    def location(self, step: int) -> int:
        """Where a step works; all over the atlas, so that no step finds its keys in the cache of the one before."""
        return step * 101 % len(self.coordinates_N3)

    def patches(self, step: int, batch: int) -> Tensor:
        """int16 HU [1 + K, B, 32, 32, 32]: tissue and vessels, other ones for each subject and step."""
        generator = torch.Generator().manual_seed(step)
        shape = (1 + NEIGHBOURS, batch)
        coarse = torch.randn(*shape, 8, 8, 8, generator=generator).flatten(0, 1)[:, None]
        fine = torch.nn.functional.interpolate(coarse, size=(32,) * 3, mode="trilinear", align_corners=True)
        noise = torch.randn(*shape, 32, 32, 32, generator=generator) * 30
        return (-850 + 250 * fine.view(*shape, 32, 32, 32).clamp(min=-0.5) + noise).to(torch.int16)


class Peer:
    """The published step; `reverse` takes each batch from its end, which changes nothing but how sums are rounded."""

    def __init__(self, world: World, encoder: SlowEncoder, *, reverse: bool = False) -> None:
        self.world, self.augment, self.reverse = world, SlowAugmentation(), reverse
        self.training = SlowTraining(encoder, world.keys_NKD.permute(2, 1, 0).contiguous())

    def __call__(self, step: int, patches: Tensor) -> tuple[float, float]:
        """(local, global) loss."""
        location = self.world.location(step)
        around = self.world.neighbours_NK[location]
        scans = torch.arange(patches.shape[1])
        query, key = (self._views(patches[0], scans, torch.tensor(location), step, view) for view in (0, 1))
        neighbours = torch.stack(
            [self._views(hu, scans, at, step, 2) for hu, at in zip(patches[1:], around, strict=True)]
        )
        coordinates = self.world.coordinates_N3[torch.cat([torch.tensor([location]), around])]
        if self.reverse:
            query, key, neighbours = query.flip(0), key.flip(0), neighbours.flip(1)
        return self.training.step(query, key, neighbours, location, coordinates)

    def _views(self, hu: Tensor, scans: Tensor, location: Tensor, step: int, view: int) -> Tensor:
        """Each patch by itself, with what ours draws for it."""
        p = augment.draw(seed=0, epoch=step, scans=scans, locations=location[None], view=view)
        affine = torch.cat([p.rotation_GS3, p.translation_GS3, p.scale_GS3 - 1], dim=-1)[0].tolist()
        views = []
        for patch, numbers, std, gamma, seed in zip(
            hu.numpy(), affine, p.noise_std_GS[0], p.gamma_GS[0], p.noise_key_GS[0], strict=True
        ):
            noise = augment._normal(seed[None], count=patch.size)[0].numpy() if std > 0 else None
            self.augment.script(numbers, float(std), noise, float(gamma) if gamma != 1 else None)
            views.append(self.augment(patch))
        return torch.stack(views)


class Ours:
    """Our step with the published settings, as `ctplatform.training` makes it, monitors of collapse included."""

    def __init__(self, world: World, encoder: Encoder) -> None:
        self.world = world
        self.model = DrasCLR(
            encoder=encoder,
            coordinates_N3=world.coordinates_N3,
            neighbours_NK=world.neighbours_NK,
            queue_size=world.keys_NKD.shape[1],
            temperature=SlowTraining.temperature,
            momentum=SlowTraining.momentum,
            beta=SlowTraining.beta,
            neighbour_aggregation="sum",
            exclude_same_subject=False,
        ).train()
        memory = self.model.memory
        memory.keys_NKD.copy_(world.keys_NKD)
        memory.subjects_NK.fill_(-2)
        memory.count_N.fill_(memory.size)
        self.optimizer = torch.optim.SGD(
            [p for p in self.model.parameters() if p.requires_grad], lr=0.01, momentum=0.9, weight_decay=1e-4
        )

    def __call__(self, step: int, patches: Tensor) -> tuple[float, float]:
        """(local, global) loss."""
        locations = torch.tensor([self.world.location(step)])
        scans = torch.arange(patches.shape[1])

        def view(hu_GSDHW: Tensor, at: Tensor, number: int) -> Tensor:
            drawn = augment.draw(seed=0, epoch=step, scans=scans, locations=at, view=number)
            return augment.apply(hu_GSDHW, drawn)

        query, key = (view(patches[:1], locations, number) for number in (0, 1))
        neighbours = view(patches[1:], self.world.neighbours_NK[locations[0]], 2)[None]
        contrast = self.model(query, key, neighbours, locations, scans)
        self.optimizer.zero_grad(set_to_none=True)
        contrast.loss.backward()
        self.optimizer.step()
        self.model.memory.enqueue(locations, contrast.keys_GSD, scans)
        return contrast.local.item(), contrast.global_.item()


def both(world: World) -> tuple[Peer, Ours]:
    """Both sides, from the same weights and keys."""
    slow, fast = pair()
    return Peer(world, slow), Ours(world, fast)


def speed_rows(batches: list[int], *, threads: int, repeats: int) -> list[list[str]]:
    """A line a batch size."""
    torch.set_num_threads(threads)
    world, rows = World(), []
    sides = both(world)
    for batch in batches:
        best, spent = [math.inf, math.inf], [math.inf, math.inf]
        for repeat in range(repeats + 1):
            patches = world.patches(repeat, batch)
            for index, side in enumerate(sides):
                start, used = time.perf_counter(), time.process_time()
                side(repeat, patches)
                if repeat:  # the first one warms up
                    best[index] = min(best[index], time.perf_counter() - start)
                    spent[index] = min(spent[index], time.process_time() - used)
            print(batch, threads, repeat, *best, *spent, file=sys.stderr, flush=True)
        ratio, wanted = best[0] / best[1], BARS.get(batch, 0.0)
        rows.append(
            [str(batch), str(threads), f"{best[0]:.2f}", f"{best[1]:.2f}", f"{batch / best[1]:.1f}"]
            + [
                f"{ratio:.1f}x",
                f"{spent[0] / spent[1]:.1f}x",
                f">= {wanted:g}x",
                "yes" if ratio >= wanted else "no",
            ]
        )
        print(rows[-1], file=sys.stderr)
    return rows


def loss_rows(batch: int, *, steps: int) -> list[list[str]]:
    """Largest differences of the losses in parts of the run: ours, and the published computation's own."""
    world = World()
    theirs, ours = both(world)
    again = Peer(world, pair()[0], reverse=True)
    seen = []
    for step in range(steps):
        patches = world.patches(step, batch)
        seen.append([side(step, patches) for side in (theirs, ours, again)])
        print(step, *seen[-1], file=sys.stderr, flush=True)
    losses_SOL = np.array(seen)
    rows = []
    for start, end in ((0, 1), (1, 10), (10, steps)):
        part = losses_SOL[start:end]
        apart = np.abs(part[:, 1:] - part[:, :1]) / part[:, :1]
        rows.append(
            [f"{start + 1} to {end}" if end > start + 1 else f"{end}"]
            + [f"{part[:, 0, 0].mean():.4f}", f"{part[:, 0, 1].mean():.4f}"]
            + [f"{value:.1e}" for value in apart.max(0).ravel()]
        )
    return rows


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="*", default=[32, 128])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--losses", action="store_true", help="compare losses instead of speed")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks.md")
    options = parser.parse_args()
    about = (
        f"{LOCATIONS} locations, {KEYS:,} keys each, {NEIGHBOURS} neighbours, every patch augmented, float32"
    )
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}."
    if options.losses:
        torch.set_num_threads(options.threads[0])
        (batch, *_), section = options.batches, "Losses of 50 steps"
        rows = loss_rows(batch, steps=options.steps)
        head = [
            "step",
            "local loss",
            "global loss",
            "ours: local",
            "global",
            "batch reversed: local",
            "global",
        ]
        lines = [
            f"`python -m tests.benchmarks.step --losses --batches {batch}`: {about};",
            f"batch {batch}, {options.steps} steps of SGD from the same weights, keys, patches and augmentations.",
            "Largest relative difference from the published computation's losses: ours, and as a yardstick that of the",
            "published computation itself with each batch in reverse order, which is the same but for how sums are",
            f"rounded; training lets such differences grow. {machine}",
        ]
    else:
        rows, section = [], "The whole step"
        for threads in options.threads:
            rows += speed_rows(options.batches, threads=threads, repeats=options.repeats)
        head = [
            "batch",
            "threads",
            "published, s",
            "ours, s",
            "anchors/s",
            "ratio",
            "by CPU time",
            "bar",
            "met",
        ]
        lines = [
            f"`python -m tests.benchmarks.step`: {about};",
            "one location a step, as published. The peer augments a patch and convolves a sample at a",
            f"time (MONAI, PyTorch). Seconds of the clock, fastest of {options.repeats} interleaved repeats. {machine}",
        ]
    text = "\n".join([*lines, "", document.table(head, rows)])
    print(text)
    if options.write:
        document.replace(DOCS, section, text)


if __name__ == "__main__":
    main()
