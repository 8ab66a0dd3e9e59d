from __future__ import annotations

import shutil
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from ctplatform.cohort import tree_search
from ctplatform.cohort.discovery import discover
from ctplatform.cohort.table import COLUMNS, names_label_maps, read_cohort, write_cohort
from ctplatform.config.cluster import RayConfig
from ctplatform.errors import CohortError
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.scans import REAL_CT, chest, needs_real_ct, with_array


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def problem_of(tmp_path: Path, text: str) -> CohortError:
    with pytest.raises(CohortError) as caught:
        read_cohort(table(tmp_path / "cohort.csv", text))
    return caught.value


def thick(image: sitk.Image, *, factor: int) -> sitk.Image:
    return sitk.BinShrink(image, (1, 1, factor))


class TestReadCohort:
    def test_defaults_and_relative_paths(self, tmp_path: Path) -> None:
        text = "scan_id,path\na,scans/a.nii.gz\nb,/data/b\nc,s3://bucket/c.nii.gz\nd,../d\n"
        cohort = read_cohort(table(tmp_path / "cohort.csv", text))
        assert list(cohort.columns) == list(COLUMNS)
        assert list(cohort["subject_id"]) == ["a", "b", "c", "d"]
        assert list(cohort["series_uid"]) == [""] * 4
        assert list(cohort["path"]) == [
            str(tmp_path / "scans" / "a.nii.gz"),
            "/data/b",
            "s3://bucket/c.nii.gz",
            str(tmp_path.parent / "d"),
        ]

    def test_ids_stay_text_and_labels_become_numbers_where_all_are(self, tmp_path: Path) -> None:
        text = (
            "path,fev1pp,scan_id,site,subject_id,gold\n"
            "x, 81.5 ,001,Graz,007,0\n"
            'y,NA,002,"Linz, north",,2\n'
            "\n"
            "z,,003,,007,4\n"
        )
        cohort = read_cohort(table(tmp_path / "cohort.csv", text))
        assert list(cohort.columns) == [*COLUMNS, "fev1pp", "site", "gold"]
        assert list(cohort["scan_id"]) == ["001", "002", "003"]
        assert list(cohort["subject_id"]) == ["007", "002", "007"]
        assert cohort["fev1pp"].tolist()[0] == 81.5
        assert cohort["fev1pp"].isna().tolist() == [False, True, True]
        assert cohort["site"].tolist()[:2] == ["Graz", "Linz, north"]
        assert cohort["site"].isna().tolist() == [False, False, True]
        assert cohort["gold"].tolist() == [0, 2, 4]

    def test_columns_of_label_maps_are_found_as_scans_are(self, tmp_path: Path) -> None:
        text = "scan_id,path,map,note\na,a.nii.gz,maps/a.nii.gz,x.mha\nb,b.nii.gz,,plain\nc,c,s3://b/c.MHA,\n"
        cohort = read_cohort(table(tmp_path / "cohort.csv", text))
        assert cohort["map"].tolist() == [str(tmp_path / "maps" / "a.nii.gz"), None, "s3://b/c.MHA"]
        assert cohort["note"].tolist() == ["x.mha", "plain", None]
        assert [name for name in cohort if names_label_maps(cohort[name].tolist())] == ["map"]

    def test_written_is_read(self, tmp_path: Path) -> None:
        cohort = pd.DataFrame(
            {
                "age": [61.0, np.nan],
                "path": ["/data/a,b", "/data/ä"],
                "scan_id": ["s1", "s2"],
                "subject_id": ["p", "p"],
                "series_uid": ["1.2", ""],
                "sex": ["f", None],
            }
        )
        write_cohort(cohort, tmp_path / "new" / "cohort.csv")
        again = read_cohort(tmp_path / "new" / "cohort.csv")
        pd.testing.assert_frame_equal(again[cohort.columns], cohort, check_dtype=False)
        assert [p.name for p in (tmp_path / "new").iterdir()] == ["cohort.csv"]
        assert read_cohort((tmp_path / "new" / "cohort.csv").as_uri()).equals(again)

    def test_duplicate_scan_id_names_both_rows(self, tmp_path: Path) -> None:
        error = problem_of(tmp_path, "scan_id,path\nct-1,a\nct-2,b\nct-1,c\n")
        assert "rows 2 and 4: scan_id 'ct-1' occurs twice" in error.problem

    def test_rows_are_those_of_the_file(self, tmp_path: Path) -> None:
        error = problem_of(tmp_path, 'scan_id,path,note\nct-1,a,"two\nlines"\n\nct-1,b,\n')
        assert "rows 3 and 5:" in error.problem

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("scan_id,file\na,b\n", "column 'path' is missing"),
            ("path\nb\n", "column 'scan_id' is missing"),
            ("scan_id;path\na;b\n", "not separated by commas"),
            ("scan_id,path,path\na,b,c\n", "column 'path' occurs twice"),
            ("scan_id,path,\na,b,c\n", "column 3 has no name"),
            ("scan_id,path\n", "no rows"),
            ("", "empty"),
            ("scan_id,path\na,b,c\n", "row 2: 3 values where the header names 2"),
            ("scan_id,path\n../a,b\n", "row 2: scan_id '../a' becomes part of file names"),
            ("scan_id,path\na b,c\n", "row 2: scan_id 'a b'"),
            ("scan_id,path\n.a,c\n", "row 2: scan_id '.a'"),
            (f"scan_id,path\n{'a' * 101},c\n", "at most 100"),
            ("scan_id,path\nä,c\n", "row 2: scan_id 'ä'"),
            ("scan_id,path\n,c\n", "row 2: scan_id is empty"),
            ("scan_id,path\na,\n", "row 2: path is empty"),
            ("scan_id,path,subject_id\na,b,x/y\n", "row 2: subject_id 'x/y'"),
            ("scan_id,path\nA,b\na,c\n", "rows 2 and 3: scan_id 'a' occurs twice"),
            ("scan_id,path\na,x.nii\nb,x.nii\n", "rows 2 and 3: the same scan twice"),
            ('scan_id,path\na,"x\n', "quotation marks"),
        ],
    )
    def test_problems_in_words(self, tmp_path: Path, text: str, shown: str) -> None:
        assert shown in str(problem_of(tmp_path, text))

    def test_every_problem_has_a_line_and_a_long_list_is_cut(self, tmp_path: Path) -> None:
        error = problem_of(tmp_path, "scan_id,path\na,x\na,y\nb c,\n")
        assert len(error.problem.splitlines()) == 1 + 4
        many = "scan_id,path\n" + "".join(f"a b,{i}\n" for i in range(500))
        error = problem_of(tmp_path, many)
        assert len(error.problem.splitlines()) < 30
        assert "more" in error.problem

    def test_no_table(self, tmp_path: Path) -> None:
        with pytest.raises(CohortError, match="there is no cohort table"):
            read_cohort(tmp_path / "none.csv")
        (tmp_path / "book.csv").write_bytes(b"PK\x03\x04\xff\xfe\x00")
        with pytest.raises(CohortError, match="UTF-8"):
            read_cohort(tmp_path / "book.csv")

    def test_a_byte_order_mark_is_no_part_of_the_first_name(self, tmp_path: Path) -> None:
        (tmp_path / "cohort.csv").write_bytes(b"\xef\xbb\xbfscan_id,path\r\na,b\r\n")
        assert list(read_cohort(tmp_path / "cohort.csv")["scan_id"]) == ["a"]

    def test_a_series_of_a_folder_each(self, tmp_path: Path) -> None:
        text = "scan_id,path,series_uid\na,f,1.2\nb,f,1.3\n"
        assert list(read_cohort(table(tmp_path / "cohort.csv", text))["series_uid"]) == ["1.2", "1.3"]


