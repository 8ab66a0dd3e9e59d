"""Preparing scans with two builds: `python -m tests.benchmarks.preparing --base ../base`.

A 512 x 512 x 300 scan as .nii.gz and as DICOM, through `prepare_scan` at the published atlas's 581 locations, by this
build and by that of a checkout elsewhere, in turn, each in a process of its own; the fastest of each counts, in CPU
seconds, and the peak of resident memory of the first. `--compare FOLDER` compares the results on all scans of a folder
instead: content hash, registration, every patch, and each measure that both builds have. `--write` puts the table into
docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks import bigscans, document, realscans
from tests.benchmarks.builds import HERE, Build, fastest

WORKER = Path(__file__).with_name("preparing_worker.py")
BARS = {".nii.gz": 1.7, "DICOM": 1.9}
MEMORY_BAR = 0.75


@contextmanager
def builds_of(base: Path, folder: Path, atlas: Path) -> Iterator[dict[str, Build]]:
    """A process of each build, with a workspace of its own."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Build(checkout, WORKER, str(folder / name), str(atlas)))
            for name, checkout in (("ours", HERE), ("base", base))
        }


def big_rows(base: Path, *, slices: int, repeats: int) -> list[list[str]]:
    """A line a format, with processes of its own, whose peak of memory is that of the format."""
    ct, atlas = realscans.folders()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for form, path in bigscans.write(bigscans.resliced(ct, slices), folder / "big").items():
            item = {
                "scan_id": "big",
                "subject_id": "big",
                "path": str(path),
                "series_uid": "",
                "fingerprint": "",
            }
            with builds_of(base, folder / form.strip("."), atlas) as builds:
                best = fastest(builds, json.dumps(item), repeats=repeats)
            ours, theirs = best["ours"], best["base"]
            ratio, memory = theirs["seconds"] / ours["seconds"], ours["peak"] / theirs["peak"]
            rows.append(
                [
                    f"512 x 512 x {slices}, {form}",
                    f"{theirs['seconds']:.2f}",
                    f"{ours['seconds']:.2f}",
                    f"{ratio:.2f}x",
                    f">= {BARS[form]}x: {'yes' if ratio >= BARS[form] else 'no'}",
                    f"{theirs['peak']:.0f}",
                    f"{ours['peak']:.0f}",
                    f"{memory:.2f}",
                    f"<= {MEMORY_BAR}: {'yes' if memory <= MEMORY_BAR else 'no'}",
                    "DIFFERENT" if differences(ours, theirs) else "identical",
                    ", ".join(f"{name} {value:.2f}" for name, value in ours["steps"].items()),
                ]
            )
            print(rows[-1], file=sys.stderr)
    return rows


def differences(ours: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """What both builds have and did not find alike: content, registration and patches, then measures by name."""
    common = ours["measures"].keys() & base["measures"].keys()
    pairs = {name: (ours["measures"][name], base["measures"][name]) for name in sorted(common)}
    # As text: a measure that cannot be seen is NaN, which equals nothing.
    different = [f"{name} {a} and {b}" for name, (a, b) in pairs.items() if str(a) != str(b)]
    return [*(["content, registration or patches"] if ours["found"] != base["found"] else []), *different]


def compare(base: Path, ct: Path) -> int:
    """Print each scan of which the builds find anything different; their number."""
    _, atlas = realscans.folders()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        items = realscans.items(ct)
        different = 0
        with builds_of(base, folder, atlas) as builds:
            for item in items:
                results = {name: build.run(json.dumps(item)) for name, build in builds.items()}
                found = differences(results["ours"], results["base"])
                different += bool(found)
                seconds = " and ".join(f"{result['seconds']:.2f}" for result in results.values())
                verdict = f"DIFFERENT: {'; '.join(found)}" if found else "identical"
                print(f"{item['scan_id']}: {verdict}, {results['ours']['state']}, {seconds} s", flush=True)
    print(f"{len(items)} scans, {different} different")
    return different


def main() -> None:
    """Measure or compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="another checkout of the project")
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compare", type=Path, help="compare results on all scans of a folder")
    parser.add_argument("--write", action="store_true", help="put the table into docs/benchmarks/")
    options = parser.parse_args()
    if options.compare:
        sys.exit(1 if compare(options.base, options.compare) else 0)
    head = ["scan", "base, CPU-s", "ours, CPU-s", "ratio", "bar", "base, MiB", "ours, MiB", "share", "bar"]
    head += ["results", "steps of ours, CPU-s"]
    rows = big_rows(options.base, slices=options.slices, repeats=options.repeats)
    text = "\n".join(
        [
            "`python -m tests.benchmarks.preparing --base DIR`, against the build of commit 96f0f19: fastest of",
            f"{options.repeats} interleaved runs after one that warms up, CPU time, one thread; peak of memory in the",
            "first run. Content hash, registration, patches and common measures are compared in the column of results.",
            f"{realscans.machine()}, load average {os.getloadavg()[1]:.0f}.",
            "",
            document.table(head, rows),
        ]
    )
    print(text)
    if options.write:
        document.replace("Preparing scans with two builds", text)


if __name__ == "__main__":
    main()
