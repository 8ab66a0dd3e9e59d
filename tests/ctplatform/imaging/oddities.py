"""Drawn scans with headers as they are met in practice, each of one kind, whose right voxels and places are known.

A sound kind must be read as it is; of the others, a ScanError is right as well. Nothing else is: no other exception,
and no other voxels. `odd_dicom`, `odd_nifti` and `odd_files` have the kinds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ctplatform.errors import ScanError
from ctplatform.imaging.volume import read_volume
from tests.ctplatform.imaging.drawn import Drawn, check_same


@dataclass(frozen=True)
class Odd:
    """A drawn grid stored with one oddity.

    Attributes:
        seed: of what the oddity chooses: slices, amounts.
    """

    grid: Drawn
    kind: Kind
    seed: int

    @cached_property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def some(self, count: int) -> list[int]:
        """Indices of some of `count` slices, neither none nor all."""
        return sorted(self.rng.choice(count, self.rng.integers(1, count), replace=False).tolist())

    def inner(self, count: int) -> int:
        """Index of a slice that has neighbours on both sides."""
        return int(self.rng.integers(2, count - 2))

    def write(self, folder: Path) -> Path:
        """The scan as a file, or a folder with a DICOM series."""
        return self.kind.write(self, folder)


class Kind(NamedTuple):
    """One kind of oddity: how it is written, and whether it must be read."""

    name: str
    write: Callable[[Odd, Path], Path]
    sound: bool


def check_odd(odd: Odd) -> str:
    """The right HU in the right place, or, of a kind that is not sound, a ScanError, whose code is returned."""
    with tempfile.TemporaryDirectory(prefix="named-") as folder:
        path = replace(odd).write(Path(folder))  # a generator of its own, however often it is checked
        refused = None
        try:
            found = read_volume(path).image
        except ScanError as error:
            refused = error
    if refused is None:
        check_same(found, odd.grid.image())
        return ""
    assert not odd.kind.sound, f"{odd.kind.name}: refused, {refused}"
    assert "named-" not in str(refused)
    return refused.code
