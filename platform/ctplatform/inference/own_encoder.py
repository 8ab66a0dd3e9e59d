"""Encoders of one's own, run by the stage `embed` beside DrasCLR.

An encoder is what a factory without arguments makes: an object with one of the methods of `VolumeEncoder` and
`PatchEncoder`. The factory is named by `package.module:attribute`, or by an entry point of the group `drasclr.encoders`
of an installed package. Worker processes import it and call it once each.

Legend: N patches of one scan, P features, ZYX and DHW space.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ctplatform.config.digest import config_hash
from ctplatform.errors import ScanError, StageError

if TYPE_CHECKING:
    import pandas as pd

GROUP = "drasclr.encoders"


@runtime_checkable
class VolumeEncoder(Protocol):
    """Takes whole scans."""

    def encode_volume(self, volume_ZYX: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
        """The vector [P] of a scan.

        Args:
            volume_ZYX: int16 HU on the scan's own grid, axes to the patient's left, back and head (LPS).
            spacing_mm: of the voxels, z, y, x.
        """


@runtime_checkable
class PatchEncoder(Protocol):
    """Takes the patches that DrasCLR takes; their vectors are pooled as DrasCLR's are."""

    def encode_patches(self, patches_NDHW: np.ndarray, locations_N3: np.ndarray) -> np.ndarray:
        """Vectors [N, P] of a scan's patches.

        Args:
            patches_NDHW: int16 HU, 32 voxels of 1 mm a side.
            locations_N3: normalised coordinates of the patches in the atlas, float32.
        """


def own_encoder(target: str) -> VolumeEncoder | PatchEncoder:
    """The encoder that a factory makes.

    Raises:
        StageError: it cannot be imported or made, or has none of the methods, or both.
    """
    try:
        encoder = factory(target)()
    except StageError:
        raise
    except Exception as error:  # of code that is not the platform's, anything may be raised
        raise _unusable(target, f"cannot be made: {type(error).__name__}: {error}") from error
    kinds = [kind for kind in (VolumeEncoder, PatchEncoder) if isinstance(encoder, kind)]
    if len(kinds) != 1:
        raise _unusable(
            target, f"has {'both' if kinds else 'none'} of the methods encode_volume and encode_patches"
        )
    found: VolumeEncoder | PatchEncoder = encoder
    return found


def factory(target: str) -> Callable[[], Any]:
    """What a name leads to.

    Raises:
        StageError: it leads to nothing that can be called.
    """
    module, _, attribute = target.partition(":")
    try:
        if attribute:
            found: Any = importlib.import_module(module)
            for part in attribute.split("."):
                found = getattr(found, part)
        else:
            installed = {point.name: point for point in entry_points(group=GROUP)}
            if target not in installed:
                close = difflib.get_close_matches(target, list(installed), n=1)
                hint = (
                    f"did you mean {close[0]!r}?" if close else f"there are {', '.join(installed) or 'none'}"
                )
                raise _unusable(target, f"is no entry point of the group {GROUP}; {hint}")
            found = installed[target].load()
    except StageError:
        raise
    except Exception as error:  # whatever the import raises
        raise _unusable(target, f"cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise _unusable(target, "cannot be called")
    made: Callable[[], Any] = found
    return made


def identity(target: str) -> str:
    """Names what vectors depend on: the target, and the attribute `version` of what it leads to, if it has one."""
    return config_hash({"target": target, "version": str(getattr(factory(target), "version", ""))})


@contextlib.contextmanager
def encoding(target: str, scan_id: str) -> Iterator[None]:
    """Errors of an encoder name it and the scan.

    Raises:
        StageError: instead of whatever is raised in the context.
    """
    try:
        yield
    except StageError:
        raise
    except Exception as error:  # of code that is not the platform's, anything may be raised
        raise _unusable(target, f"failed on scan {scan_id}: {type(error).__name__}: {error}") from error


def checked(vectors: np.ndarray, *, target: str, count: int | None = None) -> np.ndarray:
    """An encoder's output as float32: [P], or [N, P] for `count` patches.

    Raises:
        StageError: another shape, or no numbers.
    """
    try:
        found = np.asarray(vectors, np.float32)
    except (TypeError, ValueError) as error:
        raise _unusable(target, f"returned no array of numbers: {error}") from None
    wanted = "[P]" if count is None else f"[{count}, P]"
    if (
        found.ndim != (1 if count is None else 2)
        or (count is not None and len(found) != count)
        or not found.size
    ):
        raise _unusable(target, f"returned an array of shape {list(found.shape)}, not {wanted}")
    return found


def with_paths(scans: list[dict[str, Any]], cohort: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Rows of scans with `path` and `series_uid`, empty where the scan table does not have them."""
    columns = [name for name in ("path", "series_uid") if cohort is not None and name in cohort]
    if cohort is None or not columns:
        return scans
    named = cohort.set_index(cohort["scan_id"].astype(str))[columns].fillna("").astype(str).to_dict("index")
    return [{**scan, **named.get(scan["scan_id"], {})} for scan in scans]


def scan_volume(scan: dict[str, str]) -> tuple[np.ndarray, tuple[float, float, float]]:
    """A scan's HU [z, y, x] and its spacing z, y, x in mm.

    Raises:
        ScanError: the scan table does not say where it is, or it cannot be read.
    """
    import SimpleITK as sitk

    from ctplatform.imaging.volume import read_volume

    if not scan.get("path"):
        raise ScanError(
            "the scan table does not say where it is", "Give the table that was prepared", code="missing-path"
        )
    image = read_volume(scan["path"], series_uid=scan.get("series_uid") or None).image
    x, y, z = image.GetSpacing()
    return sitk.GetArrayFromImage(image), (z, y, x)


def _unusable(target: str, why: str) -> StageError:
    return StageError(
        f"the encoder {target!r} {why}",
        "Name a class or function without arguments as package.module:attribute, importable on every machine, that "
        "makes an object with encode_volume or encode_patches",
        code="encoder",
    )
