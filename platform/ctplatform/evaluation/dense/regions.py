"""Trials of dense prediction: a classifier of windows, frozen features or trained end to end, painted over the lungs.

Legend: M windows, C classes, P features, B a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from cachetools import LRUCache, cached
from torch import Tensor, nn

from ctplatform.dataset.atlas import read_atlas
from ctplatform.evaluation.cells import Cell
from ctplatform.evaluation.dense.features import encode
from ctplatform.evaluation.dense.head import WindowHead, best_prior, log_frequency, softmax
from ctplatform.evaluation.dense.sources import ScanSource
from ctplatform.evaluation.dense.tiles import LabelledTiles, training_rows
from ctplatform.evaluation.dense.volumes import LabelledVolumes
from ctplatform.evaluation.dense.windows import cut, normaliser
from ctplatform.evaluation.initialisations import FINETUNE
from ctplatform.evaluation.models import Training
from drasclr.encoder import FEATURES, PATCH_SIZE, Encoder
from drasclr.norm import recalibrate

CACHE_BYTES = 1 << 30
SUBJECTS_PER_STEP = 4
RECALIBRATION_BATCHES = 8
CHECKED = 64
"""Windows a training subject on which the offset of an end-to-end model is chosen."""

#: A test subject's scan -> its tiles and the classes' probabilities [M, C] in them.
Predict = Callable[[ScanSource], tuple[LabelledTiles, np.ndarray]]


@dataclass(frozen=True)
class TrainingWindows:
    """A training subject's windows.

    Attributes:
        hu_MDHW: int16.
        locations_M3: for the conditioned encoder, float32.
        class_M: 0 to C - 1.
        weight_M: how many windows of its class each stands for.
    """

    hu_MDHW: np.ndarray
    locations_M3: np.ndarray
    class_M: np.ndarray
    weight_M: np.ndarray

    def take(self, rows: np.ndarray) -> TrainingWindows:
        """Some of the windows."""
        return TrainingWindows(
            self.hu_MDHW[rows], self.locations_M3[rows], self.class_M[rows], self.weight_M[rows]
        )


def predictor_of_network(volumes: LabelledVolumes, network: WindowNetwork, training: Training) -> Predict:
    """The prediction of a test subject's scan by a trained network."""
    atlas, hu_window = read_atlas(volumes.workspace), training.encoders.hu_window

    def predict(source: ScanSource) -> tuple[LabelledTiles, np.ndarray]:
        tiles = volumes.tiles(source)
        x_MP = encode(network.encoder, volumes.volume(source), tiles.windows, atlas, hu_window=hu_window)
        return tiles, softmax(network.scores(x_MP))

    return predict


def predictor_of_head(volumes: LabelledVolumes, cell: Cell, rows: np.ndarray) -> Predict:
    """The prediction of a test subject's scan by a head on frozen features of some training subjects."""
    head = fit_head(volumes, rows, cell.initialisation, seed=cell.seed)

    def predict(source: ScanSource) -> tuple[LabelledTiles, np.ndarray]:
        _, x_MP = volumes.features(source, cell.initialisation)
        return volumes.tiles(source), head.predict(x_MP)

    return predict


def fit_head(volumes: LabelledVolumes, rows: np.ndarray, initialisation: str, *, seed: int) -> WindowHead:
    """The head on frozen features of some training subjects."""
    x, classes, weights, subjects = [], [], [], []
    for row in rows:
        source = volumes.train[row]
        tiles = volumes.tiles(source)
        rows_M, x_MP = volumes.features(source, initialisation)
        drawn_M, weight_M = training_rows(
            tiles, count=volumes.config.dense.train_windows, scan_id=source.scan_id
        )
        assert np.array_equal(rows_M, drawn_M)
        x.append(x_MP)
        classes.append(tiles.classes_M[rows_M])
        weights.append(weight_M)
        subjects.append(np.full(len(rows_M), row))
    head = WindowHead(volumes.classes)
    return head.fit(*map(np.concatenate, (x, classes, weights, subjects)), seed=seed)


def read_training_windows(volumes: LabelledVolumes, source: ScanSource) -> TrainingWindows:
    """The windows of a scan that are learned from."""
    tiles, volume = volumes.tiles(source), volumes.volume(source)
    rows_M, weight_M = training_rows(tiles, count=volumes.config.dense.train_windows, scan_id=source.scan_id)
    windows = tiles.windows.take(rows_M)
    empty_MDHW = np.empty((0, *(PATCH_SIZE,) * 3), np.int16)
    return TrainingWindows(
        cut(volume.hu_ZYX, windows.corners_M3) if len(windows) else empty_MDHW,
        volume.coordinates(read_atlas(volumes.workspace), windows.centres_M3),
        tiles.classes_M[rows_M],
        weight_M,
    )


