"""Trials of segmentation: the encoder as the contracting path of a U-Net, pretrained or from random weights.

Both starts get the same decoder, crops, steps and loss; what differs are the encoder's weights. MONAI has the loss
(Dice and cross-entropy), the sliding-window inference and the metrics.

Legend: B crops, C classes (the background is number 0), DHW space, ZYX voxels of a cube.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from cachetools import LRUCache, cached
from torch import Tensor

from ctplatform.evaluation.dense import lung_volume as cubes
from ctplatform.evaluation.dense.features import ScanSource
from ctplatform.evaluation.dense.windows import normaliser
from drasclr.encoder import Encoder
from drasclr.heads import Segmenter
from drasclr.norm import recalibrate

if TYPE_CHECKING:
    from ctplatform.config.evaluation import SegmentationConfig
    from ctplatform.evaluation.cells import Cell, Shared
    from ctplatform.evaluation.dense.problem import VolumeProblem
    from drasclr.atlas import Atlas

CACHE_BYTES = 3 << 29
ON_STRUCTURE = 0.5
"""Of the crops: centred on a voxel of a class that the scan has; the others on any voxel of lung."""
GRADIENT_NORM = 1.0


def predictor(
    shared: Shared, cell: Cell, problem: VolumeProblem, rows: np.ndarray
) -> Callable[[int], tuple[cubes.Cube, np.ndarray, np.ndarray]]:
    """Train on some training subjects; what comes back gives a test subject's cube, label map and predicted map."""
    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.evaluation.initialisations import FINETUNE
    from ctplatform.evaluation.models import pretrained_of

    torch.set_num_threads(shared.threads)
    torch.manual_seed(cell.seed)
    config, tuned = problem.parsed.sweep.segmentation, cell.initialisation == FINETUNE
    encoder = copy.deepcopy(pretrained_of(shared)) if tuned else Encoder(**shared.encoder.model_dump())
    encoder.head.requires_grad_(False)  # the projection is for the contrastive losses only
    model = Segmenter(encoder, classes=problem.train.value_N.shape[1] + 1).to(shared.device)
    atlas = read_atlas(shared.workspace)
    train(
        model,
        Crops(shared, problem, [problem.train_sources[row] for row in rows], atlas, seed=cell.seed),
        config,
        encoder_lr=config.encoder_lr if tuned else config.lr,
        keep_statistics=tuned,
    )

    def predict(number: int) -> tuple[cubes.Cube, np.ndarray, np.ndarray]:
        source = problem.test_sources[number]
        cube = cubes.read_cube(shared.workspace, *source.cube)
        labels_ZYX = cubes.read_labels(shared.workspace, *source.labels(problem.map_of(source)))
        return cube, labels_ZYX, segment(model, cube, atlas, config, hu_window=shared.hu_window)

    return predict


