"""The phantom: repeatable, shaped like a chest, with labels and masks that agree with each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy import ndimage

from ctplatform.config.recipe import PhantomConfig
from ctplatform.phantom import (
    LEFT,
    RIGHT,
    PhantomSubject,
    generate,
    generate_subject,
    gold_stage,
    make_subject,
    regions,
    write_cohort_files,
)
from ctplatform.phantom.__main__ import main
from ctplatform.phantom.drawing import splat, stamp_ellipsoids
from ctplatform.phantom.files import LABEL_MAPS
from ctplatform.phantom.grid import Box, resample
from ctplatform.phantom.labels import Truth, clinical, hazard_per_year
from ctplatform.phantom.parameters import GOLDEN_RATIO_CONJUGATE, draw
from ctplatform.phantom.texture import correlated
from ctplatform.phantom.trees import grow

CONFIG = PhantomConfig(subjects=8, seed=3, spacing_mm=3.0, dicom_every=4)
CENTRILOBULAR, PANLOBULAR, PARASEPTAL, NODULE = 1, 2, 4, 8


def lps(image: sitk.Image) -> np.ndarray:
    """Voxels z, y, x with axes to the left, back and head (nearest)."""
    return sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))


@pytest.fixture(scope="module")
def subjects() -> list[PhantomSubject]:
    return [make_subject(i, config=CONFIG) for i in range(CONFIG.subjects)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("phantom")
    return folder, generate(folder, CONFIG, indices=range(4))


def test_same_seed_same_voxels_and_other_seed_other_subject(subjects: list[PhantomSubject]) -> None:
    again = make_subject(1, config=CONFIG)
    for name in ("image", "lungs", "disease"):
        first, second = getattr(subjects[1], name), getattr(again, name)
        np.testing.assert_array_equal(sitk.GetArrayViewFromImage(first), sitk.GetArrayViewFromImage(second))
        assert first.GetOrigin() == second.GetOrigin()
    assert again.labels == subjects[1].labels
    other = make_subject(1, config=CONFIG.model_copy(update={"seed": 4}))
    assert other.labels != subjects[1].labels


def test_negative_index_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        make_subject(-1, config=CONFIG)


def test_lungs_are_two_of_adult_size_inside_a_closed_body(subjects: list[PhantomSubject]) -> None:
    for subject in subjects:
        hu, lungs = lps(subject.image), lps(subject.lungs)
        litres = np.prod(subject.image.GetSpacing()) / 1e6
        right, left = (lungs == RIGHT).sum() * litres, (lungs == LEFT).sum() * litres
        assert 2.9 < right + left < 7.6, subject.scan_id
        assert 0.9 < right / left < 1.6
        assert np.argwhere(lungs == RIGHT)[:, 2].mean() < np.argwhere(lungs == LEFT)[:, 2].mean()
        for side in (RIGHT, LEFT):
            labels, count = ndimage.label(lungs == side)
            assert np.bincount(labels.ravel())[1:].max() > 0.999 * (lungs == side).sum(), count
        # Tissue separates every lung from the room, slice by slice.
        for plane, lung in zip(hu, lungs > 0):
            gas, _ = ndimage.label(plane < -500)
            room = np.unique(np.concatenate([gas[0], gas[-1], gas[:, 0], gas[:, -1]]))
            assert not np.isin(gas[ndimage.binary_erosion(lung, iterations=2)], room[room > 0]).any()


def test_scan_covers_the_lungs_with_margin(subjects: list[PhantomSubject]) -> None:
    for subject in subjects:
        lungs = sitk.GetArrayFromImage(subject.lungs) > 0
        spacing = subject.lungs.GetSpacing()[::-1]
        for axis in range(3):
            present = np.flatnonzero(lungs.any(axis=tuple({0, 1, 2} - {axis})))
            free = min(present[0], lungs.shape[axis] - 1 - present[-1]) * spacing[axis]
            assert free >= 14, (subject.scan_id, axis)


def test_chest_wall_is_at_least_15_mm_thick(subjects: list[PhantomSubject]) -> None:
    for subject in subjects[:4]:
        hu, lungs = lps(subject.image), lps(subject.lungs) > 0
        spacing = sitk.DICOMOrient(subject.image, "LPS").GetSpacing()[::-1]
        rows = slice(hu.shape[0] // 4, 3 * hu.shape[0] // 4)
        gas, _ = ndimage.label(hu[rows] < -500)
        outer = gas == gas[0, 0, 0]
        distance = ndimage.distance_transform_edt(~outer, sampling=spacing)
        assert distance[lungs[rows]].min() >= 15 - max(spacing), subject.scan_id


def test_trachea_runs_from_the_top_to_the_lungs(subjects: list[PhantomSubject]) -> None:
    for subject in subjects:
        hu, lungs = lps(subject.image), lps(subject.lungs) > 0
        top = int(np.flatnonzero(lungs.any(axis=(1, 2)))[-1])
        ny, nx = hu.shape[1:]
        middle = (slice(ny // 5, 4 * ny // 5), slice(nx // 3, 2 * nx // 3))
        for z in (top - 2, top + 1):
            gas, _ = ndimage.label(ndimage.gaussian_filter(hu[z][middle].astype(float), 0.4) < -450)
            sizes = np.bincount(gas[~lungs[z][middle]].ravel())[1:]
            assert sizes.max(initial=0) * np.prod(subject.image.GetSpacing()[:2]) > 60, (subject.scan_id, z)


def test_masks_lie_in_the_lungs_and_add_up_to_the_labels(subjects: list[PhantomSubject]) -> None:
    for subject in subjects:
        lungs = sitk.GetArrayFromImage(subject.lungs) > 0
        bits = sitk.GetArrayFromImage(subject.disease)
        assert not bits[~lungs].any()
        inside = bits[lungs]
        for bit, column in (
            (CENTRILOBULAR, "centrilobular_extent"),
            (PANLOBULAR, "panlobular_extent"),
            (PARASEPTAL, "paraseptal_extent"),
            (CENTRILOBULAR | PANLOBULAR | PARASEPTAL, "emphysema_extent"),
        ):
            assert np.mean((inside & bit) > 0) == pytest.approx(subject.labels[column], abs=1e-9)
        _, found = ndimage.label(bits & NODULE)
        assert found <= 2 * int(subject.labels["nodule_count"])
        assert bool(found) == bool(subject.labels["nodule_count"])


def test_label_maps_fill_the_lungs_and_agree_with_the_lesions(subjects: list[PhantomSubject]) -> None:
    for subject in subjects:
        lungs, bits, subtypes, lobes = map(
            lps, (subject.lungs, subject.disease, subject.subtypes, subject.lobes)
        )
        np.testing.assert_array_equal(subtypes > 0, lungs > 0)
        np.testing.assert_array_equal(lobes > 0, lungs > 0)
        np.testing.assert_array_equal(
            lobes[lungs > 0] <= regions.LOBES["right lower"], lungs[lungs > 0] == RIGHT
        )
        assert len(np.unique(lobes)) == 6
        behind = {name: np.argwhere(lobes == value)[:, 1].mean() for name, value in regions.LOBES.items()}
        assert behind["right lower"] > behind["right middle"]
        assert behind["left lower"] > behind["left upper"]
        normal = subtypes == regions.SUBTYPES["normal"]
        assert np.mean((bits[normal] & 7) > 0) < regions.LEAST_SHARE
        for name, bit in (("centrilobular", CENTRILOBULAR), ("panlobular", PANLOBULAR)):
            inside = subtypes == regions.SUBTYPES[name]
            if inside.mean() > 0.01:
                assert np.mean((bits[inside] & bit) > 0) > regions.LEAST_SHARE


def test_a_region_has_the_subtype_that_is_commonest_around() -> None:
    lungs = np.ones((30, 30, 60), bool)
    bits = np.zeros(lungs.shape, np.uint8)
    bits[:, :, :8] = PANLOBULAR
    bits[::4, ::4, 40:56:4] = CENTRILOBULAR  # one voxel in sixteen
    bits[15, 15, 30] = NODULE
    names = {value: name for name, value in regions.SUBTYPES.items()}
    line = [names[v] for v in regions.subtypes(bits, lungs, (4.0, 4.0, 4.0))[14, 14]]
    assert line[:8] == ["panlobular"] * 8
    assert line[12:36] == ["normal"] * 24


def test_extent_follows_the_drawn_severity(subjects: list[PhantomSubject]) -> None:
    for subject in subjects:
        d = subject.parameters.disease
        target = d.centrilobular + d.panlobular + d.paraseptal
        assert subject.labels["emphysema_extent"] == pytest.approx(target, rel=0.5, abs=0.004)


def test_disease_has_its_density_and_its_place(subjects: list[PhantomSubject]) -> None:
    sick = [s for s in subjects if float(s.labels["emphysema_extent"]) > 0.1]
    assert sick
    for subject in sick:
        hu, lungs, bits = lps(subject.image), lps(subject.lungs) > 0, lps(subject.disease)
        healthy = np.median(hu[lungs & (bits == 0)])
        spacing = sitk.DICOMOrient(subject.image, "LPS").GetSpacing()[::-1]
        depth = ndimage.distance_transform_edt(lungs, sampling=spacing)
        height = np.broadcast_to(np.arange(hu.shape[0])[:, None, None], hu.shape)
        for bit in (CENTRILOBULAR, PANLOBULAR, PARASEPTAL):
            ill = (bits & bit) > 0
            if ill.sum() > 500:
                assert np.median(hu[ill]) < healthy - 30
        if ((bits & CENTRILOBULAR) > 0).sum() > 500:
            assert height[(bits & CENTRILOBULAR) > 0].mean() > height[lungs].mean()
        if ((bits & PARASEPTAL) > 0).sum() > 200:
            assert np.median(depth[(bits & PARASEPTAL) > 0]) < 0.6 * np.median(depth[lungs])


def test_density_is_confounded_but_informative() -> None:
    """Over subjects without disease the mean density varies by breath, and LAA-950 by kernel."""
    spread = [draw(i, seed=0, spacing_mm=3).person.tissue_hu for i in range(60)]
    assert 30 < np.percentile(spread, 95) - np.percentile(spread, 5) < 60
    assert {draw(i, seed=0, spacing_mm=3).scanner.kernel for i in range(20)} == {"soft", "medium", "sharp"}


def test_severity_is_spread_evenly_over_any_cohort() -> None:
    for seed in range(3):
        totals = []
        for i in range(50):
            d = draw(i, seed=seed, spacing_mm=2).disease
            totals.append(d.centrilobular + d.panlobular + d.paraseptal)
        assert 0.3 < np.mean(np.array(totals) < 0.01) < 0.5
        assert max(totals) > 0.3
    assert pytest.approx((5**0.5 - 1) / 2) == GOLDEN_RATIO_CONJUGATE


def test_cohort_varies_in_geometry_and_padding() -> None:
    drawn = [draw(i, seed=0, spacing_mm=2).scanner for i in range(40)]
    assert {s.padding_hu for s in drawn} == {-1000, -1024, -2048, -3024}
    assert len({(s.axes, s.flips) for s in drawn}) >= 4
    assert 2 <= sum(s.oblique_deg != (0.0, 0.0, 0.0) for s in drawn) <= 15
    assert len({s.spacing for s in drawn}) == 40


def test_every_orientation_keeps_right_and_left(subjects: list[PhantomSubject]) -> None:
    """The patient's right lung has the smaller physical x (LPS) however the axes are stored."""
    assert len({tuple(np.round(s.image.GetDirection()).tolist()) for s in subjects}) >= 3
    for subject in subjects:
        image = subject.lungs
        voxels = sitk.GetArrayFromImage(image)
        centre = {
            side: image.TransformContinuousIndexToPhysicalPoint(
                np.argwhere(voxels == side)[:, ::-1].mean(axis=0).tolist()
            )
            for side in (RIGHT, LEFT)
        }
        assert centre[LEFT][0] - centre[RIGHT][0] > 80
        assert abs(centre[LEFT][2] - centre[RIGHT][2]) < 40


