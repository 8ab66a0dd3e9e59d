"""Embedding few scans: `python -m tests.benchmarks.embedding --base ../base`, against another build and the loop.

581 locations, one, two and four scans a location, 8 experts, single precision, one thread. This build, the build of a
checkout elsewhere and the published computation (a loop over samples that mixes kernels for each) have the same weights
and patches, work in turn in processes of their own, and the fastest of each counts, in CPU seconds. `--write` puts the
table into docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks import document, realscans
from tests.benchmarks.builds import HERE, Build, fastest
from tests.published import SlowEncoder, checkpoint

WORKER = Path(__file__).with_name("embedding_worker.py")
LOCATIONS = 581
# Scans a location: at least so many times as fast as the other build.
BARS = {1: 3.0, 2: 1.4, 4: 1.2}
LOOP_BAR = 5.0  # of one scan
DIFFERENCE_BAR = 5e-6  # of the largest output


def write_weights(path: Path) -> None:
    """A published checkpoint whose normalisation has statistics other than the initial ones."""
    torch.manual_seed(0)
    encoder = SlowEncoder()
    with torch.no_grad():
        for name, buffer in encoder.named_buffers():
            if name.endswith("running_mean"):
                buffer.uniform_(-0.05, 0.05)
            if name.endswith("running_var"):
                buffer.uniform_(0.02, 0.1)
    torch.save({**checkpoint(encoder), "own": encoder.state_dict()}, path)


def rows(base: Path, *, locations: int, numbers: list[int], repeats: int) -> list[list[str]]:
    """A line for each number of scans."""
    lines = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        write_weights(Path(folder) / "weights.pt")
        builds = {
            side: stack.enter_context(Build(checkout, WORKER, side, folder))
            for side, checkout in (("ours", HERE), ("base", base), ("loop", HERE))
        }
        for scans in numbers:
            bar = BARS[scans]
            best = fastest(builds, f"{locations} {scans}", repeats=repeats)
            ours, earlier, loop = (best[side]["seconds"] for side in builds)
            results = {side: np.load(Path(folder) / f"{side}.npy") for side in builds}
            largest = np.abs(results["loop"]).max()
            differences = [
                np.abs(results["ours"] - results[side]).max() / largest for side in ("base", "loop")
            ]
            met = earlier / ours >= bar and (scans > 1 or loop / ours >= LOOP_BAR)
            met = met and max(differences) <= DIFFERENCE_BAR
            lines.append(
                [
                    str(scans),
                    f"{loop:.2f}",
                    f"{earlier:.2f}",
                    f"{ours:.2f}",
                    f"{earlier / ours:.1f}x",
                    f"{loop / ours:.1f}x",
                    f">= {bar:g}x" + (f", >= {LOOP_BAR:g}x the loop" if scans == 1 else ""),
                    "yes" if met else "no",
                    *(f"{difference:.0e}" for difference in differences),
                ]
            )
    return lines


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="another checkout of the project")
    parser.add_argument("--locations", type=int, default=LOCATIONS)
    parser.add_argument(
        "--scans", type=int, nargs="+", choices=BARS, default=list(BARS), help="scans a location"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    options = parser.parse_args()
    head = ["scans a location", "loop, s", "base, s", "ours, s", "to base", "to the loop", "bar", "met"]
    head += ["difference to base", "to the loop"]
    table = document.table(
        head,
        rows(options.base, locations=options.locations, numbers=options.scans, repeats=options.repeats),
    )
    text = "\n".join(
        [
            f"`python -m tests.benchmarks.embedding --base BASE --repeats {options.repeats}`:",
            f"{options.locations} locations, 8 experts, CPU-seconds on one thread. The base is commit 96f0f19,",
            "the loop is the published computation in evaluation mode; the last columns are the",
            "largest differences, of the largest output.",
            f"{realscans.machine()}, load average {os.getloadavg()[1]:.0f}.",
            "",
            table,
        ]
    )
    print(text)
    if options.write:
        document.replace("Embedding few scans", text)


if __name__ == "__main__":
    main()
