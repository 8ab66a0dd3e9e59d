"""Every scan ends in one ledger row; finished ones are not redone; bad ones cost a row and nothing else."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pydicom
import pytest
import SimpleITK as sitk

from ctplatform.cli.explain import explain, explain_lines
from ctplatform.compute.ray_internals import session_folder
from ctplatform.config.loader import load_recipe
from ctplatform.dataset import ledger, shards
from ctplatform.dataset.atlas import read_atlas
from ctplatform.errors import StageError
from ctplatform.imaging.dicom_headers import quiet_pydicom
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.preparation.prepare import prepare
from ctplatform.report import build_report
from ctplatform.storage.layout import ATLAS, ATLAS_FILE, PATCHES
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.planted import SECRET, assert_clean, planted
from tests.ctplatform.scans import chest


@pytest.fixture
def workspace(unprepared):
    return unprepared


def files(workspace, folder):
    return {name: workspace.read_bytes(folder, name) for name in workspace.files(folder)}


def test_every_phantom_scan_is_usable_and_complete(prepared):
    workspace, cohort = prepared
    rows = ledger.read_ledger(workspace)
    assert set(rows["scan_id"]) == set(cohort["scan_id"])
    assert set(rows["state"]) <= {"accepted", "flagged"}, rows[["scan_id", "state", "reason"]].to_string()
    atlas = read_atlas(workspace)
    assert (rows["patches"] == atlas.num_locations).all()
    assert (rows["dice"] > 0.8).all()
    assert rows["content_hash"].is_unique
    for scan in rows["scan_id"]:
        locations, hu = shards.read_patches(workspace, scan)
        assert len(locations) == atlas.num_locations
        assert hu.min() >= -1024
        assert hu.max() <= 240


def test_patches_hold_lung_of_the_measured_density(prepared):
    """What was sampled is what was scanned: mean HU of the patches' lung voxels follows the mask's own measurement."""
    workspace, _ = prepared
    rows = ledger.read_ledger(workspace)
    means = []
    for scan in rows["scan_id"]:
        _, hu = shards.read_patches(workspace, scan)
        means.append(hu[hu < -500].mean())
    assert np.corrcoef(means, rows["mean_hu"])[0, 1] > 0.9


def test_a_second_run_does_nothing_and_a_changed_recipe_does_all_again(workspace, prepared, small_recipe):
    _, cohort = prepared
    few = cohort.head(2)
    progress = []
    first = prepare(workspace, few, small_recipe, on_progress=lambda *counts: progress.append(counts))
    assert (first.done, first.skipped) == (2, 0)
    assert progress == [(1, 2), (2, 2)]
    before = files(workspace, PATCHES)
    again = prepare(workspace, few, small_recipe)
    assert (again.done, again.skipped) == (0, 2)
    assert files(workspace, PATCHES) == before
    linear = load_recipe("demo", ["prepare.sampling.interpolation=linear"])
    assert prepare(workspace, few, linear).done == 2
    assert files(workspace, PATCHES) != before


def test_the_same_scan_prepared_twice_gives_the_same_bytes(workspace, prepared, small_recipe):
    source, cohort = prepared
    prepare(workspace, cohort.head(1), small_recipe)
    name = f"{cohort['scan_id'][0]}.parquet"
    assert workspace.read_bytes(PATCHES, name) == source.read_bytes(PATCHES, name)


def test_bad_scans_fail_alone_each_with_its_reason(workspace, prepared, small_recipe, tmp_path):
    _, cohort = prepared
    good = cohort[cohort["path"].str.endswith(".nii.gz")].iloc[0]
    data = Path(good["path"]).read_bytes()
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "truncated.nii.gz").write_bytes(data[: len(data) // 2])
    (bad / "text.nii.gz").write_text("this is no image")
    nibabel.save(nibabel.Nifti1Image(np.zeros((64, 64), np.int16), np.eye(4)), bad / "flat.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((32, 32, 32, 3), np.int16), np.eye(4)), bad / "four.nii.gz")
    nan = np.full((64, 64, 64), np.nan, np.float32)
    nibabel.save(nibabel.Nifti1Image(nan, np.diag([4.0, 4.0, 4.0, 1.0])), bad / "nan.nii.gz")
    soft = sitk.GetImageFromArray(np.full((60, 60, 60), 40, np.int16))
    soft.SetSpacing([5.0] * 3)
    sitk.WriteImage(soft, str(bad / "nolung.nii.gz"))
    gap, other = bad / "gap", bad / "mr"
    image = sitk.ReadImage(good["path"])
    write_dicom_series(image, gap)
    sorted(gap.iterdir())[image.GetSize()[2] // 2].unlink()
    write_dicom_series(image, other, header={"Modality": "MR"})
    names = {
        "gap": "gap",
        "mr": "mr",
        "truncated": "truncated.nii.gz",
        "text": "text.nii.gz",
        "flat": "flat.nii.gz",
        "four": "four.nii.gz",
        "nan": "nan.nii.gz",
        "nolung": "nolung.nii.gz",
        "missing": "not-there.nii.gz",
    }
    rows = [{"scan_id": k, "subject_id": k, "path": str(bad / v), "series_uid": ""} for k, v in names.items()]
    table = pd.concat(
        [pd.DataFrame(rows), cohort.loc[[good.name], ["scan_id", "subject_id", "path", "series_uid"]]]
    )
    summary = prepare(workspace, table.reset_index(drop=True), small_recipe)
    assert summary.counts["accepted"] + summary.counts["flagged"] == 1
    result = ledger.read_ledger(workspace).set_index("scan_id")
    assert set(result.index) == {*names, good["scan_id"]}
    for name in names:
        row = result.loc[name]
        assert row["state"] in ("failed", "rejected"), name
        assert row["code"] not in ("", "unexpected"), (name, row["reason"])
        assert row["reason"], name
        assert row["remedy"], name
        assert str(bad) not in row["reason"] + row["remedy"], "paths may hold names"
    codes = result["code"]
    assert codes["gap"] == "missing-slice"
    assert codes["mr"] == "wrong-modality"
    assert codes["missing"] == "missing-path"
    assert codes[list(names)].nunique() >= 8
    assert workspace.files(PATCHES) == [f"{good['scan_id']}.parquet"]


def test_only_bad_scans_stop_the_chain_with_a_reason(workspace, small_recipe):
    table = pd.DataFrame([{"scan_id": "a", "subject_id": "a", "path": "/nowhere/x.nii.gz", "series_uid": ""}])
    with pytest.raises(StageError, match="no scan can be used: 1 failed"):
        prepare(workspace, table, small_recipe)


def test_without_an_atlas(tmp_path, ray_local, small_recipe, prepared):
    with pytest.raises(StageError, match=ATLAS_FILE):
        prepare(Workspace(tmp_path), prepared[1].head(1), small_recipe)


def test_no_identity_reaches_the_workspace(workspace, prepared, small_recipe, tmp_path, caplog, capfd):
    """Planted in every text field of the header, in sequences and private elements, in file and folder names; looked
    for in every byte of what prepare and the report wrote, decompressed, in the logs of this process and of all of
    Ray's, and on the terminal."""
    _, cohort = prepared
    image = sitk.ReadImage(cohort[cohort["path"].str.endswith(".nii.gz")]["path"].iloc[1])
    good, gone, broken = (tmp_path / SECRET / name for name in ("good", f"{SECRET}^JANE", "broken"))
    identities = planted()
    with quiet_pydicom():
        for folder, volume in ((good, image), (broken, chest())):
            write_dicom_series(volume, folder, patient={"PatientName": SECRET, "PatientID": SECRET})
            for k, file in enumerate(sorted(folder.iterdir())):
                data = pydicom.dcmread(file)
                # Every element on the first header, from which most is taken; on all files what makes a series one.
                for keyword, value in identities.items() if k == 0 else ():
                    if keyword not in ("SeriesInstanceUID", "StudyInstanceUID"):
                        setattr(data, keyword, value)
                for keyword in ("PatientID", "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime"):
                    setattr(data, keyword, identities[keyword])
                data.save_as(file)
                file.rename(folder / f"{SECRET}-{k:03d}.dcm")
    sorted(broken.iterdir())[5].unlink()
    rows = [
        {"scan_id": f"s{k}", "subject_id": f"p{k}", "path": str(path), "series_uid": ""}
        for k, path in enumerate((good, gone, broken))
    ]
    with caplog.at_level("INFO"):
        summary = prepare(workspace, pd.DataFrame(rows), small_recipe)
    assert summary.counts["accepted"] + summary.counts["flagged"] == 1
    build_report(workspace, small_recipe, run="run-1")
    looked_at = 0
    for path in Path(workspace.root).rglob("*"):
        if not path.is_file() or ATLAS in path.parts:
            continue
        looked_at += 1
        assert_clean(path.name, path.read_bytes())
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            assert_clean(str(table.schema.metadata))
            for name in table.column_names:
                values = table[name].to_pylist()
                assert_clean(b"".join(values) if name == "patch" else str(values))
    assert looked_at >= 5, "ledger, settings, overlay, shard, report"
    assert "s1" in (Path(workspace.root) / "evaluation" / "run-1" / "report.html").read_text(encoding="utf-8")
    folder = session_folder()
    assert folder is not None
    logs = [path for path in (folder / "logs").rglob("*") if path.is_file()]
    assert any(path.name.startswith("worker-") for path in logs)
    assert_clean(*(path.read_bytes() for path in logs))
    streams = capfd.readouterr()
    assert_clean(streams.out, streams.err, *caplog.messages, *summary.reasons.values())
    assert_clean("\n".join(explain_lines(explain(workspace, "s0"))))
