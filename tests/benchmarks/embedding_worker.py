"""One side of `tests.benchmarks.embedding`; runs with any build of the project on its path."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Samples that the loop holds at a time: those of one scan. The maps of four scans at once take more than 16 GB.
PIECE = 581


def main(side: str, folder: str) -> None:
    """Serve cases `G S`: S scans at each of G locations."""
    builds, published = (_module(name) for name in ("builds.py", "../published.py"))
    torch.set_num_threads(1)
    checkpoint = Path(folder) / "weights.pt"
    if side == "loop":
        encoder = published.SlowEncoder().eval()
        encoder.load_state_dict(torch.load(checkpoint)["own"])
    else:
        # The builds differ in where it lies.
        has_module = importlib.util.find_spec("drasclr.published") is not None
        home = importlib.import_module("drasclr.published" if has_module else "drasclr.weights")
        import_published = home.import_published

        encoder = import_published(checkpoint).eval()
    cases: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def work(case: str) -> dict[str, Any]:
        if case not in cases:
            cases[case] = _inputs(*map(int, case.split()))
        patches, locations = cases[case]
        start = time.process_time()
        if side == "loop":
            each = locations.repeat_interleave(patches.shape[1], dim=0)
            pieces = zip(patches.flatten(0, 1).split(PIECE), each.split(PIECE), strict=True)
            features = torch.cat([encoder(*piece)[1] for piece in pieces])
        else:
            features = encoder.grouped(patches, locations).flatten(0, 1)
        seconds = time.process_time() - start
        np.save(Path(folder) / f"{side}.npy", features.numpy())
        return {"seconds": seconds}

    builds.serve(work)


def _inputs(places: int, scans: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(places, scans, 1, 32, 32, 32, generator=generator) * 2 - 1
    return patches, torch.rand(places, 3, generator=generator) * 2 - 1


def _module(name: str) -> Any:
    path = (Path(__file__).parent / name).resolve()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(*sys.argv[1:])
