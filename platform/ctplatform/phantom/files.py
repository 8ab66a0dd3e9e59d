"""A phantom cohort in a folder: scans as NIfTI or DICOM, the truth beside them, and cohort.csv."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import SimpleITK as sitk
from isal import isal_zlib

from ctplatform.phantom.disease import NODULE
from ctplatform.phantom.subject import PhantomSubject, is_dicom, make_subject

if TYPE_CHECKING:
    from ctplatform.config.recipe import PhantomConfig

GZIP = 16 + 15  # a gzip file, the largest window
LABEL_MAPS = ("subtype_map", "nodule_map", "lobe_map")
"""Columns that hold the path of a label map of the scan."""


def generate(
    folder: str | Path, config: PhantomConfig, *, indices: Iterable[int] | None = None
) -> pd.DataFrame:
    """Write a cohort: scans/, truth/ and cohort.csv below `folder`.

    Args:
        indices: which subjects; all of `config.subjects` if None.

    Returns:
        The scan table with label columns; paths absolute (relative to the folder in cohort.csv), those of the label
        maps too.
    """
    chosen = range(config.subjects) if indices is None else indices
    return write_cohort_files(folder, [generate_subject(folder, index, config) for index in chosen])


def generate_subject(folder: str | Path, index: int, config: PhantomConfig) -> dict[str, Any]:
    """Make and write one subject; returns its row of the scan table, paths relative to the folder.

    Independent of all other subjects, so that they can be made in parallel; `write_cohort_files` completes the cohort.
    """
    root = Path(folder)
    subject = make_subject(index, config=config)
    if is_dicom(index, config):
        relative, series_uid = _write_dicom(root, subject)
    else:
        relative, series_uid = f"scans/{subject.scan_id}.nii.gz", ""
        _write_nifti(subject.image, root / relative)
    _write_nifti(subject.lungs, root / "truth" / f"{subject.scan_id}-lungs.nii.gz")
    _write_nifti(subject.disease, root / "truth" / f"{subject.scan_id}-disease.nii.gz")
    map_paths = {name: f"truth/{subject.scan_id}-{name}.nii.gz" for name in LABEL_MAPS}
    for name, image in zip(LABEL_MAPS, (subject.subtypes, (subject.disease & NODULE) != 0, subject.lobes)):
        _write_nifti(image, root / map_paths[name])
    return {
        "scan_id": subject.scan_id,
        "subject_id": subject.subject_id,
        "path": relative,
        "series_uid": series_uid,
        **subject.labels,
        **map_paths,
    }


def write_cohort_files(folder: str | Path, rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Write cohort.csv from the rows of `generate_subject`; returns the table with absolute paths."""
    root = Path(folder).absolute()
    root.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(list(rows)).sort_values("scan_id", ignore_index=True)
    table.to_csv(root / "cohort.csv", index=False)
    return table.assign(
        **{name: [str(root / path) for path in table[name]] for name in ("path", *LABEL_MAPS)}
    )


def _write_nifti(image: sitk.Image, path: Path) -> None:
    """Write .nii.gz without a time stamp: equal voxels, equal bytes on one machine.

    ISA-L packs three to four times as fast as zlib does at its fastest, to the same size.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_name(path.name.removesuffix(".gz"))
    sitk.WriteImage(image, str(plain))
    path.write_bytes(isal_zlib.compress(plain.read_bytes(), level=1, wbits=GZIP))
    plain.unlink()


def _write_dicom(root: Path, subject: PhantomSubject) -> tuple[str, str]:
    from ctplatform.imaging.dicom_writer import write_dicom_series

    scanner = subject.parameters.scanner
    series_uid = write_dicom_series(
        subject.image,
        root / "scans" / subject.scan_id,
        patient={"PatientID": subject.subject_id, "PatientSex": subject.labels["sex"]},
        header={
            "Manufacturer": scanner.manufacturer,
            "ConvolutionKernel": scanner.kernel,
            "SeriesDescription": f"synthetic chest CT, {scanner.kernel} kernel",
        },
    )
    return f"scans/{subject.scan_id}", series_uid