def test_written_equals_made(cohort: tuple[Path, pd.DataFrame], subjects: list[PhantomSubject]) -> None:
    folder, table = cohort
    assert table["scan_id"].tolist() == [s.scan_id for s in subjects[:4]]
    for row, subject in zip(table.to_dict("records"), subjects):
        path = Path(row["path"])
        if path.is_dir():
            reader = sitk.ImageSeriesReader()
            names = reader.GetGDCMSeriesFileNames(str(path), row["series_uid"])
            assert names
            reader.SetFileNames(names)
            image = reader.Execute()
        else:
            image = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(lps(image), lps(subject.image))
        want = sitk.DICOMOrient(subject.image, "LPS")
        got = sitk.DICOMOrient(image, "LPS")
        np.testing.assert_allclose(got.GetOrigin(), want.GetOrigin(), atol=1e-2)
        np.testing.assert_allclose(got.GetDirection(), want.GetDirection(), atol=1e-4)
        lungs = sitk.ReadImage(str(folder / "truth" / f"{row['scan_id']}-lungs.nii.gz"))
        np.testing.assert_array_equal(lps(lungs), lps(subject.lungs))


def test_cohort_holds_nifti_and_dicom_and_relative_paths(cohort: tuple[Path, pd.DataFrame]) -> None:
    folder, table = cohort
    assert [Path(p).is_dir() for p in table["path"]] == [False, False, False, True]
    stored = pd.read_csv(folder / "cohort.csv", dtype={"series_uid": str})
    assert not any(Path(p).is_absolute() for p in stored["path"])
    assert all((folder / p).exists() for p in stored["path"])
    labels = ["emphysema_extent", "fev1pp", "gold_stage", "survival_days", "death"]
    pd.testing.assert_frame_equal(stored[labels], table[labels])


