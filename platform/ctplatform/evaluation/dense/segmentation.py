"""Trials of segmentation: the encoder as the contracting path of a U-Net, pretrained or from random weights.

Both starts get the same decoder, crops, steps and loss; only the encoder's weights differ. The loss (Dice and
cross-entropy), the sliding-window inference and the metrics are MONAI's.

Legend: B crops, C classes (the background is number 0), DHW space, ZYX voxels of a lung volume.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from cachetools import LRUCache, cached
from torch import Tensor

from ctplatform.config.evaluation import SegmentationConfig
from ctplatform.dataset.atlas import read_atlas
from ctplatform.evaluation.cells import Cell
from ctplatform.evaluation.dense.lung_volume import LungVolume
from ctplatform.evaluation.dense.sources import ScanSource
from ctplatform.evaluation.dense.volumes import LabelledVolumes
from ctplatform.evaluation.dense.windows import normaliser
from ctplatform.evaluation.initialisations import FINETUNE
from ctplatform.evaluation.models import Training
from drasclr.encoder import Encoder
from drasclr.heads import Segmenter
from drasclr.norm import recalibrate

if TYPE_CHECKING:
    from drasclr.atlas import Atlas

CACHE_BYTES = 3 << 29
ON_STRUCTURE = 0.5
"""Share of the crops that are centred on a voxel of a class that the scan has; the others on any voxel of lung."""
GRADIENT_NORM = 1.0
RECALIBRATION_BATCHES = 8
WINDOWS = 2
"""Windows at a time at the test. On a CPU two take about the time of one (64 voxels a side), or a third of it (32)."""

#: A test subject's scan -> its lung volume, label map and predicted map.
Predict = Callable[[ScanSource], tuple[LungVolume, np.ndarray, np.ndarray]]


def predictor_of_network(volumes: LabelledVolumes, model: Segmenter, training: Training) -> Predict:
    """The prediction of a test subject's scan by a trained network."""
    atlas = read_atlas(volumes.workspace)
    config, hu_window = volumes.config.segmentation, training.encoders.hu_window

    def predict(source: ScanSource) -> tuple[LungVolume, np.ndarray, np.ndarray]:
        volume = volumes.volume(source)
        predicted_ZYX = segment(model, volume, atlas, config, hu_window=hu_window)
        return volume, volumes.labels(source), predicted_ZYX

    return predict


def fit_segmenter(volumes: LabelledVolumes, cell: Cell, rows: np.ndarray, training: Training) -> Segmenter:
    """A network, trained on the label maps of some training subjects; in evaluation mode."""
    torch.set_num_threads(training.threads)
    torch.manual_seed(cell.seed)
    config, pretrained = volumes.config.segmentation, cell.initialisation == FINETUNE
    encoder, hu_window = training.encoders.initial(cell.initialisation), training.encoders.hu_window
    encoder.head.requires_grad_(False)  # the projection is for the contrastive losses only
    model = Segmenter(encoder, classes=volumes.classes + 1).to(training.device)
    atlas = read_atlas(volumes.workspace)
    crops = Crops(
        volumes,
        [volumes.train[row] for row in rows],
        atlas,
        hu_window=hu_window,
        device=training.device,
        seed=cell.seed,
    )
    encoder_lr = config.encoder_lr if pretrained else config.lr
    train(model, crops, config, encoder_lr=encoder_lr, keep_statistics=pretrained)
    return model


