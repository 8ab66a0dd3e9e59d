"""Trials of dense prediction: a classifier of windows, frozen features or trained end to end, painted over the lungs.

Legend: M windows, C classes, P features, B a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from cachetools import LRUCache, cached
from torch import Tensor, nn

from ctplatform.evaluation.dense import lung_volume as cubes
from ctplatform.evaluation.dense.features import (
    Cells,
    ScanSource,
    encode,
    read_cells,
    read_features,
    training_rows,
)
from ctplatform.evaluation.dense.head import WindowHead, best_prior, log_frequency, softmax
from ctplatform.evaluation.dense.windows import cut, normaliser
from drasclr.encoder import FEATURES, Encoder
from drasclr.norm import recalibrate

if TYPE_CHECKING:
    from ctplatform.evaluation.cells import Cell, Shared
    from ctplatform.evaluation.dense.problem import VolumeProblem

CACHE_BYTES = 1 << 30
SUBJECTS_PER_STEP = 4
RECALIBRATION_BATCHES = 8
CHECKED = 64
"""Windows a training subject on which the offset of an end-to-end model is chosen."""

#: (number of the test subject) -> its cells and the classes' probabilities [M, C] in them.
Predict = Callable[[int], tuple[Cells, np.ndarray]]


class TrainingWindows:
    """A training subject's windows: hu_MDHW int16, locations_M3, class_M and weight_M."""

    def __init__(self, shared: Shared, problem: VolumeProblem, source: ScanSource) -> None:
        from ctplatform.dataset.atlas import read_atlas

        cells = problem_cells(shared, problem, source)
        recipe = problem.parsed
        rows_M, self.weight_M = training_rows(
            cells, count=recipe.sweep.dense.train_windows, scan_id=source.scan_id
        )
        windows, self.class_M = cells.windows.take(rows_M), cells.classes_M[rows_M]
        cube = cubes.read_cube(shared.workspace, *source.cube)
        self.hu_MDHW = (
            cut(cube.hu_ZYX, windows.corners_M3) if len(windows) else np.empty((0, 32, 32, 32), np.int16)
        )
        self.locations_M3 = cube.coordinates(read_atlas(shared.workspace), windows.centres_M3)


def predictor(shared: Shared, cell: Cell, problem: VolumeProblem, rows: np.ndarray) -> Predict:
    """Fit on the label maps of some training subjects; what comes back predicts the test subjects."""
    from ctplatform.evaluation.initialisations import END_TO_END

    if cell.initialisation in END_TO_END:
        return _end_to_end(shared, cell, problem, rows)
    head = fit_head(shared, problem, rows, cell.initialisation, seed=cell.seed)

    def predict(number: int) -> tuple[Cells, np.ndarray]:
        source = problem.test_sources[number]
        cells = problem_cells(shared, problem, source)
        key = problem.keys[cell.initialisation]
        _, x_MP = read_features(shared.workspace, source, problem.map_of(source), key)
        return cells, head.predict(x_MP)

    return predict


def fit_head(shared: Shared, problem: VolumeProblem, rows: np.ndarray, name: str, *, seed: int) -> WindowHead:
    """The head on frozen features of some training subjects."""
    x, classes, weights, subjects = [], [], [], []
    for row in rows:
        source = problem.train_sources[row]
        cells = problem_cells(shared, problem, source)
        rows_M, x_MP = read_features(shared.workspace, source, problem.map_of(source), problem.keys[name])
        drawn_M, weight_M = training_rows(
            cells, count=problem.parsed.sweep.dense.train_windows, scan_id=source.scan_id
        )
        assert np.array_equal(rows_M, drawn_M)
        x.append(x_MP)
        classes.append(cells.classes_M[rows_M])
        weights.append(weight_M)
        subjects.append(np.full(len(rows_M), row))
    head = WindowHead(problem.train.value_N.shape[1])
    return head.fit(*map(np.concatenate, (x, classes, weights, subjects)), seed=seed)


def problem_cells(shared: Shared, problem: VolumeProblem, source: ScanSource) -> Cells:
    """A labelled scan's windows and classes."""
    return read_cells(
        shared.workspace, *source.cells(problem.map_of(source), problem.parsed.sweep.dense.stride)
    )


