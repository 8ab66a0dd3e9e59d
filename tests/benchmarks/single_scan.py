"""One scan from file to vector: `python -m tests.benchmarks.single_scan`.

CPU-seconds of `embed_scan` for a 512 x 512 x 300 scan on one core at the published atlas's 581 locations, in a fresh
process for each format, first pass and fastest of the others; and wall-clock seconds that the command `drasclr embed`
takes before its first scan: for one and for a hundred files that end at once, being no images. Weights are random, with
8 experts. Prints Markdown; `--write` puts it into docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ctplatform.dataset.atlas import read_atlas
from ctplatform.preparation.atlas import atlas
from ctplatform.storage.layout import ATLAS, TEMPLATE_FILE
from ctplatform.storage.workspace import Workspace
from tests.benchmarks import bigscans, document, realscans

SECTION = "One scan from file to vector"
CPU_BAR, START_BAR = 4.0, 4.0
STEPS = ("read", "mask", "register", "sample", "measure", "encode")


def write_weights(folder: Path) -> Path:
    """A weights folder with the published atlas."""
    import torch

    from drasclr import weights
    from drasclr.encoder import Encoder

    workspace = Workspace(folder / "workspace")
    recipe = realscans.recipe_of(realscans.folders()[1])
    atlas(workspace, None, recipe)
    places = read_atlas(workspace)
    torch.manual_seed(0)
    card = {
        "atlas_hash": places.hash,
        "hu_window": list(recipe.prepare.hu_window),
        "spacing_mm": 1.0,
        "preparation": recipe.prepare.model_dump(mode="json", include={"sampling", "lungs", "quality"}),
        "pooling": "mean",
    }
    template = workspace.read_bytes(ATLAS, TEMPLATE_FILE)
    weights.save(folder / "weights", Encoder(8).eval(), card, atlas=places, template=template)
    return folder / "weights"


def embed(path: str, weights: str, passes: int) -> list[tuple[float, dict[str, float]]]:
    """(CPU-seconds, CPU-seconds a step) of each pass over a scan in this process."""
    import torch

    import drasclr
    from ctplatform.inference import embed_scan

    torch.set_num_threads(1)
    model = drasclr.load(weights)
    found = []
    for _ in range(passes):
        start = time.process_time()
        result = embed_scan(path, model)
        found.append((time.process_time() - start, result.steps))
    return found


def fresh(path: str, weights: str, passes: int) -> list[tuple[float, dict[str, float]]]:
    """`embed` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(embed, (path, weights, passes))


def start_up(files: list[Path], weights: Path, repeats: int, *options: str) -> tuple[float, float]:
    """Least wall-clock and CPU-seconds of the command on files that are no images."""
    command = [sys.executable, "-m", "ctplatform", "embed", *map(str, files), "--weights", str(weights)]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            done = subprocess.run(
                [*command, *options, "-o", str(Path(folder) / "out.parquet"), "--json"],
                capture_output=True,
                env=os.environ | {"RAY_raylet_start_wait_time_s": "300"},
            )
            wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            if done.returncode not in (0, 3):
                sys.exit(done.stderr.decode())
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            found.append((wall, cpu))
    return min(wall for wall, _ in found), min(cpu for _, cpu in found)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks/")
    options = parser.parse_args()
    ct, _ = realscans.folders()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights = write_weights(folder)
        rows = []
        for form, path in bigscans.write(bigscans.resliced(ct, 300), folder / "big").items():
            (first, _), *others = fresh(str(path), str(weights), options.passes)
            best, steps = min(others, key=lambda item: item[0])
            own = [f"{steps.get(name, 0):.2f}" for name in STEPS]
            met = "yes" if best <= CPU_BAR else "no"
            rows.append([form, f"{first:.2f}", f"{best:.2f}", *own, f"<= {CPU_BAR:g}", met])
            print(*rows[-1], file=sys.stderr)
        bad = [folder / "bad" / f"{number:03d}.nii.gz" for number in range(100)]
        (folder / "bad").mkdir()
        for file in bad:
            file.write_bytes(b"no image")
        starts = []
        for name, files, arguments in (
            ("1 file", bad[:1], ()),
            ("100 files, this process", bad, ("--workers", "1")),
            ("100 files, Ray", bad, ()),
        ):
            wall, cpu = start_up(files, weights, 3, *arguments)
            bar = ["", ""] if "Ray" in name else [f"<= {START_BAR:g}", "yes" if wall <= START_BAR else "no"]
            starts.append([name, f"{wall:.1f}", f"{cpu:.1f}", *bar])
            print(*starts[-1], file=sys.stderr)
    text = "\n".join(
        [
            "`python -m tests.benchmarks.single_scan`: a 512 x 512 x 300 scan on one core, 581 locations, 8 experts,",
            f"CPU-seconds of the first pass of a process and of the fastest of {options.passes - 1} more, in all and a",
            f"step. {realscans.machine()}, load average {os.getloadavg()[1]:.0f}.",
            "",
            document.table(["scan", "first", "fastest", *STEPS, "bar", "met"], rows),
            "",
            "The start of `drasclr embed`: files that are no images end at once, so that what is left is imports,",
            "weights and, where several files are given, Ray. Least of three.",
            "",
            document.table(["files", "wall-clock s", "CPU-s", "bar", "met"], starts),
        ]
    )
    print(text)
    if options.write:
        document.replace(SECTION, text)


if __name__ == "__main__":
    main()
