"""Models of label maps that are kept after a sweep: classifiers of windows, and segmentation networks.

Each is fitted on all training subjects. The score that chooses among them is of a fifth of the training subjects, the
same for all, by a model that was fitted on the others: the Dice of windows, or of structures.

Legend: M windows, C classes, P features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctplatform.config.recipe import Recipe
from ctplatform.errors import StageError
from ctplatform.evaluation.context import SweepContext
from ctplatform.evaluation.dense.head import mean_dice
from ctplatform.evaluation.dense.problem import VolumeProblem
from ctplatform.evaluation.dense.tiles import training_rows
from ctplatform.evaluation.dense.volumes import LabelledVolumes
from ctplatform.evaluation.initialisations import FINETUNE
from ctplatform.evaluation.kept_candidate import Candidate, Outcome, finite
from ctplatform.evaluation.trained_network import SEED, network_features
from ctplatform.inference.model_folder import LABEL_MAP, model_files
from ctplatform.metrics.scores import Targets
from ctplatform.metrics.stratification import folds
from ctplatform.tasks.task import Task

FOLDS = 5  # one of which validates


@dataclass(frozen=True, eq=False)
class MapCandidate(Candidate):
    """What the models of label maps have in common."""

    @property
    def volumes(self) -> LabelledVolumes:
        """The task's labelled scans."""
        assert isinstance(self.problem, VolumeProblem)
        return self.problem.volumes

    @property
    def higher_is_better(self) -> bool:
        """Of Dice."""
        return True

    def digest(self) -> str:
        """Of all that the trial with all labels depends on."""
        return self.context.fingerprint(self.cell)

    def card(self) -> dict[str, Any]:
        """With the classes and their values in label maps."""
        card = super().card()
        classes = self.volumes.map_of(self.volumes.train[0]).classes
        return {**card, "task": {**card["task"], "kind": self.task.kind, "classes": dict(classes)}}

    def trained_on(self) -> dict[str, Any]:
        """Subjects, and voxels of 1 mm of each class."""
        voxels_C = self.problem.train.value_N.sum(0)
        classes = self.volumes.task.classes
        return {
            "subjects": len(self.problem.train),
            "voxels": {name: int(count) for name, count in zip(classes, voxels_C)},
        }

    def validated(self, score: Callable[[np.ndarray, np.ndarray], float]) -> dict[str, Any]:
        """`Outcome.validation`; `score` takes the rows to fit on, and those to validate."""
        parts = validation_part(self.task, self.problem.train)
        value = None if parts is None else score(*parts)
        return {
            "metric": "dice",
            "value": finite(value),
            "subjects": 0 if parts is None else len(parts[1]),
            "folds": 1,
        }


@dataclass(frozen=True, eq=False)
class WindowHeadCandidate(MapCandidate):
    """A classifier of windows on frozen features."""

    def fit(self) -> Outcome | str:
        """Fit on the windows of all training subjects."""
        from ctplatform.evaluation.dense.regions import fit_head

        volumes = self.volumes

        def score(inside: np.ndarray, outside: np.ndarray) -> float:
            head = fit_head(volumes, inside, self.initialisation, seed=SEED)
            called, true, weights = [], [], []
            for row in outside:
                source = volumes.train[row]
                tiles = volumes.tiles(source)
                rows_M, x_MP = volumes.features(source, self.initialisation)
                _, weight_M = training_rows(
                    tiles, count=volumes.config.dense.train_windows, scan_id=source.scan_id
                )
                called.append(head.predict(x_MP).argmax(1))
                true.append(tiles.classes_M[rows_M])
                weights.append(weight_M)
            called_M, true_M, weight_M = map(np.concatenate, (called, true, weights))
            return mean_dice(called_M, true_M, weight_M, volumes.classes)

        head = fit_head(volumes, np.arange(len(volumes.train)), self.initialisation, seed=SEED)
        weights_CP, bias_C = head.linear()
        bias_C = bias_C - head.prior_ * head.log_frequency_C
        features = {k: v for k, v in self.features.items() if k not in ("statistics_sha256", "pooling")}
        if features["encoder"] != "density":
            features["layer"] = "last"
        features |= {"width": weights_CP.shape[1], "stride": volumes.config.dense.stride}
        return Outcome(
            files=lambda card: model_files(LABEL_MAP, card, {"weights_CP": weights_CP, "bias_C": bias_C}),
            validation=self.validated(score),
            card={"features": features, "calibration": None},
        )


