"""The whole training step against the published one, and the same losses: `python -m tests.benchmarks.step`.

581 locations, 4,096 keys a location, two neighbours, augmentation of every patch, SGD, momentum encoder, key memory:
what `published` does, one location a step. The peer augments a patch at a time with MONAI, convolves a sample at a
time, updates the momentum encoder a parameter at a time and copies keys out of a dense queue (`tests/published.py`).
Both sides start from the same weights and keys and draw the same augmentations. Repeats are interleaved; the fastest of
each counts, in seconds of the clock. `--losses` compares the losses of 50 steps instead: each side with its own
augmentation in single precision, and both with the same views in double. `--write` puts the tables into
docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Views:
    """What a step trains on: query and key [S, 1, 32, 32, 32], neighbours [K, S, 1, 32, 32, 32]."""

    query: Tensor
    key: Tensor
    neighbours: Tensor

    def to(self, dtype: torch.dtype) -> Views:
        """The same numbers in another precision."""
        return Views(self.query.to(dtype), self.key.to(dtype), self.neighbours.to(dtype))


class World:
    """What both sides are given: locations, neighbours, keys, and the patches of each step."""

    def __init__(
        self, *, locations: int = LOCATIONS, keys: int = KEYS, dtype: torch.dtype = torch.float32
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.dtype = dtype
        self.coordinates_N3 = (torch.rand(locations, 3, generator=generator) * 2 - 1).to(dtype)
        self.neighbours_NK = (torch.arange(locations)[:, None] + torch.arange(1, NEIGHBOURS + 1)) % locations
        # Location n holds keys n to n + K of one long list: other ones for each, and a moment's work to make.
        every_LD = torch.nn.functional.normalize(
            torch.randn(keys + locations, 128, generator=generator).to(dtype), dim=-1
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
    """The published step."""

    def __init__(self, world: World, encoder: SlowEncoder) -> None:
        self.world, self.augment = world, SlowAugmentation()
        self.training = SlowTraining(encoder.to(world.dtype), world.keys_NKD.permute(2, 1, 0).contiguous())

    def views(self, step: int, patches: Tensor) -> Views:
        """Each patch by itself, with what ours draws for it."""
        location = torch.tensor(self.world.location(step))
        around = self.world.neighbours_NK[location]
        query, key = (self._views(patches[0], location, step, view) for view in (0, 1))
        near = [self._views(hu, at, step, 2) for hu, at in zip(patches[1:], around, strict=True)]
        return Views(query, key, torch.stack(near))

    def train(self, step: int, views: Views) -> tuple[float, float]:
        """(local, global) loss."""
        location = self.world.location(step)
        around = self.world.neighbours_NK[location]
        coordinates = self.world.coordinates_N3[torch.cat([torch.tensor([location]), around])]
        return self.training.step(views.query, views.key, views.neighbours, location, coordinates)

    def _views(self, hu: Tensor, location: Tensor, step: int, view: int) -> Tensor:
        scans = torch.arange(len(hu))
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
        self.model.to(world.dtype)
        memory = self.model.memory
        memory.keys_NKD = world.keys_NKD.clone(memory_format=torch.contiguous_format)
        memory.subjects_NK.fill_(-2)
        memory.count_N.fill_(memory.size)
        self.optimizer = torch.optim.SGD(
            [p for p in self.model.parameters() if p.requires_grad], lr=0.01, momentum=0.9, weight_decay=1e-4
        )

    def views(self, step: int, patches: Tensor) -> Views:
        """All patches of a view at once."""
        locations, scans = torch.tensor([self.world.location(step)]), torch.arange(patches.shape[1])

        def view(hu_GSDHW: Tensor, at: Tensor, number: int) -> Tensor:
            drawn = augment.draw(seed=0, epoch=step, scans=scans, locations=at, view=number)
            return augment.apply(hu_GSDHW, drawn)

        query, key = (view(patches[:1], locations, number)[0] for number in (0, 1))
        return Views(query, key, view(patches[1:], self.world.neighbours_NK[locations[0]], 2))

    def train(self, step: int, views: Views) -> tuple[float, float]:
        """(local, global) loss."""
        locations, scans = torch.tensor([self.world.location(step)]), torch.arange(len(views.query))
        contrast = self.model(views.query[None], views.key[None], views.neighbours[None], locations, scans)
        self.optimizer.zero_grad(set_to_none=True)
        contrast.loss.backward()
        self.optimizer.step()
        self.model.memory.enqueue(locations, contrast.keys_GSD, scans)
        return contrast.local.item(), contrast.global_.item()


def whole(side: Peer | Ours, step: int, patches: Tensor) -> tuple[float, float]:
    """A step from patches to changed weights: (local, global) loss."""
    return side.train(step, side.views(step, patches))


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
                whole(side, repeat, patches)
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


def losses_apart(batch: int, *, steps: int) -> tuple[list[list[str]], str]:
    """(a row for each part of the run, what the augmentations differ by).

    Largest relative differences from the published computation: ours in double and in single precision from the same
    views; ours from its own augmentation; the published computation in single precision from itself in double.
    """
    world = World()
    theirs, ours = both(world)
    given = Ours(world, pair()[1])
    exact = World(dtype=torch.float64)
    exact_theirs, exact_ours = both(exact)
    seen, apart, mean = [], 0.0, []
    for step in range(steps):
        patches = world.patches(step, batch)
        views, own = theirs.views(step, patches), ours.views(step, patches)
        difference = (views.neighbours - own.neighbours).abs()
        apart, mean = max(apart, difference.max().item()), [*mean, difference.mean().item()]
        double = views.to(torch.float64)
        seen.append(
            [side.train(step, double) for side in (exact_ours, exact_theirs)]
            + [side.train(step, views) for side in (theirs, given)]
            + [ours.train(step, own)]
        )
        print(step, *seen[-1], file=sys.stderr, flush=True)
    losses_SOL = np.array(seen)
    rows = []
    for start, end in ((0, 1), (1, 10), (10, steps)):
        if start >= steps:
            break
        exact_own_SL, exact_SL, single_SL, given_SL, own_SL = losses_SOL[start:end].transpose(1, 0, 2)
        pairs = [(exact_own_SL, exact_SL), (given_SL, single_SL), (own_SL, single_SL), (single_SL, exact_SL)]
        rows.append(
            [f"{start + 1} to {end}" if end > start + 1 else f"{end}"]
            + [f"{loss:.4f}" for loss in exact_SL.mean(0)]
            + [f"{value:.1e}" for one, other in pairs for value in (np.abs(one - other) / other).max(0)]
        )
    return rows, f"{apart:.1e} (largest voxel of all steps), {np.mean(mean):.1e} (mean)"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="*", default=[32, 128])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--losses", action="store_true", help="compare losses instead of speed")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    options = parser.parse_args()
    about = f"{LOCATIONS} locations, {KEYS:,} keys each, {NEIGHBOURS} neighbours, every patch augmented"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}."
    if options.losses:
        torch.set_num_threads(options.threads[0])
        (batch, *_), section = options.batches, "Losses of 50 steps"
        rows, views = losses_apart(batch, steps=options.steps)
        head = ["step", "local loss", "global loss", "double, same views: local", "global"]
        head += ["single, same views: local", "global", "single, own views: local", "global"]
        head += ["published, single against double: local", "global"]
        lines = [
            f"`python -m tests.benchmarks.step --losses --batches {batch}`: {about};",
            f"batch {batch}, {options.steps} steps of SGD from the same weights, keys and patches.",
            "Largest relative difference from the published computation's losses, in turn: in double precision, both",
            "from the same augmented views (encoder, losses, gradients, optimiser, momentum encoder and key memory);",
            "the same in single precision; in single precision, each with its own augmentation of the same draws",
            f"(neighbours' views in [-1, 1] differ by {views});",
            "and as a yardstick the published computation itself in single precision from itself in double, with the",
            "same views. Training lets any difference grow.",
            machine,
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
            f"`python -m tests.benchmarks.step`: {about}, float32;",
            "one location a step, as published. The peer augments a patch and convolves a sample at a",
            f"time (MONAI, PyTorch). Seconds of the clock, fastest of {options.repeats} interleaved repeats. {machine}",
        ]
    text = "\n".join([*lines, "", document.table(head, rows)])
    print(text)
    if options.write:
        document.replace(section, text)


if __name__ == "__main__":
    main()
