"""The whole GPU path: `python -m tests.benchmarks.gpu`, on one CUDA device.

Sampling of `prepare`, augmentation, the training step beside the published loop and with each patch encoded once, and
embedding of one and of many scans, in single precision and bfloat16; with `--compile` also with compiled layers, and
embedding on a CUDA device also as a CUDA graph. Shares are of what the device itself reaches on a large copy and a
large matrix product. `--device cpu` runs the same on a CPU, in single precision and with smaller yardsticks: to see
that it runs. `--write` puts the tables into docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import sys

import torch

from drasclr.encoder import PATCH_SIZE
from tests.benchmarks import document, gpu_parts
from tests.benchmarks.gpu_parts import NEIGHBOURS

SHAPES = ((1, 128), (4, 32), (8, 16), (8, 64))
BLOCK = (32, 16)
LOCATIONS = 581
VOLUME = 400
QUEUE = 4096
STEP_BAR, SHARE_BAR, SCAN_BAR_MS = 30.0, 0.5, 20.0


def name_of(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s)"


def _precision(dtype: torch.dtype, how: str = "") -> str:
    return str(dtype).removeprefix("torch.") + (f", {how}" if how else "")


def _met(bar: str, reached: bool) -> str:
    return f"{bar}: {'yes' if reached else 'no'}"


class Tables:
    """The tables of one device.

    Args:
        device: measured.
        options: of the command line.
    """

    def __init__(self, device: torch.device, options: argparse.Namespace) -> None:
        self.device, self.options, self.repeats = device, options, options.repeats
        self.bandwidth = gpu_parts.copy_rate(device)
        # On a CPU without instructions for it, bfloat16 is tens of times slower: training ignores it there.
        self.dtypes = (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,)
        self.rates = {dtype: gpu_parts.matrix_rate(device, dtype) for dtype in self.dtypes}

    def data(self) -> str:
        """Sampling and augmentation."""
        seconds, cpu, difference = gpu_parts.sampling(
            self.device, side=self.options.volume, repeats=self.repeats
        )
        rows = [
            [
                f"sampling {self.options.volume}^3 voxels, B-spline",
                f"{1000 * seconds:.3g} ms",
                f"{cpu / seconds:.1f}x the CPU, {difference:.0f} HU apart",
            ]
        ]
        for places, scans in self.options.shapes:
            seconds = gpu_parts.augmentation(self.device, places=places, scans=scans, repeats=self.repeats)
            patches = places * scans
            # int16 in, float32 out: the least that must move.
            share = patches * PATCH_SIZE**3 * 6 / seconds / self.bandwidth
            rows.append(
                [f"augmentation, {places} x {scans}", f"{patches / seconds:,.0f} patches/s", f"{share:.0%}"]
            )
        return document.table(["what", "speed", "beside; of copy bandwidth"], rows)

    def steps(self) -> str:
        """The training step, the published loop first."""
        options, rows = self.options, []
        scans = options.loop_scans
        loop = gpu_parts.published_step(self.device, scans=scans, queue=options.keys, repeats=1)
        rows.append([f"published loop, 1 x {scans}", "float32", f"{scans / loop:,.1f}", "", "", "", "1x", ""])
        operations, values = gpu_parts.work_of_patch()
        cases = [(shape, False) for shape in options.shapes] + [(options.block, True)]
        hows = ("", "compiled") if options.compile else ("",)
        for dtype, ((places, scans), encode_once), how in itertools.product(self.dtypes, cases, hows):
            seconds, peak = gpu_parts.step(
                self.device,
                dtype,
                places=places,
                scans=scans,
                locations=options.locations,
                queue=options.keys,
                repeats=self.repeats,
                encode_once=encode_once,
                compiled=how == "compiled",
            )
            anchors = places * scans
            # Backward costs twice its forward; keys are encoded forward only. Anchors that follow one another have
            # NEIGHBOURS others in all, where each patch is encoded once.
            trained = anchors + NEIGHBOURS * scans if encode_once else anchors * (1 + NEIGHBOURS)
            passes = anchors + 3 * trained
            matrix = passes * operations / seconds / self.rates[dtype]
            # The least that must move: every value of every pass is read and written once.
            moved = passes * values * torch.finfo(dtype).bits / 8 / seconds / self.bandwidth
            ratio = (anchors / seconds) / (options.loop_scans / loop)
            reached = ratio >= STEP_BAR and max(moved, matrix) >= SHARE_BAR
            rows.append(
                [
                    f"{places} x {scans}" + (", each patch once" if encode_once else ""),
                    _precision(dtype, how),
                    f"{anchors / seconds:,.1f}",
                    f"{peak / 2**20:,.0f}",
                    f"{moved:.0%}",
                    f"{matrix:.0%}",
                    f"{ratio:.1f}x",
                    _met(f">= {STEP_BAR:g}x, >= {SHARE_BAR:.0%}", reached),
                ]
            )
            print(rows[-1], file=sys.stderr)
        head = ["locations x scans", "precision", "anchors/s", "peak, MiB", "of copy bandwidth"]
        return document.table([*head, "of matrix rate", "of the loop", "bar"], rows)

    def embedding(self) -> str:
        """One and many scans at all locations."""
        rows, hows = [], [""]
        if self.options.compile:
            hows.append("compiled")
        if self.device.type == "cuda":
            hows.append("CUDA graph")
        for dtype, scans, how in itertools.product(self.dtypes, self.options.embed_scans, hows):
            places = self.options.locations
            seconds = gpu_parts.embedding(
                self.device, dtype, places=places, scans=scans, repeats=self.repeats, how=how
            )
            each = 1000 * seconds / scans
            bar = _met(f"<= {SCAN_BAR_MS:g} ms", each <= SCAN_BAR_MS) if scans == 1 else ""
            rows.append([str(scans), _precision(dtype, how), f"{each:.3g}", bar])
            print(rows[-1], file=sys.stderr)
        return document.table(["scans", "precision", "ms a scan", "bar"], rows)


def _shape(text: str) -> tuple[int, int]:
    places, scans = map(int, text.split("x"))
    return places, scans


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks/")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--shapes", nargs="*", type=_shape, default=SHAPES, metavar="GxS", help="locations x scans"
    )
    parser.add_argument("--block", type=_shape, default=BLOCK, metavar="GxS", help="with each patch once")
    parser.add_argument("--loop-scans", type=int, default=32, help="scans of the published loop's step")
    parser.add_argument("--locations", type=int, default=LOCATIONS)
    parser.add_argument("--embed-scans", nargs="*", type=int, default=(1, 8))
    parser.add_argument("--volume", type=int, default=VOLUME, help="side of the volume that is sampled")
    parser.add_argument("--keys", type=int, default=QUEUE, help="keys a location")
    parser.add_argument("--compile", action="store_true", help="measure compiled layers, too")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device: this benchmark needs one, and a CUDA build of torch")
    # Convolutions use TF32 by default; so that shares compare like with like, the matrix product does, too.
    torch.set_float32_matmul_precision("high")
    tables = Tables(device, options)
    text = "\n\n".join(
        [
            f"`python -m tests.benchmarks.gpu`: {name_of(device)}, torch {torch.__version__}. Training steps with "
            f"{NEIGHBOURS} neighbours and {options.keys} keys a location, embedding at {options.locations} locations. "
            f"A large copy reaches {tables.bandwidth / 1e9:,.0f} GB/s. Shares are of what a large copy and a large "
            "matrix product of the same precision reach, counting the least traffic and work that is needed.",
            tables.data(),
            tables.steps(),
            tables.embedding(),
        ]
    )
    print(text)
    if options.write:
        document.replace("GPU", text)


if __name__ == "__main__":
    main()