class Crops:
    """Random crops of labelled lung volumes.

    Args:
        volumes: of a task.
        sources: the scans to crop from.
        atlas: gives the crops' locations.
        hu_window: HU that are mapped to -1 and 1.
        device: torch device of the batches.
        seed: of the crops.
    """

    def __init__(
        self,
        volumes: LabelledVolumes,
        sources: list[ScanSource],
        atlas: Atlas,
        *,
        hu_window: tuple[int, int],
        device: str,
        seed: int,
    ) -> None:
        self.volumes, self.sources, self.atlas, self.device = volumes, sources, atlas, device
        self.config = volumes.config.segmentation
        self.normalise = normaliser(hu_window, device)
        self.rng = np.random.default_rng(seed)

    def __call__(self) -> tuple[Tensor, Tensor, Tensor]:
        """One batch: patches [B, 1, D, H, W], locations [B, 3], labels [B, 1, D, H, W]."""
        crops = [self._crop(self.sources[i]) for i in self._subjects()]
        hu, locations, labels = (np.stack(part) for part in zip(*crops))
        patches = self.normalise(torch.from_numpy(hu)[:, None])
        target = torch.from_numpy(labels.astype(np.int64))[:, None].to(self.device)
        return patches, torch.from_numpy(locations).to(patches), target

    def _subjects(self) -> np.ndarray:
        count = self.config.crops_per_batch
        return self.rng.choice(len(self.sources), count, replace=count > len(self.sources))

    def _crop(self, source: ScanSource) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        volume, labels_ZYX, voxels = _labelled(self.volumes, source)
        present = [c for c in voxels if c > 0]
        on_structure = present and self.rng.random() < ON_STRUCTURE
        flat = voxels[int(self.rng.choice(present)) if on_structure else 0]
        middle = np.array(np.unravel_index(self.rng.choice(flat), volume.hu_ZYX.shape))
        size = self.config.crop
        jitter = self.rng.integers(-size // 4, size // 4 + 1, 3)
        corner = np.clip(middle + jitter - size // 2, 0, np.maximum(np.array(volume.hu_ZYX.shape) - size, 0))
        part = tuple(slice(c, c + size) for c in corner)
        hu, labels = (
            _filled(volume.hu_ZYX[part], size, volume.hu_ZYX.min()),
            _filled(labels_ZYX[part], size, 0),
        )
        return hu, volume.coordinates(self.atlas, corner[None] + (size - 1) / 2)[0], labels


def train(
    model: Segmenter,
    crops: Callable[[], tuple[Tensor, Tensor, Tensor]],
    config: SegmentationConfig,
    *,
    encoder_lr: float,
    keep_statistics: bool,
) -> list[float]:
    """Train; returns the loss of each step.

    Args:
        model: encoder and decoder.
        crops: makes the batches, as `Crops`.
        config: steps and the decoder's learning rate.
        encoder_lr: learning rate of the encoder.
        keep_statistics: leave those of the encoder's normalisation as they are; a few crops could not replace them.
    """
    from monai.losses.dice import DiceCELoss

    loss_of = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False, batch=True)
    inside = {id(p) for p in model.encoder.parameters()}
    groups: Iterable[dict[str, Any]] = (
        {"params": [p for p in model.encoder.parameters() if p.requires_grad], "lr": encoder_lr},
        {"params": [p for p in model.parameters() if id(p) not in inside], "lr": config.lr},
    )
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    losses = []
    for _ in range(config.steps):
        model.train()
        model.encoder.train(not keep_statistics)
        patches, locations, target = crops()
        loss = loss_of(model(patches, locations), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    if not keep_statistics:
        recalibrate(_ContractingPath(model.encoder), (crops()[:2] for _ in range(RECALIBRATION_BATCHES)))
    model.eval()
    return losses


def segment(
    model: Segmenter,
    volume: LungVolume,
    atlas: Atlas,
    config: SegmentationConfig,
    *,
    hu_window: tuple[int, int],
) -> np.ndarray:
    """The class of each voxel of a lung volume, uint8 [z, y, x]; 0 in windows without lung, which are not computed.

    The window slides by MONAI's inferer.

    Args:
        model: in evaluation mode.
        volume: of a scan.
        atlas: gives the windows' locations.
        config: `window` and `overlap`.
        hu_window: HU that are mapped to -1 and 1.
    """
    from monai.inferers.utils import sliding_window_inference

    device = next(model.parameters()).device
    shape, side = volume.hu_ZYX.shape, (config.window,) * 3
    # A window larger than the volume reaches beyond its upper faces.
    room = [(0, max(0, config.window - n)) for n in shape]
    hu = torch.from_numpy(np.pad(volume.hu_ZYX, room, constant_values=volume.hu_ZYX.min()))
    lungs = np.pad(volume.lungs_ZYX, room)

    def predict(windows: Tensor, coordinates: list[Any]) -> Tensor:
        out = torch.zeros(len(windows), model.classes, *side)
        out[:, 0] = 1.0
        parts = [tuple(where[-3:]) for where in coordinates]
        with_lung = [i for i, part in enumerate(parts) if lungs[part].any()]
        if not with_lung:
            return out
        # One small volume takes a CPU longer than two of them (findings/conv3d-one-volume.sh).
        rows = with_lung * 2 if len(with_lung) == 1 and device.type == "cpu" else with_lung
        centres = np.array([[s.start + (config.window - 1) / 2 for s in parts[i]] for i in rows])
        at = torch.from_numpy(volume.coordinates(atlas, centres)).to(device)
        found = model(windows[rows].to(device), at).softmax(1).cpu()
        out[with_lung] = found[: len(with_lung)]
        return out

    with torch.inference_mode():
        probability = sliding_window_inference(
            normaliser(hu_window)(hu[None, None]),
            side,
            WINDOWS,
            predict,
            overlap=config.overlap,
            mode="gaussian",
            with_coord=True,
        )
    z, y, x = shape
    return probability[0].argmax(0)[:z, :y, :x].to(torch.uint8).numpy()


def case_numbers(
    volume: LungVolume, labels_ZYX: np.ndarray, predicted_ZYX: np.ndarray, *, classes: int
) -> np.ndarray:
    """Dice, HD95 (mm) and false volume (ml) of each class, [C, 3].

    Dice and HD95 are nan where the scan has none of the class, and the false volume where it has. A structure that is
    missed altogether is as far off as can be: the diagonal of the volume.
    """
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.meandice import compute_dice

    rows = []
    diagonal_mm = float(np.linalg.norm(np.array(labels_ZYX.shape) * volume.spacing_mm))
    for c in range(1, classes + 1):
        true, called = labels_ZYX == c, predicted_ZYX == c
        if not true.any():
            rows.append((np.nan, np.nan, called.sum() * volume.voxel_ml))
            continue
        box = _bounds(true | called)
        a, b = (torch.from_numpy(x[box].copy())[None, None].float() for x in (called, true))
        dice = float(compute_dice(a, b))
        hd95 = diagonal_mm
        if called.any():
            hd95 = float(
                compute_hausdorff_distance(
                    a, b, include_background=True, percentile=95, spacing=volume.spacing_mm
                )
            )
        rows.append((dice, hd95, np.nan))
    return np.array(rows, float)


class _ContractingPath(torch.nn.Module):
    """An encoder that is called for its maps, on crops of any size."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, patches: Tensor, locations: Tensor) -> Tensor:
        return self.encoder.maps(patches, locations)[-1]


def _labels_key(volumes: LabelledVolumes, source: ScanSource) -> tuple[str, ...]:
    return volumes.workspace.uri, *source.labels_path(volumes.map_of(source))


@cached(LRUCache(CACHE_BYTES, getsizeof=lambda found: found[0].hu_ZYX.nbytes * 2), key=_labels_key)
def _labelled(
    volumes: LabelledVolumes, source: ScanSource
) -> tuple[LungVolume, np.ndarray, dict[int, np.ndarray]]:
    """A lung volume, its labels and the flat indices of voxels of each class (0: the lungs).

    Read once a process while they fit in CACHE_BYTES.
    """
    volume, labels_ZYX = volumes.volume(source), volumes.labels(source)
    voxels = {0: _some(np.flatnonzero(volume.lungs_ZYX))}
    voxels |= {int(c): _some(np.flatnonzero(labels_ZYX == c)) for c in np.unique(labels_ZYX) if c > 0}
    return volume, labels_ZYX, voxels


def _some(flat: np.ndarray, most: int = 50_000) -> np.ndarray:
    """`most` evenly spread voxels: enough to centre crops on, in little memory."""
    return flat[:: max(1, len(flat) // most)].copy()


def _filled(values: np.ndarray, size: int, fill: int) -> np.ndarray:
    """A crop that reaches beyond a small volume's faces, filled up to its size."""
    return np.pad(values, [(0, size - n) for n in values.shape], constant_values=fill)


def _bounds(mask_ZYX: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds a mask, one voxel of background around it where there is one."""
    bounds = []
    for axis in range(3):
        present = np.flatnonzero(mask_ZYX.any(axis=tuple({0, 1, 2} - {axis})))
        bounds.append(slice(max(present[0] - 1, 0), present[-1] + 2))
    return tuple(bounds)
