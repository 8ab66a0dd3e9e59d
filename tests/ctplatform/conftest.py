"""A small CT series, for the tests of reading."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctplatform.dicom import write_dicom_series
from tests.ctplatform.scans import chest


@pytest.fixture
def series(tmp_path: Path) -> Path:
    write_dicom_series(chest(), tmp_path / "series")
    return tmp_path / "series"
