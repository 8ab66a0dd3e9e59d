import json
import os
from pathlib import Path

import numpy as np
import pytest

from drasclr import Atlas
from drasclr.atlas import lung_fraction

GRID = {"spacing": (1.0, 1.0, 1.0), "origin": (-10.0, 5.0, 7.0), "direction": (1, 0, 0, 0, -1, 0, 0, 0, 1)}
PUBLISHED = Path(os.environ.get("DRASCLR_PUBLISHED_ATLAS", Path(__file__).parents[3] / "shared" / "atlas"))


def ellipsoid(shape=(80, 90, 110)) -> np.ndarray:
    z, y, x = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    return (x**2 + y**2 + z**2 < 0.8).astype(np.uint8)


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return Atlas.from_template(ellipsoid(), **GRID, patch_size=16, step=10, block_size=12)


def test_locations_follow_the_rule(atlas):
    mask = ellipsoid().transpose(2, 1, 0)
    expected = [
        (x, y, z)
        for x in range(0, 110 - 16 + 1, 10)
        for y in range(0, 90 - 16 + 1, 10)
        for z in range(0, 80 - 16 + 1, 10)
        if mask[x : x + 16, y : y + 16, z : z + 16].mean() > 0.1
    ]
    assert atlas.corners_N3.tolist() == [list(corner) for corner in expected]


def test_centres_are_physical_points_in_the_lung():
    sitk = pytest.importorskip("SimpleITK")
    oblique = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)
    grid = {"spacing": (1.0, 1.5, 2.0), "origin": (3.0, -4.0, 5.0), "direction": oblique}
    mask = ellipsoid()
    atlas = Atlas.from_template(mask, **grid, patch_size=15, step=12, min_lung_fraction=0.9)
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing(grid["spacing"]), image.SetOrigin(grid["origin"]), image.SetDirection(oblique)
    for corner, centre in zip(atlas.corners_N3, atlas.centres_mm_N3, strict=True):
        expected = image.TransformContinuousIndexToPhysicalPoint((corner + 7.0).tolist())
        np.testing.assert_allclose(centre, expected, atol=1e-9)
        assert image[image.TransformPhysicalPointToIndex(centre.tolist())] == 1


def test_neighbours_are_the_nearest_and_ties_do_not_depend_on_sorting(atlas):
    corners = atlas.corners_N3.astype(float)
    distance = np.linalg.norm(corners[:, None] - corners[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    chosen = np.take_along_axis(distance, atlas.neighbours_NK, axis=1)
    np.testing.assert_allclose(chosen, np.sort(distance, axis=1)[:, :2])
    assert all(len(set(row)) == 2 for row in atlas.neighbours_NK.tolist())
    again = Atlas.from_template(ellipsoid(), **GRID, patch_size=16, step=10, block_size=12)
    assert np.array_equal(again.neighbours_NK, atlas.neighbours_NK)
    # No axis or sign is favoured: each of the six directions gets its share.
    steps = (corners[atlas.neighbours_NK] - corners[:, None]).reshape(-1, 3)
    _, counts = np.unique(steps[np.abs(steps).sum(1) == 10], axis=0, return_counts=True)
    assert len(counts) == 6
    assert counts.min() > counts.max() / 3


def test_blocks_are_compact_and_of_equal_size(atlas):
    sizes = np.bincount(atlas.blocks_N)
    assert sizes.min() >= 10
    assert sizes.max() <= 14
    corners = atlas.corners_N3
    inside = [np.linalg.norm(np.ptp(corners[atlas.members(b)], axis=0)) for b in range(atlas.num_blocks)]
    assert np.mean(inside) < 0.6 * np.linalg.norm(np.ptp(corners, axis=0))
    for block in range(atlas.num_blocks):
        members, halo = set(atlas.members(block)), set(atlas.halo(block))
        assert not members & halo
        assert set(atlas.neighbours_NK[sorted(members)].ravel()) <= members | halo


def test_written_equals_read(atlas, tmp_path):
    atlas.save(tmp_path / "atlas.json")
    for path in (tmp_path, tmp_path / "atlas.json"):
        read = Atlas.load(path)
        assert read.hash == atlas.hash
        assert np.array_equal(read.coordinates_N3, atlas.coordinates_N3)
    plain = json.loads((tmp_path / "atlas.json").read_text())
    plain["corners_N3"][0][0] += 1
    assert Atlas.from_json(plain).hash != atlas.hash
    with pytest.raises(ValueError, match="format"):
        Atlas.from_json({"format": "something else"})


def test_coordinates_are_normalised_as_published(atlas):
    largest = atlas.corners_N3.max(0)
    np.testing.assert_allclose(atlas.coordinates_N3, atlas.corners_N3 / largest * 2 - 1, rtol=1e-6)
    assert atlas.coordinates_N3.dtype == np.float32


def test_no_neighbours_survive_writing():
    atlas = Atlas.from_template(ellipsoid(), **GRID, patch_size=16, step=30, neighbours=0)
    assert Atlas.from_json(atlas.to_json()).neighbours_NK.shape == (atlas.num_locations, 0)
    assert len(atlas.halo(0)) == 0


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="no patch of 16 voxels"):
        Atlas.from_template(np.zeros((40, 40, 40)), **GRID, patch_size=16)
    with pytest.raises(ValueError, match="outside the template"):
        Atlas.from_template(np.ones((40, 40, 40)), **GRID, patch_size=16, corners_N3=np.array([[0, 0, 30]]))
    with pytest.raises(ValueError, match="need at least"):
        Atlas.from_template(np.ones((40, 40, 40)), **GRID, patch_size=32, step=26, neighbours=2)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason=f"the published atlas is not in {PUBLISHED}")
def test_published_atlas():
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(str(PUBLISHED / "atlas_lung_mask.nii.gz"))
    mask = sitk.GetArrayFromImage(image)
    corners = np.load(PUBLISHED / "atlas_patch_loc.npy")
    grid = {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}
    ours = Atlas.from_template(mask, **grid)
    given = Atlas.from_template(mask, **grid, corners_N3=corners)
    assert np.array_equal(given.corners_N3, corners)
    assert given.num_locations == 581
    # The rule finds all published locations but six: five in the midline, one a little below the threshold.
    missing = set(map(tuple, corners)) - set(map(tuple, ours.corners_N3))
    assert set(map(tuple, ours.corners_N3)) <= set(map(tuple, corners))
    assert len(missing) == 6
    assert lung_fraction(mask.transpose(2, 1, 0) > 0, np.array(sorted(missing)), patch_size=32).max() <= 0.1
    # Centres: within the lungs' bounding box in physical space, most of them in lung itself.
    values = [image[image.TransformPhysicalPointToIndex(point.tolist())] for point in given.centres_mm_N3]
    assert np.mean(np.array(values) > 0) > 0.6