@dataclass(frozen=True, eq=False)
class WindowNetworkCandidate(MapCandidate):
    """A fine-tuned classifier of windows."""

    trains_a_network = True

    def fit(self) -> Outcome | str:
        """The network of the trial with all labels; another one, without a fifth of the subjects, validates."""
        from ctplatform.evaluation.dense.regions import features_of, read_training_windows, train_network
        from ctplatform.evaluation.dense.windows import normaliser

        volumes, training = self.volumes, self.context.training

        def score(inside: np.ndarray, outside: np.ndarray) -> float:
            network = train_network(volumes, self.cell, inside, training)
            normalise = normaliser(training.encoders.hu_window, training.device)
            called, true, weights = [], [], []
            for row in outside:
                windows = read_training_windows(volumes, volumes.train[row])
                if len(windows.class_M):
                    scores_MC = network.scores(features_of(network.encoder, windows, normalise))
                    called.append(scores_MC.argmax(1))
                    true.append(windows.class_M)
                    weights.append(windows.weight_M)
            if not called:
                return float("nan")
            called_M, true_M, weight_M = map(np.concatenate, (called, true, weights))
            return mean_dice(called_M, true_M, weight_M, volumes.classes)

        kept = self.trained()
        features = network_features(self.features, kept.encoder, pooling="none")
        return Outcome(
            files=lambda card: model_files(LABEL_MAP, card, kept.tensors, kept.encoder),
            validation=self.validated(score),
            card={"features": {**features, "stride": volumes.config.dense.stride}, "calibration": None},
        )


@dataclass(frozen=True, eq=False)
class SegmenterCandidate(MapCandidate):
    """A segmentation network whose contracting path is the fine-tuned encoder."""

    trains_a_network = True

    def fit(self) -> Outcome | str:
        """The network of the trial with all labels; another one, without a fifth of the subjects, validates."""
        from ctplatform.dataset.atlas import read_atlas
        from ctplatform.evaluation.dense.segmentation import case_numbers, fit_segmenter, segment

        volumes, training = self.volumes, self.context.training
        config, hu_window = volumes.config.segmentation, training.encoders.hu_window

        def score(inside: np.ndarray, outside: np.ndarray) -> float:
            model, atlas = fit_segmenter(volumes, self.cell, inside, training), read_atlas(volumes.workspace)
            found = []
            for row in outside:
                source = volumes.train[row]
                volume = volumes.volume(source)
                predicted_ZYX = segment(model, volume, atlas, config, hu_window=hu_window)
                numbers_C3 = case_numbers(
                    volume, volumes.labels(source), predicted_ZYX, classes=volumes.classes
                )
                found.append(numbers_C3[:, 0])
            dice = np.array(found)
            return float(np.nanmean(dice)) if np.isfinite(dice).any() else float("nan")

        kept = self.trained()
        return Outcome(
            files=lambda card: model_files(LABEL_MAP, card, kept.tensors, kept.encoder),
            validation=self.validated(score),
            card={
                "features": network_features(self.features, kept.encoder, pooling="none"),
                "segmentation": {"window": config.window, "overlap": config.overlap},
                "calibration": None,
            },
        )


def map_candidates(
    context: SweepContext, name: str, sources: Mapping[str, Mapping[str, Any]], recipe: Recipe
) -> Iterator[Candidate]:
    """The models of a task on label maps that may be kept.

    Args:
        context: of the sweep.
        name: of the task.
        sources: initialisation -> the card's `features`.
        recipe: of the sweep.
    """
    problem, fraction = context.problems[name], max(recipe.sweep.fractions)
    assert isinstance(problem, VolumeProblem)
    for initialisation in problem.features if problem.regions else ():
        if initialisation in sources:
            own = {**sources[initialisation], "hu_window": [float(end) for end in recipe.prepare.hu_window]}
            yield WindowHeadCandidate(context, name, initialisation, own, fraction)
    if FINETUNE in recipe.sweep.initialisations and "drasclr" in sources:
        kind = WindowNetworkCandidate if problem.regions else SegmenterCandidate
        yield kind(context, name, FINETUNE, sources["drasclr"], fraction)


def validation_part(task: Task, train: Targets) -> tuple[np.ndarray, np.ndarray] | None:
    """(fitted, validated) rows of the training subjects, stratified; None where they are too few."""
    fold_N = folds(task.strata(train), seed=SEED, count=FOLDS)
    inside, outside = np.flatnonzero(fold_N != 0), np.flatnonzero(fold_N == 0)
    try:
        task.check(train.take(inside))
    except StageError:
        return None
    return (inside, outside) if len(outside) else None