def test_subjects_written_one_by_one_make_the_same_cohort(
    cohort: tuple[Path, pd.DataFrame], tmp_path: Path
) -> None:
    folder, table = cohort
    rows = [generate_subject(tmp_path, i, CONFIG) for i in (1, 0)]
    apart = write_cohort_files(tmp_path, rows)
    places = ["path", *LABEL_MAPS]
    pd.testing.assert_frame_equal(apart.drop(columns=places), table.iloc[:2].drop(columns=places))
    name = Path("scans") / "phantom-0001.nii.gz"
    assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_command_writes_a_cohort(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["phantom", str(tmp_path), "--subjects", "2", "--spacing", "6", "--dicom-every", "2"]
    )
    main()
    assert "2 subjects" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "cohort.csv")["path"].tolist() == [
        "scans/phantom-0000.nii.gz",
        "scans/phantom-0001",
    ]


@pytest.mark.parametrize(
    ("fev1pp", "ratio", "stage"),
    [
        (95, 0.70, 0),
        (60, 0.75, 0),
        (80, 0.69, 1),
        (79.9, 0.69, 2),
        (50, 0.5, 2),
        (49.9, 0.5, 3),
        (29.9, 0.3, 4),
    ],
)
def test_gold_rule(fev1pp: float, ratio: float, stage: int) -> None:
    assert gold_stage(fev1pp=fev1pp, fev1_fvc=ratio) == stage


