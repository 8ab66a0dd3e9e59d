"""The workspace's atlas as stored: its locations, and the lung-mask template they lie on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ctplatform.storage.layout import ATLAS, ATLAS_FILE, TEMPLATE_FILE
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import SimpleITK as sitk

    from drasclr.atlas import Atlas


def read_atlas(workspace: Workspace) -> Atlas:
    """The workspace's atlas.

    Raises:
        StageError: there is no atlas yet, or its file is damaged.
    """
    from drasclr.atlas import Atlas

    values = workspace.read_json(ATLAS, ATLAS_FILE)
    try:
        return Atlas.from_json(values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise workspace.damaged(ATLAS, ATLAS_FILE, why=why) from None


def read_template(workspace: Workspace) -> sitk.Image:
    """The workspace's lung-mask template: uint8, 50 right, 100 left, LPS mm."""
    return image_from_bytes(workspace.read_bytes(ATLAS, TEMPLATE_FILE))


def image_to_bytes(image: sitk.Image) -> bytes:
    """The image as a compressed NIfTI file."""
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TEMPLATE_FILE
        sitk.WriteImage(image, str(path), useCompression=True)
        return path.read_bytes()


def image_from_bytes(data: bytes, *, name: str = TEMPLATE_FILE) -> sitk.Image:
    """The image of a file's bytes; the suffix of `name` tells the format."""
    import SimpleITK as sitk

    from ctplatform.imaging.files import same_locale

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        with same_locale():
            return sitk.ReadImage(str(path))
