"""Files with drawn headers: the voxels and places that are right are known, whatever the header says and how."""

from __future__ import annotations

import gzip
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from hypothesis import strategies as st

from ctplatform.errors import ScanError
from ctplatform.imaging.dicom_writer import write_dicom_series
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.scans import edit

SIZE_XYZ = (12, 14, 11)


@dataclass(frozen=True)
class Drawn:
    """A grid and how it is stored.

    Attributes:
        turn: degrees about x, y and z.
        flip: axes that are stored in the opposite order.
        break_at: a byte that is overwritten, as a share of the file; None: none is.
    """

    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    turn: tuple[float, float, float]
    flip: tuple[bool, bool, bool]
    order: tuple[int, ...]
    form: str
    slope: float
    intercept: int
    break_at: float | None
    junk: int

    def image(self) -> sitk.Image:
        """HU with no symmetry, on the drawn grid."""
        z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE_XYZ[::-1]), indexing="ij")
        body = (x / 0.9) ** 2 + (y / 0.85) ** 2 < 1
        lung = ((x + 0.4) / 0.35) ** 2 + ((y - 0.1) / 0.5) ** 2 + ((z + 0.1) / 0.9) ** 2 < 1
        noise = np.random.default_rng(int(self.spacing[0] * 1000)).integers(-30, 30, z.shape)
        hu = np.clip(np.select([lung, body], [-850, 40], -1000) + noise, -1024, 3000)
        image = sitk.GetImageFromArray((2 * (hu // 2)).astype(np.int16))
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(sitk.Euler3DTransform((0, 0, 0), *np.radians(self.turn)).GetMatrix())
        return sitk.PermuteAxes(sitk.Flip(image, self.flip, False), self.order)

    def write(self, folder: Path) -> Path:
        """The scan as a file, or a folder with a DICOM series."""
        image = self.image()
        if self.form == "dicom":
            write_dicom_series(image, folder / "series")
            edit(folder / "series", RescaleSlope=self.slope, RescaleIntercept=self.intercept)
            for file in (folder / "series").iterdir():
                _restore(file, image, self)
            return self._broken(folder / "series", sorted((folder / "series").iterdir())[3])
        file = folder / f"scan{self.form}"
        sitk.WriteImage(image, str(file), useCompression=self.junk % 2 == 0)
        return self._broken(file, file)

    def _broken(self, path: Path, file: Path) -> Path:
        if self.break_at is not None:
            packed = file.name.endswith(".gz")
            content = bytearray(gzip.decompress(file.read_bytes()) if packed else file.read_bytes())
            content[int(self.break_at * min(len(content) - 1, 700))] = self.junk
            file.write_bytes(gzip.compress(bytes(content), 1) if packed else bytes(content))
        return path


def _restore(file: Path, image: sitk.Image, drawn: Drawn) -> None:
    import pydicom

    data = pydicom.dcmread(file)
    hu = np.frombuffer(data.PixelData, "<i2").astype(int) - 1024
    data.PixelData = ((hu - drawn.intercept) / drawn.slope).astype("<i2").tobytes()
    data.save_as(file)


def coordinates(bound: float) -> st.SearchStrategy[float]:
    return st.integers(-int(bound * 8), int(bound * 8)).map(lambda n: n / 8)


SPACINGS = st.tuples(*[st.integers(4, 60).map(lambda n: n / 8)] * 3)


def headers(*, broken: bool) -> st.SearchStrategy[Drawn]:
    """Headers of every format, each of which is right, or has one byte of its first 700 overwritten."""
    return st.builds(
        Drawn,
        spacing=SPACINGS,
        origin=st.tuples(*[coordinates(400)] * 3),
        turn=st.tuples(*[coordinates(35)] * 3),
        flip=st.tuples(*[st.booleans()] * 3),
        order=st.permutations(range(3)).map(tuple),
        form=st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha", "dicom"]),
        slope=st.sampled_from([1.0, 0.5, 2.0]),
        intercept=st.sampled_from([-1024, -1000, 0, -8192]),
        break_at=st.floats(0, 1) if broken else st.none(),
        junk=st.integers(0, 255),
    )


def check_same(found: sitk.Image, right: sitk.Image) -> None:
    """All voxels of an image are those of another one, in their places, whatever the order of the axes."""
    hu_ZYX, right_ZYX = sitk.GetArrayViewFromImage(found), sitk.GetArrayViewFromImage(right)
    assert hu_ZYX.size == right_ZYX.size
    index_N3 = np.argwhere(np.ones(hu_ZYX.shape, bool))[:, ::-1]
    points_N3 = index_N3 @ _axes(found).T + found.GetOrigin()
    nearest_N3 = np.rint((points_N3 - right.GetOrigin()) @ np.linalg.inv(_axes(right)).T).astype(int)
    assert ((nearest_N3 >= 0) & (nearest_N3 < right.GetSize())).all(), "in another place"
    away_N = np.linalg.norm(points_N3 - (nearest_N3 @ _axes(right).T + right.GetOrigin()), axis=1)
    extent = np.linalg.norm(np.array(right.GetSize()) * right.GetSpacing())
    assert away_N.max() < 0.05 + 3e-3 * extent, f"{away_N.max():.2f} mm off"  # headers are rounded
    x, y, z = nearest_N3.T
    np.testing.assert_array_equal(hu_ZYX.ravel(), right_ZYX[z, y, x])


def _axes(image: sitk.Image) -> np.ndarray:
    """Steps from voxel to voxel, mm, a column each."""
    return np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()


def check_right(drawn: Drawn) -> None:
    """A header that is right gives the drawn HU, voxel by voxel, where the image has them."""
    with tempfile.TemporaryDirectory() as folder:
        found = read_volume(drawn.write(Path(folder))).image
    image = drawn.image()
    expected = sitk.DICOMOrient(image, "LPS")
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(found), sitk.GetArrayViewFromImage(expected))
    corner = [n - 1 for n in expected.GetSize()]
    for index in ((0, 0, 0), corner):
        np.testing.assert_allclose(
            found.TransformIndexToPhysicalPoint(index),
            expected.TransformIndexToPhysicalPoint(index),
            atol=0.02,
        )


def check_broken(drawn: Drawn) -> None:
    """A byte of the header is wrong: a volume, or a ScanError without the path."""
    with tempfile.TemporaryDirectory(prefix="named-") as folder:
        path = drawn.write(Path(folder))
        said = ""
        try:
            read_volume(path)
        except ScanError as error:
            said = str(error)
        assert "named-" not in said