def truth(extent: float, *, age: float = 63.0) -> Truth:
    return Truth(extent, 0.6 * extent, 0.3 * extent, 0.1 * extent, 0, 0.0, age, "F")


def test_labels_are_consistent_and_follow_the_truth() -> None:
    rng = np.random.default_rng(0)
    extents = rng.uniform(0, 0.4, 400)
    table = pd.DataFrame([clinical(truth(e), rng=rng) for e in extents])
    stages = [gold_stage(fev1pp=a, fev1_fvc=b) for a, b in zip(table["fev1pp"], table["fev1_fvc"])]
    assert table["gold_stage"].tolist() == stages
    ranks = table.corr("spearman", numeric_only=True)["emphysema_extent"]
    assert ranks["fev1pp"] < -0.8
    assert ranks["fev1_fvc"] < -0.8
    assert ranks["visual_emphysema"] > 0.85
    assert ranks["mmrc"] > 0.6
    assert 0.15 < ranks["exacerbations"] < 0.8
    # Who had some will have some.
    assert table[["exacerbations", "future_exacerbations"]].corr("spearman").iloc[0, 1] > 0.35
    assert ranks["survival_days"] < -0.2
    assert table["visual_emphysema"].between(0, 5).all()
    assert table["mmrc"].between(0, 4).all()
    assert table["death"].isin((0, 1)).all()
    assert (table["survival_days"] > 0).all()