@dataclass(frozen=True)
class WindowNetwork:
    """A network that was trained on windows.

    Attributes:
        encoder: in evaluation mode.
        head: of its features.
        offset_C: float64, added to the head's scores, which are those of equally frequent classes.
    """

    encoder: Encoder
    head: nn.Linear
    offset_C: np.ndarray

    @torch.no_grad()
    def scores(self, x_MP: np.ndarray) -> np.ndarray:
        """Scores of windows from the encoder's features, float64 [M, C]."""
        score_MC = self.head(torch.from_numpy(x_MP).to(self.head.weight)).double().cpu().numpy()
        return np.asarray(score_MC + self.offset_C)

    def linear(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights [C, P] and bias [C] of the scores, float64."""
        weights_CP, bias_C = (p.detach().double().cpu().numpy() for p in (self.head.weight, self.head.bias))
        return weights_CP, bias_C + self.offset_C


def train_network(
    volumes: LabelledVolumes, cell: Cell, rows: np.ndarray, training: Training
) -> WindowNetwork:
    """All weights are trained on windows with as many of each class; the classes' frequencies come back afterwards.

    From pretrained weights the head starts at the frozen probe, so that without a step the scores are the probe's, and
    normalisation keeps the pretrained statistics.
    """
    torch.set_num_threads(training.threads)
    torch.manual_seed(cell.seed)
    rng = np.random.default_rng(cell.seed)
    pretrained = cell.initialisation == FINETUNE
    settings, hu_window = training.config(cell.initialisation), training.encoders.hu_window
    encoder = training.encoders.initial(cell.initialisation)
    head = nn.Linear(FEATURES, volumes.classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    scans = [_training_windows(volumes, volumes.train[row]) for row in rows]
    scans = [windows for windows in scans if len(windows.class_M)]
    class_M = np.concatenate([w.class_M for w in scans])
    frequency_C = log_frequency(class_M, np.concatenate([w.weight_M for w in scans]), volumes.classes)
    normalise = normaliser(hu_window, training.device)
    encoder, head = encoder.to(training.device), head.to(training.device)
    if pretrained:
        start_at_probe(encoder, head, scans, normalise, frequency_C, seed=cell.seed)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    steps = training.steps(len(volumes.train))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    batch = volumes.config.dense.batch

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        chosen = rng.choice(len(scans), min(SUBJECTS_PER_STEP, len(scans)), replace=False)
        drawn = [_draw(scans[i], -(-batch // len(chosen)), rng) for i in chosen]
        patches = normalise(torch.from_numpy(np.concatenate([w.hu_MDHW for w in drawn]))[:, None])
        locations = torch.from_numpy(np.concatenate([w.locations_M3 for w in drawn])).to(patches)
        target = torch.from_numpy(np.concatenate([w.class_M for w in drawn])).to(training.device)
        return patches, locations, target

    for _ in range(steps):
        encoder.train(not pretrained)
        patches, locations, target = draw()
        loss = nn.functional.cross_entropy(head(encoder(patches, locations)), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    if not pretrained:
        recalibrate(encoder, (draw()[:2] for _ in range(min(RECALIBRATION_BATCHES, max(steps, 1)))))
    encoder.eval()
    checked = [w.take(rng.permutation(len(w.class_M))[:CHECKED]) for w in scans]
    score_MC = np.concatenate([_scores(encoder, head, w, normalise) for w in checked]) + frequency_C
    checked_class_M, checked_weight_M = (
        np.concatenate([getattr(w, name) for w in checked]) for name in ("class_M", "weight_M")
    )
    prior, _ = best_prior(score_MC, checked_class_M, checked_weight_M, frequency_C)
    return WindowNetwork(encoder, head, (1 - prior) * frequency_C)


def start_at_probe(
    encoder: Encoder,
    head: nn.Linear,
    scans: list[TrainingWindows],
    normalise: Callable[[Tensor], Tensor],
    frequency_C: np.ndarray,
    *,
    seed: int,
) -> None:
    """Set the head to the frozen probe on these windows, at equal frequencies of the classes."""
    encoder.eval()
    x_MP = np.concatenate([features_of(encoder, w, normalise) for w in scans]).astype(float)
    class_M, weight_M = (np.concatenate([getattr(w, n) for w in scans]) for n in ("class_M", "weight_M"))
    subject_M = np.concatenate([np.full(len(w.class_M), i) for i, w in enumerate(scans)])
    probe = WindowHead(head.out_features).fit(x_MP, class_M, weight_M, subject_M, seed=seed)
    weights_CP, bias_C = probe.linear()
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weights_CP))
        head.bias.copy_(torch.from_numpy(bias_C - frequency_C))  # trained on equal shares of the classes


@torch.no_grad()
def features_of(
    encoder: Encoder, windows: TrainingWindows, normalise: Callable[[Tensor], Tensor]
) -> np.ndarray:
    """Features of training windows, float32 [M, P]."""
    hu_MDHW, locations_M3 = torch.from_numpy(windows.hu_MDHW), torch.from_numpy(windows.locations_M3)
    parts = []
    for hu, at in zip(hu_MDHW.split(64), locations_M3.split(64)):
        patches = normalise(hu[:, None])
        parts.append(encoder(patches, at.to(patches)).cpu().numpy())
    return np.concatenate(parts)


def _windows_key(volumes: LabelledVolumes, source: ScanSource) -> tuple[str, ...]:
    dense = volumes.config.dense
    settings = f"{dense.stride}-{dense.train_windows}"
    return volumes.workspace.uri, *source.features_path(settings, volumes.map_of(source))


@cached(LRUCache(CACHE_BYTES, getsizeof=lambda windows: windows.hu_MDHW.nbytes), key=_windows_key)
def _training_windows(volumes: LabelledVolumes, source: ScanSource) -> TrainingWindows:
    """Read once a process while they fit in CACHE_BYTES."""
    return read_training_windows(volumes, source)


def _draw(windows: TrainingWindows, count: int, rng: np.random.Generator) -> TrainingWindows:
    """Windows of a subject, each of its classes as likely as the others."""
    _, place_M, size_C = np.unique(windows.class_M, return_inverse=True, return_counts=True)
    chance_M = 1 / (size_C[place_M] * len(size_C))
    return windows.take(rng.choice(len(place_M), count, p=chance_M))


@torch.no_grad()
def _scores(
    encoder: Encoder, head: nn.Linear, windows: TrainingWindows, normalise: Callable[[Tensor], Tensor]
) -> np.ndarray:
    x_MP = torch.from_numpy(features_of(encoder, windows, normalise)).to(head.weight)
    return np.asarray(head(x_MP).double().cpu().numpy())