class Crops:
    """Endless random crops of labelled cubes: patches [B, 1, D, H, W], locations [B, 3], labels [B, 1, D, H, W]."""

    def __init__(
        self, shared: Shared, problem: VolumeProblem, sources: list[ScanSource], atlas: Atlas, *, seed: int
    ) -> None:
        self.shared, self.problem, self.sources, self.atlas = shared, problem, sources, atlas
        self.config = problem.parsed.sweep.segmentation
        self.normalise = normaliser(shared.hu_window, shared.device)
        self.rng = np.random.default_rng(seed)

    def __call__(self) -> tuple[Tensor, Tensor, Tensor]:
        """One batch."""
        crops = [self._crop(self.sources[i]) for i in self._subjects()]
        hu, locations, labels = (np.stack(part) for part in zip(*crops))
        patches = self.normalise(torch.from_numpy(hu)[:, None])
        target = torch.from_numpy(labels.astype(np.int64))[:, None].to(self.shared.device)
        return patches, torch.from_numpy(locations).to(patches), target

    def _subjects(self) -> np.ndarray:
        count = self.config.crops_per_batch
        return self.rng.choice(len(self.sources), count, replace=count > len(self.sources))

    def _crop(self, source: ScanSource) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        cube, labels_ZYX, voxels = _labelled(self.shared, self.problem, source)
        present = [c for c in voxels if c > 0]
        on_it = present and self.rng.random() < ON_STRUCTURE
        flat = voxels[int(self.rng.choice(present)) if on_it else 0]
        middle = np.array(np.unravel_index(self.rng.choice(flat), cube.hu_ZYX.shape))
        size = self.config.crop
        jitter = self.rng.integers(-size // 4, size // 4 + 1, 3)
        corner = np.clip(middle + jitter - size // 2, 0, np.maximum(np.array(cube.hu_ZYX.shape) - size, 0))
        part = tuple(slice(c, c + size) for c in corner)
        hu, labels = _filled(cube.hu_ZYX[part], size, cube.hu_ZYX.min()), _filled(labels_ZYX[part], size, 0)
        return hu, cube.coordinates(self.atlas, corner[None] + (size - 1) / 2)[0], labels


def train(
    model: Segmenter,
    crops: Callable[[], tuple[Tensor, Tensor, Tensor]],
    config: SegmentationConfig,
    *,
    encoder_lr: float,
    keep_statistics: bool,
) -> list[float]:
    """Train; returns the losses.

    Args:
        keep_statistics: of the encoder's normalisation, which a handful of crops could not replace.
    """
    from monai.losses import DiceCELoss

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
        recalibrate(_Contracting(model.encoder), (crops()[:2] for _ in range(8)))
    model.eval()
    return losses


def segment(
    model: Segmenter,
    cube: cubes.Cube,
    atlas: Atlas,
    config: SegmentationConfig,
    *,
    hu_window: tuple[int, int],
) -> np.ndarray:
    """The class of each voxel of a cube, uint8 [z, y, x]; 0 outside the lungs' surroundings.

    MONAI slides the window; windows without lung are not computed and count as background.
    """
    from monai.inferers import sliding_window_inference

    device = next(model.parameters()).device
    shape, side = cube.hu_ZYX.shape, (config.window,) * 3
    room = [
        (0, max(0, config.window - n)) for n in shape
    ]  # a window larger than the cube reaches over its upper faces
    hu = torch.from_numpy(np.pad(cube.hu_ZYX, room, constant_values=cube.hu_ZYX.min()))
    lungs = np.pad(cube.lungs_ZYX, room)

    def predict(windows: Tensor, coordinates: list) -> Tensor:
        out = torch.zeros(len(windows), model.classes, *side)
        out[:, 0] = 1.0
        for i, (window, where) in enumerate(zip(windows, coordinates)):
            part = tuple(where[-3:])
            if lungs[part].any():
                centre = np.array([[s.start + (config.window - 1) / 2 for s in part]])
                at = torch.from_numpy(cube.coordinates(atlas, centre)).to(device)
                out[i] = model(window[None].to(device), at)[0].softmax(0).cpu()
        return out

    with torch.inference_mode():
        probability = sliding_window_inference(
            normaliser(hu_window)(hu[None, None]),
            side,
            1,
            predict,
            overlap=config.overlap,
            mode="gaussian",
            with_coord=True,
        )
    z, y, x = shape
    return probability[0].argmax(0)[:z, :y, :x].to(torch.uint8).numpy()


def case_numbers(
    cube: cubes.Cube, labels_ZYX: np.ndarray, predicted_ZYX: np.ndarray, *, classes: int
) -> np.ndarray:
    """Dice, HD95 (mm) and false volume (ml) of each class, [C, 3].

    Dice and HD95 are nan where the scan has none of the class, and the false volume where it has. A structure that is
    missed altogether is as far off as can be: the diagonal of the cube.
    """
    from monai.metrics import compute_dice, compute_hausdorff_distance

    rows = []
    diagonal_mm = float(np.linalg.norm(np.array(labels_ZYX.shape) * cube.spacing_mm))
    for c in range(1, classes + 1):
        true, called = labels_ZYX == c, predicted_ZYX == c
        if not true.any():
            rows.append((np.nan, np.nan, called.sum() * cube.voxel_ml))
            continue
        box = _bounds(true | called)
        a, b = (torch.from_numpy(x[box].copy())[None, None].float() for x in (called, true))
        dice = float(compute_dice(a, b))
        hd95 = diagonal_mm
        if called.any():
            hd95 = float(
                compute_hausdorff_distance(
                    a, b, include_background=True, percentile=95, spacing=cube.spacing_mm
                )
            )
        rows.append((dice, hd95, np.nan))
    return np.array(rows, float)


class _Contracting(torch.nn.Module):
    """An encoder that is called for its maps, on crops of any size."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, patches: Tensor, locations: Tensor) -> Tensor:
        return self.encoder.maps(patches, locations)[-1]


def _labels_key(shared: Shared, problem: VolumeProblem, source: ScanSource) -> tuple[str, ...]:
    return shared.workspace.uri, *source.labels(problem.map_of(source))


@cached(LRUCache(CACHE_BYTES, getsizeof=lambda found: found[0].hu_ZYX.nbytes * 2), key=_labels_key)
def _labelled(
    shared: Shared, problem: VolumeProblem, source: ScanSource
) -> tuple[cubes.Cube, np.ndarray, dict[int, np.ndarray]]:
    """A cube, its labels and the flat voxels of each class (0: the lungs); read once while they fit in CACHE_BYTES."""
    cube = cubes.read_cube(shared.workspace, *source.cube)
    labels_ZYX = cubes.read_labels(shared.workspace, *source.labels(problem.map_of(source)))
    voxels = {0: _some(np.flatnonzero(cube.lungs_ZYX))}
    voxels |= {int(c): _some(np.flatnonzero(labels_ZYX == c)) for c in np.unique(labels_ZYX) if c > 0}
    return cube, labels_ZYX, voxels


def _some(flat: np.ndarray, most: int = 50_000) -> np.ndarray:
    """Evenly spread voxels: enough to centre crops on, little to keep."""
    return flat[:: max(1, len(flat) // most)].copy()


def _filled(values: np.ndarray, size: int, fill: int) -> np.ndarray:
    """A crop that reaches over a small cube's faces, filled up to its size."""
    return np.pad(values, [(0, size - n) for n in values.shape], constant_values=fill)


def _bounds(mask_ZYX: np.ndarray) -> tuple[slice, ...]:
    """The smallest box that holds a mask, one voxel of background around it where there is one."""
    bounds = []
    for axis in range(3):
        present = np.flatnonzero(mask_ZYX.any(axis=tuple({0, 1, 2} - {axis})))
        bounds.append(slice(max(present[0] - 1, 0), present[-1] + 2))
    return tuple(bounds)
