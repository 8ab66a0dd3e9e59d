"""A kept model of label maps, and the label maps that it makes of given scans.

Legend: ZYX voxels of a lung volume, C classes, M windows, P features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from ctplatform.errors import StageError
from ctplatform.evaluation.dense.lung_volume import LungVolume, cut_lung_volume
from ctplatform.evaluation.dense.windows import density, windows_of
from ctplatform.inference.kept_model import check_fits
from ctplatform.inference.model_folder import LABEL_MAP, ModelFolder, damaged, read_folder
from ctplatform.preparation.scan import StepClock, failure, sample_scan
from ctplatform.registration.affine import to_transform

if TYPE_CHECKING:
    from drasclr.atlas import Atlas
    from drasclr.encoder import Encoder
    from drasclr.heads import Segmenter

_REMEDY = "Run `drasclr predict` on this scan alone, which shows the error"


@dataclass(frozen=True)
class LabelMapModel:
    """A classifier of windows, or a segmentation network without its contracting path.

    Args:
        card: what is known about it.
        tensors: `weights_CP` and `bias_C`, or the weights of the network's expanding path.
        encoder: where its own encoder lies: a weights folder; empty where it takes features of given weights.
    """

    card: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    encoder: str = ""

    @property
    def features(self) -> Mapping[str, Any]:
        """What it was trained with: encoder, weights_sha256, atlas_hash, hu_window, stride, ..."""
        found: Mapping[str, Any] = self.card["features"]
        return found

    @property
    def classes(self) -> dict[str, int]:
        """Class -> its value in a label map."""
        return dict(self.card["task"]["classes"])

    @property
    def regions(self) -> bool:
        """Whether every voxel of lung has a class."""
        return bool(self.card["task"]["kind"] == "regions")


def read_label_map_model(folder: str | Path) -> LabelMapModel:
    """The model of a folder or prefix of an object store.

    Raises:
        StageError: there is none, it is of another kind or of a later version, or damaged.
    """
    return label_map_model_of(read_folder(folder))


def label_map_model_of(found: ModelFolder) -> LabelMapModel:
    """The model of a folder that has been read. Raises as `read_label_map_model` does."""
    if found.card["format"] != LABEL_MAP:
        raise StageError(
            f"the model of {found.place} makes no label maps", "Use `drasclr predict`", code="usage"
        )
    wanted = {"weights_CP", "bias_C"} if found.card["task"]["kind"] == "regions" else {"out.conv.conv.weight"}
    if missing := wanted - set(found.tensors):
        raise damaged(found.place, ValueError(f"it has no {', '.join(sorted(missing))}"))
    return LabelMapModel(found.card, found.tensors, found.encoder)


@dataclass(frozen=True)
class LabelledScan:
    """What came of a scan.

    Attributes:
        row: scan_id, subject_id, state, reason, and for each class its share of the lung in percent (regions) or its
            volume in ml (structures).
        labels: the classes' values on the grid of the scan, axes in LPS order; None without a label map.
    """

    row: dict[str, Any]
    labels: sitk.Image | None = None


class LabelMapper:
    """Makes label maps of lung volumes.

    Args:
        model: a kept model.
        encoder: its encoder, in evaluation mode.
        atlas: of the encoder.
        hu_window: HU that are mapped to -1 and 1.
    """

    def __init__(
        self, model: LabelMapModel, encoder: Encoder, atlas: Atlas, *, hu_window: tuple[int, int]
    ) -> None:
        self.model, self.encoder, self.atlas, self.hu_window = model, encoder, atlas, hu_window

    def numbers(self, volume: LungVolume) -> np.ndarray:
        """Number of the class of each voxel, 1 to C in the classes' order, uint8 [z, y, x]; 0: none."""
        if not self.model.regions:
            from ctplatform.config.evaluation import SegmentationConfig
            from ctplatform.evaluation.dense.segmentation import segment

            config = SegmentationConfig.model_validate(self.model.card["segmentation"])
            return segment(self._segmenter, volume, self.atlas, config, hu_window=self.hu_window)
        windows = windows_of(volume.lungs_ZYX, stride=int(self.model.features["stride"]))
        if self.model.features["encoder"] == "density":
            x_MP = density(volume, windows)
        else:
            from ctplatform.evaluation.dense.features import encode

            x_MP = encode(self.encoder, volume, windows, self.atlas, hu_window=self.hu_window)
        score_MC = x_MP.astype(float) @ self.model.tensors["weights_CP"].T + self.model.tensors["bias_C"]
        called_M = (score_MC.argmax(1) + 1).astype(np.uint8)
        return windows.paint(called_M, volume.lungs_ZYX)

    def amounts(self, volume: LungVolume, numbers_ZYX: np.ndarray) -> dict[str, float]:
        """`percent_<class>` of the lung, or `ml_<class>`."""
        voxels_C = np.bincount(numbers_ZYX.ravel(), minlength=len(self.model.classes) + 1)[1:]
        if self.model.regions:
            total = max(int(voxels_C.sum()), 1)
            return {
                f"percent_{name}": 100 * float(n) / total for name, n in zip(self.model.classes, voxels_C)
            }
        return {f"ml_{name}": float(n) * volume.voxel_ml for name, n in zip(self.model.classes, voxels_C)}

    @cached_property
    def _segmenter(self) -> Segmenter:
        import torch

        from drasclr.heads import Segmenter

        model = Segmenter(self.encoder, classes=len(self.model.classes) + 1)
        own = {name: torch.from_numpy(np.array(array)) for name, array in self.model.tensors.items()}
        try:
            left = model.load_state_dict(own, strict=False)
            problem = [*left.unexpected_keys, *(n for n in left.missing_keys if not n.startswith("encoder."))]
        except RuntimeError as error:
            problem = [str(error)]
        if problem:
            raise StageError(
                f"the numbers of the model do not fit its card: {', '.join(problem[:3])}",
                "Copy the whole folder again",
                code="damaged-model",
            )
        return model.eval()


