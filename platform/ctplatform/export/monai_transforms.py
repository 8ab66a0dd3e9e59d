"""Transforms of an exported MONAI bundle: a scan's file becomes its patches, their features a file.

The registration that finds an atlas's locations in a scan is in no stock transform of MONAI: these call the functions
of `drasclr embed`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.transforms.transform import MapTransform

from ctplatform.dataset.atlas import image_from_bytes
from ctplatform.errors import ScanError
from ctplatform.inference.pooling import STANDARDISED, pool
from ctplatform.inference.scan_embedding import preparation_of
from ctplatform.preparation.scan import StepClock, sample_scan
from ctplatform.registration.template import Template
from ctplatform.storage.layout import ATLAS_FILE, CARD_FILE, TEMPLATE_FILE

INSIDE, SCAN = "inside", "scan"


class SampleAtlasd(MapTransform):
    """Path of a scan -> its patches at all locations of the atlas, float32 [N, 32, 32, 32] in [-1, 1].

    Adds "inside", the share of each patch that lies in the scan [N], and "scan", the file's name without suffixes.

    Args:
        keys: of the path: a volume file or a DICOM folder.
        folder: with card.json, atlas.json and lung_mask.nii.gz.
        allow_missing_keys: as of other transforms of MONAI.

    Raises:
        ScanError: the scan cannot be read, has no lungs, or is rejected.
    """

    def __init__(self, keys: KeysCollection, folder: str, allow_missing_keys: bool = False) -> None:
        import json

        from drasclr.atlas import Atlas

        super().__init__(keys, allow_missing_keys)
        place = Path(folder)
        card = json.loads((place / CARD_FILE).read_text(encoding="utf-8"))
        self.config = preparation_of(card).model_copy(update={"overlays": False})
        self.atlas = Atlas.from_json(json.loads((place / ATLAS_FILE).read_text(encoding="utf-8")))
        image = image_from_bytes((place / TEMPLATE_FILE).read_bytes())
        self.template = Template.from_image(image, config=self.config.registration)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with patches in place of the path."""
        from drasclr import augment

        found = dict(data)
        for key in self.key_iterator(found):
            name = Path(str(found[key])).name.partition(".")[0]
            item = {"scan_id": name, "path": str(found[key]), "series_uid": ""}
            scan = sample_scan(item, self.config, self.atlas, self.template, StepClock())
            if scan.verdict.state == "rejected":
                raise ScanError(
                    f"{name} is rejected: {'; '.join(scan.verdict.reasons)}", "Leave it out", code="quality"
                )
            patches = torch.from_numpy(scan.patches.hu_NDHW)
            found[key] = augment.normalise(patches, hu_window=self.config.hu_window)[:, 0]
            found[INSIDE] = torch.from_numpy(scan.patches.inside_N.astype(np.float32))
            found[SCAN] = name
        return found


class SaveVectorsd(MapTransform):
    """Features of a scan -> `<scan>.npz` with `patches_NP`, `inside_N`, and `patient_P` pooled over the locations.

    Args:
        keys: of the features [N, P].
        output_dir: is made if it is missing.
        pooling: "mean" or "mean_std".
        allow_missing_keys: as of other transforms of MONAI.
    """

    def __init__(
        self, keys: KeysCollection, output_dir: str, pooling: str = "mean", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if pooling in STANDARDISED:
            raise ValueError(
                f"pooling {pooling!r} needs the statistics of the training scans: use mean or mean_std"
            )
        self.folder, self.pooling = Path(output_dir), pooling

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write, and return the item as it is."""
        found = dict(data)
        for key in self.key_iterator(found):
            patches_NP = torch.as_tensor(found[key]).cpu().numpy()
            inside_N = torch.as_tensor(found[INSIDE]).cpu().numpy()
            patient_P = pool(patches_NP[None], inside_N[None], self.pooling)[0]  # type: ignore[arg-type]
            self.folder.mkdir(parents=True, exist_ok=True)
            np.savez(
                self.folder / f"{found[SCAN]}.npz",
                patient_P=patient_P,
                patches_NP=patches_NP,
                inside_N=inside_N,
            )
        return found
