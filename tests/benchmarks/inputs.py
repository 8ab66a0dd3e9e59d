"""Kinds of input that went wrong elsewhere or here: `python -m tests.benchmarks.inputs`.

Draws headers by the thousand (`--draws`), each with a known right result, makes each case of `input_cases`, and prints
a table of the kinds: what is right, what comes out, and who reported the like. Ends with an error at the first wrong
draw, and where a case is wrong.
`--write` puts the table into docs/benchmarks/.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from hypothesis import strategies as st

from tests.benchmarks import document
from tests.benchmarks.drawing import draw
from tests.benchmarks.input_cases import CASES, GITHUB
from tests.ctplatform.imaging import odd_dicom, odd_files, odd_nifti
from tests.ctplatform.imaging.drawn import check_broken, check_right, headers
from tests.ctplatform.imaging.oddities import Odd, check_odd

SECTION = "Kinds of input"
KINDS = [*odd_dicom.KINDS, *odd_nifti.KINDS, *odd_files.KINDS]
REPORTS = {
    "DICOM: slope and intercept of each slice": "SimpleITK/SimpleITK/pull/1640",
    "DICOM: slope and intercept missing on some slices": "Kitware/VolView/issues/292",
    "DICOM: MONOCHROME1": "scifio/scifio/issues/311",
    "DICOM: MONOCHROME1 on some slices": "SimpleITK/SimpleITK/pull/2348",
    "DICOM: pixels cut short, length as stored": "pydicom/pydicom/issues/1188",
    "DICOM: bytes behind the pixels": "pydicom/pydicom/pull/801",
    "DICOM: a slice lost": "InsightSoftwareConsortium/ITK/issues/441",
    "DICOM: a second acquisition between the slices": "rordenlab/dcm2niix/issues/721",
    "DICOM: positions rounded to 0.01 mm": "InsightSoftwareConsortium/ITK/issues/1607",
    "NIfTI: codes of sform and qform": "TorchIO-project/torchio/issues/1300",
    "NIfTI: sform alone, of any code": "nipy/nibabel/issues/863",
    "NIfTI: voxel offset 0": "rii-mango/NIFTI-Reader-JS/issues/55",
    "NIfTI: pixdim of another size than the sform": "InsightSoftwareConsortium/ITK/issues/3514",
    "NIfTI: sheared": "InsightSoftwareConsortium/ITK/issues/3994",
    "NRRD: sheared": "SimpleITK/SimpleITK/issues/2360",
    "NRRD: named spaces": "JuliaImages/Images.jl/issues/86",
}
"""Public reports of the like by users of other tools, below `GITHUB`; the other kinds were found here."""


def drawn_headers(count: int) -> tuple[Counter[str], dict[str, Counter[str]]]:
    """Draws of the three kinds of property, and the outcomes of the odd ones by their kind's name: "" or a code."""
    made: Counter[str] = Counter()
    outcomes: dict[str, Counter[str]] = {kind.name: Counter() for kind in KINDS}

    def check(odd: Odd) -> None:
        outcomes[odd.kind.name][check_odd(odd)] += 1

    part = count // 4
    made["right"] = draw(headers(broken=False), check_right, part)
    made["broken"] = draw(headers(broken=True), check_broken, part)
    for kind in KINDS:  # one after the other, so that each has its share
        odd = st.builds(Odd, grid=headers(broken=False), kind=st.just(kind), seed=st.integers(0, 2**31 - 1))
        made["odd"] += draw(odd, check, max(1, (count - 2 * part) // len(KINDS) + 1))
    return made, outcomes


def report_link(place: str) -> str:
    """A Markdown link to a report; "here" where there is none."""
    if not place:
        return "here"
    parts = place.split("/")
    return f"[{parts[1]} #{parts[-1]}]({GITHUB}{place})"


def main() -> None:
    """Table of all kinds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=10_000, help="of headers (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"replace the section {SECTION!r}")
    args = parser.parse_args()
    begun = time.process_time()
    made, outcomes = drawn_headers(args.draws)
    seconds = time.process_time() - begun
    rows = []
    for kind in KINDS:
        found = outcomes[kind.name]
        refused = [f"{code} {n}" for code, n in sorted(found.items()) if code]
        rows.append(
            [
                kind.name,
                report_link(REPORTS.get(kind.name, "")),
                "the scan" if kind.sound else "refused, or the scan",
                f"{found['']} of {found.total()}",
                ", ".join(refused),
            ]
        )
    cases, wrong = [], []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            comes_out, right = case.run(Path(folder))
        cases.append([case.name, report_link(case.report), case.right, comes_out])
        wrong += [] if right else [case.name]
    text = (
        f"`python -m tests.benchmarks.inputs --draws {args.draws}`: "
        f"{sum(made.values()):,} drawn headers in {seconds:.0f} CPU-seconds: "
        f"{made['right']:,} right ones, {made['broken']:,} with a byte overwritten, {made['odd']:,} odd ones of "
        f"{len(KINDS)} kinds. None gave other voxels than the right ones, voxels in another place (beyond 0.05 mm and "
        "the rounding of the header), or another exception than ScanError. Reports are of users of other tools.\n\n"
        + document.table(["drawn headers", "report", "right", "read, and right", "refused"], rows)
        + "\n\n"
        + document.table(["scans and trees", "report", "right", "comes out"], cases)
    )
    print(text)
    if wrong:
        raise SystemExit(f"wrong: {', '.join(wrong)}")
    if args.write:
        document.replace(SECTION, text)


if __name__ == "__main__":
    main()
