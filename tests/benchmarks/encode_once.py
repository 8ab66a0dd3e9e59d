"""Each patch of a batch encoded once: `python -m tests.benchmarks.encode_once`, beside the published arrangement.

The whole training step of recipe `fast` (augmentation, both losses with two neighbours, momentum update, optimiser,
memory) on one thread, at locations and blocks of the published atlas in the folder that DRASCLR_ATLAS names. Every case
has the same number of anchors a step, spread over more or fewer locations of a block; cases work in turn, and the
fastest step of each counts, in CPU time. `--write` puts the table into docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from tests.benchmarks import document, realscans

if TYPE_CHECKING:
    from ctplatform.config.recipe import Recipe
    from drasclr.atlas import Atlas

ANCHORS = 128
CASES = ((4, False), (32, False), (8, True), (16, True), (32, True))
BAR = 2.0


class Step:
    """One case: a model of its own and a batch of random patches of the atlas's first block.

    Args:
        recipe: settings of pretraining.
        atlas: locations, blocks and neighbours.
        places: anchor locations.
        encode_once: `pretrain.encode_once`.
        anchors: of the step, over all its scans.
    """

    def __init__(self, recipe: Recipe, atlas: Atlas, *, places: int, encode_once: bool, anchors: int) -> None:
        from ctplatform.training.batch import Batch, Patches
        from ctplatform.training.model import build_model, build_optimizer

        config = recipe.pretrain.model_copy(update={"encode_once": encode_once})
        torch.manual_seed(0)
        self.recipe, self.config = recipe.model_copy(update={"pretrain": config}), config
        self.model = build_model(config, atlas).train()
        self.optimizer = build_optimizer(self.model, config)
        rng, scans = np.random.default_rng(0), anchors // places
        rows = np.concatenate([atlas.members(0), atlas.halo(0)])
        place_N = np.full(atlas.num_locations, -1)
        place_N[rows] = np.arange(len(rows))
        chosen = rng.permutation(atlas.members(0))[:places]
        near = atlas.neighbours_NK[chosen]
        hu = rng.integers(-1000, 200, (scans, len(rows), atlas.patch_size**3)).astype(np.int16)
        self.batch = Batch(
            patches=Patches(list(hu), atlas.patch_size),
            anchor_rows_G=torch.from_numpy(place_N[chosen]),
            neighbour_rows_GK=torch.from_numpy(place_N[near]),
            locations_G=torch.from_numpy(chosen.astype(np.int64)),
            neighbour_locations_GK=torch.from_numpy(near.astype(np.int64)),
            scans_S=torch.arange(scans),
            subjects_S=torch.arange(scans),
            epoch=0,
        )

    @property
    def patches(self) -> float:
        """Patches that are encoded with a gradient, for each anchor."""
        others = len(self.batch.other_locations())
        near = others if self.config.encode_once else self.batch.neighbour_rows_GK.numel()
        return 1 + near / len(self.batch.locations_G)

    def seconds(self) -> float:
        """CPU seconds of a step."""
        from ctplatform.training.views import views_of

        start = time.process_time()
        views = views_of(self.batch, self.recipe)
        contrast = self.model(*views, self.batch.locations_G, self.batch.subjects_S)
        self.optimizer.zero_grad(set_to_none=True)
        contrast.loss.backward()
        self.optimizer.step()
        self.model.memory.enqueue(self.batch.locations_G, contrast.keys_GSD, contrast.subjects_S)
        return time.process_time() - start


def main() -> None:
    """Measure and print the table."""
    from ctplatform.config.loader import load_recipe
    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.preparation.atlas import atlas
    from ctplatform.storage.workspace import Workspace

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--anchors", type=int, default=ANCHORS, help="a step")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe("fast", (f"atlas.source={realscans.folders()[1]}",))
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(folder)
        atlas(workspace, None, recipe)
        made = read_atlas(workspace)
    steps = {
        case: Step(recipe, made, places=case[0], encode_once=case[1], anchors=options.anchors)
        for case in CASES
    }
    best = dict.fromkeys(CASES, float("inf"))
    for _ in range(options.repeats + 1):  # the first warms up, and is never the fastest for long
        for case, step in steps.items():
            best[case] = min(best[case], step.seconds())
    rows = []
    for places, once in CASES:
        ratio = best[CASES[0]] / best[places, once]
        met = f">= {BAR:g}x: {'yes' if ratio >= BAR else 'no'}" if (places, once) == CASES[-1] else ""
        rows.append(
            [
                f"{places} x {options.anchors // places}",
                "each patch once" if once else "as published",
                f"{steps[places, once].patches:.2f}",
                f"{options.anchors / best[places, once]:.1f}",
                f"{ratio:.2f}x",
                met,
            ]
        )
    head = [
        "locations x scans",
        "patches",
        "with a gradient, per anchor",
        "anchors/CPU-s",
        "of the first",
        "bar",
    ]
    text = "\n".join(
        [
            f"`python -m tests.benchmarks.encode_once --anchors {options.anchors}`: a whole step of recipe `fast`, two",
            f"neighbours, one thread, CPU time, fastest of {options.repeats + 1} interleaved steps.",
            f"{realscans.machine()}.",
            "",
            document.table(head, rows),
        ]
    )
    print(text)
    if options.write:
        document.replace("Each patch once", text)


if __name__ == "__main__":
    main()