class TestDiscover:
    def found(self, folder: Path, **options) -> tuple[dict[str, pd.Series], list[str]]:
        result = discover(folder, **options)
        rows = {Path(row["path"]).relative_to(folder).as_posix(): row for _, row in result.table.iterrows()}
        return rows, result.passed_over

    def test_volumes_and_series_at_any_depth(self, tmp_path: Path) -> None:
        for k, suffix in enumerate(("nii", "nii.gz", "nrrd", "nhdr", "mha", "mhd")):
            (tmp_path / suffix / "deep").mkdir(parents=True)
            sitk.WriteImage(chest(seed=k), str(tmp_path / suffix / "deep" / f"scan.{suffix}"))
        write_dicom_series(chest(seed=9), tmp_path / "dicom" / "x")
        rows, passed = self.found(tmp_path)
        assert set(rows) == {
            f"{s}/deep/scan.{s}" for s in ("nii", "nii.gz", "nrrd", "nhdr", "mha", "mhd")
        } | {"dicom/x"}
        assert len({row["scan_id"] for row in rows.values()}) == 7
        assert passed == []
        for row in rows.values():
            assert read_volume(row["path"], series_uid=row["series_uid"] or None).image.GetSize() == (
                30,
                26,
                20,
            )

    def test_what_is_no_scan_is_passed_over_with_the_reason(self, tmp_path: Path) -> None:
        image, lungs = chest(), chest() < -500
        sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
        sitk.WriteImage(lungs, str(tmp_path / "plain.nii.gz"))
        sitk.WriteImage(sitk.Cast(lungs, sitk.sitkInt16), str(tmp_path / "ct_lung_mask.nii.gz"))
        empty = np.zeros((60, 60, 60), np.int16)
        empty[20:30, 20:30, 20:30] = 3
        sitk.WriteImage(sitk.GetImageFromArray(empty), str(tmp_path / "lobes16.nrrd"))
        sitk.WriteImage(sitk.GetImageFromArray(empty), str(tmp_path / "unpacked.mha"))
        sitk.WriteImage(image[:, :, 3], str(tmp_path / "flat.nii.gz"))
        sitk.WriteImage(sitk.JoinSeries([image, image]), str(tmp_path / "time.nii.gz"))
        (tmp_path / "text.nii.gz").write_text("hello")
        (tmp_path / "LICENSE").write_text("free")
        (tmp_path / "labels.csv").write_text("a,b")
        write_dicom_series(image, tmp_path / "mr", header={"Modality": "MR"})
        write_dicom_series(image, tmp_path / "gap")
        (tmp_path / "gap" / "0008.dcm").unlink()
        rows, passed = self.found(tmp_path)
        assert set(rows) == {"ct.nii.gz"}
        expected = {
            "plain.nii.gz": "label map",
            "ct_lung_mask.nii.gz": "label map",
            "lobes16.nrrd": "label map",
            "unpacked.mha": "label map",
            "flat.nii.gz": "not a volume",
            "time.nii.gz": "4 dimensions",
            "text.nii.gz": "no NIfTI",
            ".": "2 file(s) that are no CT volume (LICENSE, labels.csv)",
            "mr": "modality is MR",
            "gap": "1 slice(s) are missing",
        }
        lines = dict(line.split(": ", 1) for line in passed)
        assert set(lines) == set(expected)
        for place, reason in expected.items():
            assert reason in lines[place]

    def test_the_best_series_of_a_study(self, tmp_path: Path) -> None:
        """One folder, one study: the axial series of thin slices and smooth kernel is taken, the rest explained."""
        patient = {"PatientID": "p", "StudyInstanceUID": "1.2.3"}
        fine = sitk.Expand(chest(size_XYZ=(12, 12, 12)), (1, 1, 4))
        sagittal = sitk.PermuteAxes(chest(size_XYZ=(12, 12, 12)), (1, 2, 0))
        derived = {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}
        written = {
            "good": write_dicom_series(
                fine, tmp_path / "good", patient=patient, header={"ConvolutionKernel": "B30f"}
            ),
            "sharp": write_dicom_series(
                fine, tmp_path / "sharp", patient=patient, series="2", header={"ConvolutionKernel": "B70f"}
            ),
            "thick": write_dicom_series(thick(fine, factor=4), tmp_path / "thick", patient=patient),
            "short": write_dicom_series(fine[:, :, :30], tmp_path / "short", patient=patient),
            "derived": write_dicom_series(
                fine, tmp_path / "derived", patient=patient, series="3", header=derived
            ),
            "sagittal": write_dicom_series(sagittal, tmp_path / "sagittal", patient=patient),
            "scout": write_dicom_series(
                fine[:, :, :10],
                tmp_path / "scout",
                patient=patient,
                header={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
            ),
        }
        (tmp_path / "all").mkdir()
        for name in written:
            for file in (tmp_path / name).iterdir():
                file.rename(tmp_path / "all" / f"{name}-{file.name}")
        result = discover(tmp_path)
        assert list(result.table["series_uid"]) == [written["good"]]
        reasons = " | ".join(result.passed_over)
        assert len(result.passed_over) == 6
        for reason in (
            "sharper kernel",
            "thicker slices",
            "shorter coverage",
            "derived",
            "not axial",
            "localizers",
        ):
            assert reason in reasons
        volume = read_volume(tmp_path / "all")
        assert volume.image.GetSize() == fine.GetSize()
        assert volume.source["kernel"] == "B30f"
        every = discover(tmp_path, every_series=True).table
        assert set(every["series_uid"]) == {
            written[n] for n in ("good", "sharp", "thick", "short", "derived")
        }
        assert len(set(every["subject_id"])) == 1

    def test_studies_in_one_folder_are_scans_each(self, tmp_path: Path) -> None:
        for k in range(3):
            write_dicom_series(
                chest(seed=k), tmp_path / str(k), patient={"PatientID": f"p{k % 2}", "StudyID": str(k)}
            )
            for file in (tmp_path / str(k)).iterdir():
                file.rename(tmp_path / f"{k}-{file.name}")
        found = discover(tmp_path).table
        assert len(found) == 3
        assert len(set(found["scan_id"])) == 3
        assert sorted(found.groupby("subject_id").size()) == [1, 2]

    def test_the_same_scan_twice_counts_once(self, tmp_path: Path) -> None:
        write_dicom_series(chest(), tmp_path / "b-series")
        shutil.copytree(tmp_path / "b-series", tmp_path / "copy")
        sitk.WriteImage(
            sitk.DICOMOrient(chest(), "RAS"), str(tmp_path / "a.nii.gz")
        )  # the same scan, converted
        sitk.WriteImage(chest(seed=2), str(tmp_path / "c.nii.gz"))
        shutil.copy(tmp_path / "c.nii.gz", tmp_path / "d.nii.gz")
        sitk.WriteImage(chest(seed=3), str(tmp_path / "e.nrrd"))  # the same grid, another scan
        rows, passed = self.found(tmp_path)
        assert set(rows) == {"b-series", "c.nii.gz", "e.nrrd"}
        assert sorted(passed) == [
            "a.nii.gz: the same scan as b-series",
            "copy: the same scan as b-series",
            "d.nii.gz: the same scan as c.nii.gz",
        ]

    def test_scan_ids_follow_the_scan_not_the_place(self, tmp_path: Path) -> None:
        write_dicom_series(chest(), tmp_path / "one" / "a")
        sitk.WriteImage(chest(seed=2), str(tmp_path / "one" / "a.nii.gz"))
        before = discover(tmp_path).table
        shutil.move(tmp_path / "one", tmp_path / "two")
        (tmp_path / "two" / "a.nii.gz").rename(tmp_path / "two" / "z.nii.gz")
        after = discover(tmp_path).table
        assert set(before["scan_id"]) == set(after["scan_id"])
        assert all(scan_id.startswith("ct-") and len(scan_id) == 13 for scan_id in after["scan_id"])

    def test_links_are_followed_once(self, tmp_path: Path) -> None:
        write_dicom_series(chest(), tmp_path / "real")
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "link").symlink_to(tmp_path / "real")
        (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree")
        rows, passed = self.found(tmp_path / "tree")
        assert set(rows) == {"link"}
        assert passed == []

    def test_nothing_found(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("x")
        with pytest.raises(CohortError, match=r"notes\.txt"):
            discover(tmp_path)
        with pytest.raises(CohortError, match="there is no folder"):
            discover(tmp_path / "none")

    def test_found_is_written_and_read(self, tmp_path: Path) -> None:
        write_dicom_series(chest(), tmp_path / "in" / "a", patient={"PatientID": "p"})
        sitk.WriteImage(
            with_array(chest(), sitk.GetArrayFromImage(chest(seed=4))), str(tmp_path / "in" / "b.mha")
        )
        found = discover(tmp_path / "in", csv_path=tmp_path / "cohort.csv").table
        write_cohort(found, tmp_path / "cohort.csv")
        assert read_cohort(tmp_path / "cohort.csv").equals(found)


def test_ray_tasks_find_the_same_as_one_process(tmp_path: Path, ray_local, monkeypatch) -> None:
    """Nested folders, a folder too large for a task, repeats, rubbish, several studies: same rows, same lines."""
    for k in range(3):
        write_dicom_series(
            chest(seed=k), tmp_path / "nested" / str(k) / "x", patient={"PatientID": f"p{k % 2}"}
        )
    flat = tmp_path / "flat"
    for k in range(4):
        patient = {"PatientID": f"f{k % 2}", "StudyInstanceUID": f"1.2.{k % 3}"}
        write_dicom_series(chest(seed=10 + k), tmp_path / "part", patient=patient)
        flat.mkdir(exist_ok=True)
        for file in sorted((tmp_path / "part").iterdir()):
            file.rename(flat / f"{file.stem}-{k}.dcm")  # the slices of the series are mixed
    (tmp_path / "part").rmdir()
    (flat / "notes.txt").write_text("x")
    sitk.WriteImage(chest(), str(tmp_path / "a.nii.gz"))
    sitk.WriteImage(chest(seed=77), str(flat / "b.nii.gz"))
    (tmp_path / "nested" / "1" / "x" / "0007.dcm").unlink()
    key = b"k" * 32
    monkeypatch.setattr(tree_search, "CHUNK", 30)
    alone = tree_search.search_tree(tmp_path, key=key, every_series=False)
    tasks = tree_search.search_tree(tmp_path, key=key, every_series=False, ray_config=RayConfig(), small=10)
    assert len(alone[0]) == 6, (
        "two of three nested ones, three studies in the flat folder, the file beside them"
    )
    assert any("the same scan as nested/0/x" in line for line in alone[1])
    assert any("1 slice(s) are missing" in line for line in alone[1])
    assert tasks == alone


def test_a_small_tree_needs_no_ray(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tree_search, "_search_with_ray", lambda *_: pytest.fail("Ray for 20 files"))
    write_dicom_series(chest(), tmp_path / "x")
    assert len(discover(tmp_path, ray_config=RayConfig()).table) == 1


class TestSubjects:
    def test_pseudonyms_last_as_long_as_the_key(self, tmp_path: Path) -> None:
        for k, patient in enumerate(("P-1 ", "p-1", "P-2", "", "ANONYMOUS")):
            header = {"PatientID": patient}
            write_dicom_series(chest(seed=k), tmp_path / "in" / str(k), header=header)
        first = discover(tmp_path / "in", csv_path=tmp_path / "cohort.csv").table
        assert first["subject_id"][0] == first["subject_id"][1] != first["subject_id"][2]
        assert list(first["subject_id"][3:]) == list(first["scan_id"][3:])
        again = discover(tmp_path / "in", csv_path=tmp_path / "cohort.csv").table
        assert again.equals(first)
        key = tmp_path / "cohort.key"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        key.unlink()
        other = discover(tmp_path / "in", csv_path=tmp_path / "cohort.csv").table
        assert not set(other["subject_id"][:3]) & set(first["subject_id"])
        assert list(other["scan_id"]) == list(first["scan_id"])

    def test_a_key_file_that_holds_none_is_not_overwritten(self, tmp_path: Path) -> None:
        write_dicom_series(chest(), tmp_path / "in")
        (tmp_path / "cohort.key").write_text("my house key")
        with pytest.raises(CohortError, match="no pseudonym key"):
            discover(tmp_path / "in", csv_path=tmp_path / "cohort.csv")
        assert (tmp_path / "cohort.key").read_text() == "my house key"


@needs_real_ct
@pytest.mark.real_ct
def test_real_tree(tmp_path: Path) -> None:
    result = discover(REAL_CT, csv_path=tmp_path / "cohort.csv")
    places = {Path(p).relative_to(REAL_CT).as_posix() for p in result.table["path"]}
    assert places == {
        "4dlung_113/dicom",
        "cip_ct64/ct-64Dicom",
        "lidc_0001/cxr.nii.gz",
        "lung_dx_a0001/dicom",
        "lung_dx_a0002/dicom",
        "partial_apex_lungfcp/dicom",
        "partial_bases_crlm1004/dicom",
        "pyradiomics_lung/lung1_image.nrrd",
        "pyradiomics_lung/lung2_image.nrrd",
    }
    passed = "\n".join(result.passed_over)
    assert "cip_ct64/ct-64.nrrd: the same scan as cip_ct64/ct-64Dicom" in passed
    for name in ("mask.nii.gz", "lung1_label.nrrd", "lung2_label.nrrd", "License.txt", "README.md"):
        assert name in passed