def _end_to_end(shared: Shared, cell: Cell, problem: VolumeProblem, rows: np.ndarray) -> Predict:
    """All weights are trained on windows with as many of each class; the classes' frequencies come back afterwards.

    From pretrained weights the head starts at the frozen probe, so that without a step the scores are the probe's, and
    normalisation keeps the pretrained statistics.
    """
    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.evaluation.cells import training_steps
    from ctplatform.evaluation.initialisations import FINETUNE
    from ctplatform.evaluation.models import pretrained_of

    torch.set_num_threads(shared.threads)
    torch.manual_seed(cell.seed)
    classes = problem.train.value_N.shape[1]
    rng = np.random.default_rng(cell.seed)
    tuned = cell.initialisation == FINETUNE
    settings = shared.finetune if tuned else shared.scratch
    encoder = copy.deepcopy(pretrained_of(shared)) if tuned else Encoder(**shared.encoder.model_dump())
    head = nn.Linear(FEATURES, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    everything = [_training_windows(shared, problem, problem.train_sources[row]) for row in rows]
    everything = [w for w in everything if len(w.class_M)]
    class_M = np.concatenate([w.class_M for w in everything])
    frequency_C = log_frequency(class_M, np.concatenate([w.weight_M for w in everything]), classes)
    normalise = normaliser(shared.hu_window, shared.device)
    encoder, head = encoder.to(shared.device), head.to(shared.device)
    if tuned:
        _start_at_probe(encoder, head, everything, normalise, frequency_C, seed=cell.seed)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
    steps = training_steps(shared.scratch, len(problem.train))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    batch = problem.parsed.sweep.dense.batch

    def draw() -> tuple[Tensor, Tensor, Tensor]:
        chosen = rng.choice(len(everything), min(SUBJECTS_PER_STEP, len(everything)), replace=False)
        drawn = [_draw(everything[i], -(-batch // len(chosen)), rng) for i in chosen]
        hu, locations, target = (np.concatenate(part) for part in zip(*drawn))
        patches = normalise(torch.from_numpy(hu)[:, None])
        return patches, torch.from_numpy(locations).to(patches), torch.from_numpy(target).to(shared.device)

    for _ in range(steps):
        encoder.train(not tuned)
        patches, locations, target = draw()
        loss = nn.functional.cross_entropy(head(encoder(patches, locations)), target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    if not tuned:
        recalibrate(encoder, (draw()[:2] for _ in range(min(RECALIBRATION_BATCHES, max(steps, 1)))))
    encoder.eval()
    checked = [_few(w, rng) for w in everything]
    score_MC = (
        np.concatenate([_scores(encoder, head, hu, at, normalise) for hu, at, _, _ in checked]) + frequency_C
    )
    prior, _ = best_prior(
        score_MC,
        np.concatenate([c for *_, c, _ in checked]),
        np.concatenate([w for *_, w in checked]),
        frequency_C,
    )
    atlas = read_atlas(shared.workspace)

    def predict(number: int) -> tuple[Cells, np.ndarray]:
        source = problem.test_sources[number]
        cells = problem_cells(shared, problem, source)
        cube = cubes.read_cube(shared.workspace, *source.cube)
        x_MP = encode(encoder, cube, cells.windows, atlas, hu_window=shared.hu_window)
        with torch.no_grad():
            score_MC = head(torch.from_numpy(x_MP).to(shared.device)).double().cpu().numpy()
        return cells, softmax(score_MC + (1 - prior) * frequency_C)

    return predict


def _start_at_probe(
    encoder: Encoder,
    head: nn.Linear,
    everything: list[TrainingWindows],
    normalise: Callable[[Tensor], Tensor],
    frequency_C: np.ndarray,
    *,
    seed: int,
) -> None:
    encoder.eval()
    with torch.no_grad():
        x = [_features(encoder, w.hu_MDHW, w.locations_M3, normalise) for w in everything]
    owners = [np.full(len(w.class_M), i) for i, w in enumerate(everything)]
    parts = [[w.class_M for w in everything], [w.weight_M for w in everything], owners]
    probe = WindowHead(head.out_features)
    probe.fit(np.concatenate(x).astype(float), *map(np.concatenate, parts), seed=seed)
    weights_CP, bias_C = probe.linear()
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weights_CP))
        head.bias.copy_(torch.from_numpy(bias_C - frequency_C))  # trained on equal shares of the classes


def _windows_key(shared: Shared, problem: VolumeProblem, source: ScanSource) -> tuple[str, ...]:
    return shared.workspace.uri, *source.features(problem.settings, problem.map_of(source))


@cached(LRUCache(CACHE_BYTES, getsizeof=lambda windows: windows.hu_MDHW.nbytes), key=_windows_key)
def _training_windows(shared: Shared, problem: VolumeProblem, source: ScanSource) -> TrainingWindows:
    """Read once a process while they fit in CACHE_BYTES."""
    return TrainingWindows(shared, problem, source)


def _draw(
    windows: TrainingWindows, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows of a subject, each of its classes as likely as the others."""
    _, place_M, size_C = np.unique(windows.class_M, return_inverse=True, return_counts=True)
    chance_M = 1 / (size_C[place_M] * len(size_C))
    rows = rng.choice(len(place_M), count, p=chance_M)
    return windows.hu_MDHW[rows], windows.locations_M3[rows], windows.class_M[rows]


def _few(
    windows: TrainingWindows, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rows = rng.permutation(len(windows.class_M))[:CHECKED]
    return windows.hu_MDHW[rows], windows.locations_M3[rows], windows.class_M[rows], windows.weight_M[rows]


@torch.no_grad()
def _features(
    encoder: Encoder, hu_MDHW: np.ndarray, locations_M3: np.ndarray, normalise: Callable[[Tensor], Tensor]
) -> np.ndarray:
    parts = []
    for hu, at in zip(torch.from_numpy(hu_MDHW).split(64), torch.from_numpy(locations_M3).split(64)):
        patches = normalise(hu[:, None])
        parts.append(encoder(patches, at.to(patches)).cpu().numpy())
    return np.concatenate(parts)


@torch.no_grad()
def _scores(
    encoder: Encoder,
    head: nn.Linear,
    hu_MDHW: np.ndarray,
    locations_M3: np.ndarray,
    normalise: Callable[[Tensor], Tensor],
) -> np.ndarray:
    x_MP = torch.from_numpy(_features(encoder, hu_MDHW, locations_M3, normalise)).to(head.weight)
    return head(x_MP).double().cpu().numpy()