def test_deaths_come_at_the_known_hazard() -> None:
    """Events over time at risk estimate the hazard, which depends on each subject's drawn FEV1."""
    rng = np.random.default_rng(1)
    rows = [clinical(truth(0.15, age=70), rng=rng) for _ in range(4000)]
    expected = np.array([hazard_per_year(age=70, extent=0.15, fev1pp=float(r["fev1pp"])) for r in rows])
    years = np.array([float(r["survival_days"]) for r in rows]) / 365.25
    assert sum(int(r["death"]) for r in rows) == pytest.approx((expected * years).sum(), rel=0.08)


def test_ellipsoids_and_threads_cover_their_volume() -> None:
    box = Box(np.zeros(3), np.array([1.5, 1.5, 2.0]), np.array([40, 40, 30]))
    alpha = np.zeros(box.shape, np.float32)
    centres = np.array([[20.3, 20.1, 20.7], [40.2, 40.9, 41.1]])
    radii = np.array([[6.0, 5.0, 7.0], [4.0, 4.0, 4.0]])
    stamp_ellipsoids(alpha, box, centres, radii)
    want = 4 / 3 * np.pi * radii.prod(axis=1).sum()
    assert alpha.sum() * np.prod(box.spacing) == pytest.approx(want, rel=0.06)
    points = np.random.default_rng(0).uniform(10, 40, (500, 3))
    mass = splat(box, points, np.full(500, 0.3))
    assert mass.sum() * np.prod(box.spacing) == pytest.approx(150, rel=1e-4)


def test_resampling_is_exact_for_linear_fields() -> None:
    coarse = Box(np.full(3, -50.0), np.full(3, 5.0), np.array([21, 21, 21]))
    fine = Box(np.array([-31.0, -28.5, -30.2]), np.array([1.7, 1.9, 2.3]), np.array([30, 25, 20]))
    weights, offset = (0.3, -0.2, 0.7), 4.0
    got = resample(coarse.linear(weights, offset), coarse, fine)
    np.testing.assert_allclose(got, fine.linear(weights, offset), atol=1e-3)


@pytest.mark.parametrize("spacing", [0.7, 1.8])
def test_texture_keeps_its_length_in_mm(spacing: float) -> None:
    """Neighbours of a Gaussian-filtered white field correlate by exp(-d^2 / 4 sigma^2), with variance 1."""
    box = Box(np.zeros(3), np.full(3, spacing), np.array([48, 48, 48]))
    field = correlated(box, sigma_mm=1.4, rng=np.random.default_rng(0))
    assert field.std() == pytest.approx(1, rel=0.03)
    neighbours = float(np.mean(field[:, :, 1:] * field[:, :, :-1]))
    assert neighbours == pytest.approx(np.exp(-(spacing**2) / (4 * 1.4**2)), abs=0.05)


def test_tree_reaches_its_whole_territory() -> None:
    rng = np.random.default_rng(0)
    cloud = rng.uniform(-50, 50, (1024, 3))
    tree = grow(np.array([60.0, 0, 0]), cloud, levels=9, radius=5.0, rng=rng)
    assert len(tree.radius_N) == 2**10 - 2
    ends = tree.end_N3[tree.level_N == 8]
    gaps = np.linalg.norm(cloud[:, None] - ends[None], axis=2).min(axis=1)
    assert np.percentile(gaps, 90) < 20
    assert tree.radius_N[tree.level_N == 0].min() > tree.radius_N[tree.level_N == 8].max()
    with pytest.raises(ValueError, match="2048"):
        grow(np.zeros(3), cloud, levels=11, radius=5.0, rng=rng)
