"""TODO."""

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
    """The workspace's locations.

    Raises:
        StageError: there is no atlas yet.
    """
    from drasclr.atlas import Atlas

    return Atlas.from_json(workspace.read_json(ATLAS, ATLAS_FILE))


def read_template(workspace: Workspace) -> sitk.Image:
    """The workspace's lung-mask template: uint8, 50 right, 100 left, LPS mm."""
    return _image_from_bytes(workspace.read_bytes(ATLAS, TEMPLATE_FILE))


def _image_to_bytes(image: sitk.Image) -> bytes:
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TEMPLATE_FILE
        sitk.WriteImage(image, str(path), useCompression=True)
        return path.read_bytes()


def _image_from_bytes(data: bytes, *, name: str = TEMPLATE_FILE) -> sitk.Image:
    import SimpleITK as sitk

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        return sitk.ReadImage(str(path))
