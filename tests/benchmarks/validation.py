"""Write docs/validation.md: what `drasclr prepare` made of each real CT, with its picture.

    python -m tests.benchmarks.validation --ct FOLDER --cohort CSV --workspace DIR

The workspace must hold a finished `drasclr run` (or prepare) over `drasclr cohort FOLDER`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

from ctplatform.dataset.ledger import read_ledger
from ctplatform.storage.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "validation.md"
IMAGES = ROOT / "docs" / "images" / "validation"
KEPT = (
    "Lung mask against contours",
    "Phantoms of lungs that are hard to segment",
    "The same scans with reversed axes",
)
"""Sections that other benchmarks have written."""

HEAD = """# Validation on real CTs

What the chain made of nine public CTs of lungs, whole and cut: DICOM series, NIfTI and NRRD, slices of 1 to 8 mm,
padding from -1000 to -3024 HU. Registered to the published atlas (581 locations). Commands:

```console
$ drasclr cohort FOLDER -o cohort.csv
$ drasclr atlas build --cohort cohort.csv --workspace out --atlas ATLAS
$ drasclr prepare --cohort cohort.csv --workspace out --atlas ATLAS
$ python -m tests.benchmarks.validation --ct FOLDER --cohort cohort.csv --workspace out
```

The two slabs that are among them on purpose come out rejected, with the reason. `pyradiomics_lung/lung1` lacks the
bases of the lungs; it is flagged for that, and used unless `prepare.quality.use_flagged=false`
([why](decisions/0032-inputs-drawn-and-hard-lungs.md)). `lung_dx_a0002` and
`4dlung_113` are flagged because tumours and what lies behind them keep the air out of a part of one lung, which the
mask then leaves out. The others are accepted. The thresholds of the verdict were set while looking at these very scans:
they say that the rules can be met, not how often they err on others. In the pictures: right lung
orange, left lung blue, atlas locations yellow.

`cip_ct64` is there twice, as NRRD and as DICOM of the same voxels; `drasclr cohort` says so and takes the DICOM.

"""


def replaced_section(page: str, section: str, text: str) -> str:
    """A page with a text under `## section`, in place of what was there, or before the first section if none was."""
    before, marker, after = page.partition(f"\n## {section}\n")
    if not marker:
        before, first, after = page.partition("\n## ")
        return f"{before.rstrip()}\n\n## {section}\n\n{text.strip()}\n{first}{after}"
    _, following, rest = after.partition("\n## ")
    return f"{before.rstrip()}\n{marker}\n{text.strip()}\n{following}{rest}"


def sections(page: str) -> dict[str, str]:
    """Texts of the sections of a page by their titles."""
    parts = (part.partition("\n") for part in page.split("\n## ")[1:])
    return {title: text.strip() for title, _, text in parts}


def main() -> None:
    """Table and pictures."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--ct", required=True)
    options.add_argument("--cohort", required=True)
    options.add_argument("--workspace", required=True)
    args = options.parse_args()
    workspace = Workspace(args.workspace)
    base = Path(args.ct).resolve()
    cohort = pd.read_csv(args.cohort).set_index("scan_id")
    names = {scan: str(Path(path).resolve().relative_to(base)) for scan, path in cohort["path"].items()}
    rows = sorted(read_ledger(workspace).itertuples(), key=lambda row: names[row.scan_id])
    IMAGES.mkdir(parents=True, exist_ok=True)
    columns = ("scan", "verdict", "Dice", "right", "left", "volume, L", "patches inside", "LAA-950", "CPU-s")
    text = HEAD + "| " + " | ".join(columns) + " |\n|" + "---|" * len(columns) + "\n"
    for row in rows:
        text += (
            f"| {names[row.scan_id]} | {row.state} | {row.dice:.3f} | {row.dice_right:.3f} | {row.dice_left:.3f} "
            f"| {row.volume_l:.2f} | {row.inside:.1%} | {row.laa950:.3f} | {row.cpu_seconds:.1f} |\n"
        )
    steps = pd.DataFrame([json.loads(row.steps) for row in rows]).fillna(0)
    text += (
        "\nMedian CPU-seconds a step: " + ", ".join(f"{k} {v:.2f}" for k, v in steps.median().items()) + ".\n"
    )
    for row in rows:
        name = names[row.scan_id].replace("/", "-").split(".")[0] + ".png"
        (IMAGES / name).write_bytes(workspace.read_bytes("scans", "qc", f"{row.scan_id}.png"))
        text += f"\n## {names[row.scan_id]}: {row.state}\n\n"
        text += f"{row.reason[:1].upper()}{row.reason[1:]}.\n\n" if row.reason else ""
        text += f"Noted while reading: {row.notes}.\n\n" if row.notes else ""
        text += f"![Overlay of {names[row.scan_id]}](images/validation/{name})\n"
    kept = sections(PAGE.read_text(encoding="utf-8")) if PAGE.is_file() else {}
    for section in reversed(KEPT):
        if section in kept:
            text = replaced_section(text, section, kept[section])
    PAGE.write_text(text, encoding="utf-8")
    print(f"{len(rows)} scans -> docs/validation.md")


if __name__ == "__main__":
    main()
