"""A task on label maps as a problem of the sweep; its predictions, with slices of a few maps for the report.

Legend: N test subjects, C classes, K numbers a class, M windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from ctplatform.evaluation.cells import Cell, Chosen
from ctplatform.evaluation.dense.volumes import LabelledVolumes
from ctplatform.evaluation.initialisations import END_TO_END
from ctplatform.evaluation.models import Training
from ctplatform.evaluation.problems import Prediction, Problem
from ctplatform.evaluation.slices import Slice, shown_subjects, slice_of
from ctplatform.evaluation.trained_network import TrainedNetwork, leaves_network, network_files
from ctplatform.metrics.overlap import PREDICTED_PERCENT, TRUE_PERCENT, region_numbers

if TYPE_CHECKING:
    from drasclr.encoder import Encoder

Numbers = list[list[tuple[float, float, list[float]]]]
"""(target, prediction, numbers) of each test subject and class."""


@dataclass(frozen=True)
class Scored:
    """The scored maps of the test subjects, slices of some of them, and the network, where it is kept."""

    numbers: Numbers
    slices: list[Slice]
    network: TrainedNetwork | None


@dataclass(frozen=True)
class VolumeProblem(Problem):
    """A problem whose targets are voxels a class, [N, C], and whose trials read lung volumes and label maps.

    Args:
        volumes: the labelled scans, in the subjects' order.
        settings: digest of the recipe's section that trials depend on.
    """

    volumes: LabelledVolumes
    settings: str

    searchable: ClassVar[bool] = False

    @property
    def regions(self) -> bool:
        """Whether every voxel of lung has a class; otherwise structures stand out from a background."""
        return self.task.kind == "regions"

    def digest(self, initialisation: str) -> str:
        """Changes when a trial of this initialisation would come out differently."""
        volumes = self.volumes
        files = [(s.scan_id, s.key, volumes.map_of(s).key) for s in (*volumes.train, *volumes.test)]
        own = [super().digest(initialisation), files, volumes.keys.get(initialisation), self.settings]
        return hashlib.sha256(repr(own).encode()).hexdigest()

    def predict(
        self, cell: Cell, rows: np.ndarray, training: Training, *, chosen: Chosen | None = None
    ) -> Prediction:
        """Fit, predict every test subject's map, score it. One row a test subject and class.

        `target` and `prediction` are percentages of the lung (regions) or ml (structures); from `numbers` the scores
        are computed (`ctplatform.metrics.overlap`). `chosen` is always None: nothing is searched.
        """
        scored = (self._regions if self.regions else self._structures)(cell, rows, training)
        records = []
        for n, subject in enumerate(self.test_subjects):
            for c, name in enumerate(self.volumes.task.classes):
                target, prediction, kept = scored.numbers[n][c]
                records.append(
                    {
                        **asdict(cell),
                        "subject_id": subject,
                        "scan_id": self.volumes.test[n].scan_id,
                        "class": name,
                        "target": target,
                        "prediction": prediction,
                        "time": np.nan,
                        "event": np.nan,
                        "numbers": kept,
                    }
                )
        return Prediction(pd.DataFrame(records), slices=tuple(scored.slices), network=scored.network)

    def _shown(self, cell: Cell) -> frozenset[int]:
        """Test subjects whose maps the report shows: of the first seed, with the most labels."""
        if cell.seed or cell.fraction != max(self.volumes.config.fractions):
            return frozenset()
        voxels_NC = self.test.value_N
        return shown_subjects((voxels_NC[:, 1:] if self.regions else voxels_NC).sum(1))

    def _regions(self, cell: Cell, rows: np.ndarray, training: Training) -> Scored:
        from ctplatform.evaluation.dense.regions import predictor_of_head, predictor_of_network, train_network

        volumes, shown = self.volumes, self._shown(cell)
        kept = None
        if cell.initialisation in END_TO_END:
            network = train_network(volumes, cell, rows, training)
            predict = predictor_of_network(volumes, network, training)
            if leaves_network(cell):
                weights_CP, bias_C = network.linear()
                kept = self._kept(network.encoder, {"weights_CP": weights_CP, "bias_C": bias_C}, training)
        else:
            predict = predictor_of_head(volumes, cell, rows)
        numbers: Numbers = []
        slices = []
        for n, source in enumerate(volumes.test):
            tiles, probability_MC = predict(source)
            table_CK = region_numbers(tiles.counts_MC, tiles.missed_C, probability_MC)
            numbers.append([(row[TRUE_PERCENT], row[PREDICTED_PERCENT], row.tolist()) for row in table_CK])
            if n in shown:
                volume = volumes.volume(source)
                called_M = (probability_MC.argmax(1) + 1).astype(np.uint8)
                predicted_ZYX = tiles.windows.paint(called_M, volume.lungs_ZYX)
                images = volume.hu_ZYX, volume.lungs_ZYX, volumes.labels(source), predicted_ZYX
                slices.append(slice_of(self.test_subjects[n], source.scan_id, *images, first=2))
        return Scored(numbers, slices, kept)

    def _structures(self, cell: Cell, rows: np.ndarray, training: Training) -> Scored:
        from ctplatform.evaluation.dense.segmentation import case_numbers, fit_segmenter, predictor_of_network

        volumes, shown = self.volumes, self._shown(cell)
        model = fit_segmenter(volumes, cell, rows, training)
        predict = predictor_of_network(volumes, model, training)
        kept = None
        if leaves_network(cell):
            tensors = {
                name: tensor.detach().cpu().numpy()
                for name, tensor in model.state_dict().items()
                if not name.startswith("encoder.")
            }
            kept = self._kept(model.encoder, tensors, training)
        numbers: Numbers = []
        slices = []
        for n, source in enumerate(volumes.test):
            volume, labels_ZYX, predicted_ZYX = predict(source)
            table_CK = case_numbers(volume, labels_ZYX, predicted_ZYX, classes=volumes.classes)
            true, called = (
                np.bincount(x.ravel(), minlength=volumes.classes + 1)[1:] for x in (labels_ZYX, predicted_ZYX)
            )
            ml = volume.voxel_ml
            numbers.append([(t * ml, p * ml, row.tolist()) for t, p, row in zip(true, called, table_CK)])
            if n in shown:
                images = volume.hu_ZYX, volume.lungs_ZYX, labels_ZYX, predicted_ZYX
                slices.append(slice_of(self.test_subjects[n], source.scan_id, *images, first=1))
        return Scored(numbers, slices, kept)

    def _kept(
        self, encoder: Encoder, tensors: Mapping[str, np.ndarray], training: Training
    ) -> TrainedNetwork:
        files = network_files(encoder, training.encoders.pretrained(), task=self.task.name)
        return TrainedNetwork(tensors, files)