class ScanLabeller:
    """Makes the label maps of scans, one by one.

    Args:
        model: a kept model.
        encoder: its encoder, as `drasclr.load` returns it, with its atlas.

    Raises:
        StageError: the encoder is another than the model's, or has no atlas.
    """

    def __init__(self, model: LabelMapModel, encoder: Encoder) -> None:
        from ctplatform.inference.predict import check_weights
        from ctplatform.inference.scan_embedding import ScanEmbedder

        check_weights(model, encoder)
        prepared = ScanEmbedder(encoder, pooling="mean")
        self.config, self.atlas, self.template = prepared.config, prepared.atlas, prepared.template
        window = [float(end) for end in self.config.hu_window]
        check_fits(model, {"hu_window": window, "atlas_hash": self.atlas.hash})
        self.mapper = LabelMapper(model, encoder, self.atlas, hu_window=self.config.hu_window)

    def __call__(self, item: dict[str, Any]) -> LabelledScan:
        """The label map of one scan; an error of the scan ends in its row.

        Args:
            item: scan_id, subject_id, path, series_uid.
        """
        row = {"scan_id": item["scan_id"], "subject_id": item["subject_id"], "reason": "", "remedy": ""}
        try:
            scan = sample_scan(item, self.config, self.atlas, self.template, StepClock(), keep_image=True)
            row |= {name: scan.fields[name] for name in ("state", "reason", "remedy", "code")}
            if scan.verdict.state == "rejected":
                return LabelledScan(row)
            assert scan.image is not None
            assert scan.lungs is not None
            volume = cut_lung_volume(scan.image, scan.lungs, scan.affine_44, config=self.config)
            numbers_ZYX = self.mapper.numbers(volume)
            values = list(self.mapper.model.classes.values())
            labels = on_scan(volume, numbers_ZYX, scan.image, values)
            return LabelledScan(row | self.mapper.amounts(volume, numbers_ZYX), labels)
        except StageError:
            raise
        except Exception as error:  # an unforeseen error of a library must not stop the other scans
            return LabelledScan(row | failure(error, item["scan_id"], remedy=_REMEDY))


def on_scan(
    volume: LungVolume, numbers_ZYX: np.ndarray, image: sitk.Image, values_C: list[int]
) -> sitk.Image:
    """A map of a lung volume on the grid of its scan, with the classes' values; nearest voxel.

    Args:
        volume: of the scan.
        numbers_ZYX: 0: no class, 1 to C.
        image: the scan.
        values_C: the value of each class.
    """
    kind = np.uint8 if max(values_C) < 256 else np.uint16
    values = np.array([0, *values_C], kind)[numbers_ZYX]
    lattice = sitk.GetImageFromArray(values)
    transform = to_transform(np.linalg.inv(volume.to_scan_44))
    labels: sitk.Image = sitk.Resample(lattice, image, transform, sitk.sitkNearestNeighbor, 0)
    return labels
