"""The online probe: a task's head, cross-validated during training on a few labelled training subjects.

The head is the one that the sweep fits on frozen representations. Only training subjects of the split are used, labels
included, so that stopping or tuning by the probe leaves the test subjects unseen. The score is no result: it shows
whether the representation still improves, beside what lung density and the encoder before training score on the same
subjects and folds.

Legend: S subjects (one scan each), L locations, DHW space, D features.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ctplatform.config.recipe import Recipe
from ctplatform.dataset import ledger, shards
from ctplatform.dataset.ledger import DENSITY
from ctplatform.dataset.splits import read_split
from ctplatform.errors import StageError
from ctplatform.metrics.scores import Targets
from ctplatform.metrics.stratification import folds, stratified_order
from ctplatform.storage.layout import PRETRAIN, PROBE_FILE
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks import Task, get_task
from ctplatform.tasks.label_map import VolumeTask

if TYPE_CHECKING:
    import torch

    from drasclr.atlas import Atlas
    from drasclr.encoder import Encoder

logger = logging.getLogger(__name__)
FOLDS = 5
SCANS_PER_BATCH = 8
#: Batches of scans over which normalisation statistics are computed.
CALIBRATION_BATCHES = 3


@dataclass(frozen=True)
class ProbeSubjects:
    """Subjects, labels and scans of the probe, as plain values: chosen in the driver, sent to the worker.

    Args:
        task: its name.
        scans: one usable scan of each subject, in the order of `value`.
        value: label, or time to event.
        event: whether the event was seen; None where nothing is censored.
        density: LAA-950, Perc15 and lung volume of each scan; None if one of them is not known.
    """

    task: str
    scans: tuple[str, ...]
    value: tuple[float, ...]
    event: tuple[bool, ...] | None = None
    density: tuple[tuple[float, ...], ...] | None = None

    @property
    def targets(self) -> Targets:
        """The labels."""
        return Targets(np.array(self.value), None if self.event is None else np.array(self.event))

    def plain(self) -> dict[str, Any]:
        """The keyword arguments of an equal object, without NumPy arrays."""
        return asdict(self)


def select_subjects(
    workspace: Workspace, recipe: Recipe, cohort: pd.DataFrame | None
) -> ProbeSubjects | None:
    """Labelled training subjects for the probe, balanced over the labels; None if there are not enough of them.

    Args:
        workspace: holds ledger and split.
        recipe: `pretrain.probe` gives their number and the task.
        cohort: the scan table with its labels; only rows of training subjects are used.

    Raises:
        StageError: `pretrain.probe.task` names a task that the cohort has no labels of, or one on label maps.
        ConfigError: there is no such task.
    """
    config = recipe.pretrain.probe
    if not config.every_epochs or cohort is None or cohort.empty:
        return None
    columns = ["scan_id", "subject_id", "state", *DENSITY]
    rows = ledger.usable(
        ledger.read_ledger(workspace, columns=columns), use_flagged=recipe.prepare.quality.use_flagged
    )
    rows = rows[rows["subject_id"].isin(read_split(workspace).train)].sort_values("scan_id")
    rows = rows.drop_duplicates("subject_id").set_index("subject_id")
    labelled = cohort[cohort["subject_id"].isin(rows.index)]
    for name in (config.task,) if config.task else recipe.sweep.tasks:
        try:
            return _select(get_task(name, recipe.tasks), rows, labelled, recipe)
        except StageError as error:
            if config.task:
                raise
            logger.info("no probe of %s: %s", name, error)
    return None


def _select(task: Task, rows: pd.DataFrame, cohort: pd.DataFrame, recipe: Recipe) -> ProbeSubjects:
    if isinstance(task, VolumeTask):
        raise StageError(
            f"task {task.name} has label maps, and the probe needs a label of each subject",
            "Set pretrain.probe.task to a task of another kind",
            code="no-labels",
        )
    labels = task.labels(cohort, recipe.sweep.columns)
    order = stratified_order(task.strata(labels.targets), seed=recipe.pretrain.seed)
    chosen = np.sort(order[: recipe.pretrain.probe.subjects])
    targets = labels.targets.take(chosen)
    task.check(targets)
    if len(targets) < FOLDS:
        raise StageError(
            f"task {task.name}: {len(targets)} labelled training subjects are too few for {FOLDS} folds",
            "Label more subjects, or set pretrain.probe.every_epochs=0",
            code="few-labels",
        )
    scans = rows.loc[[labels.subjects[index] for index in chosen]]
    density = scans[list(DENSITY)].to_numpy(float)
    return ProbeSubjects(
        task=task.name,
        scans=tuple(scans["scan_id"]),
        value=tuple(targets.value_N.tolist()),
        event=None if targets.event_N is None else tuple(targets.event_N.tolist()),
        density=tuple(map(tuple, density.tolist())) if np.isfinite(density).all() else None,
    )


def cross_validated(task: Task, x_SD: np.ndarray, targets: Targets, *, seed: int) -> float:
    """The task's main metric, each subject predicted by a head that was fitted without it."""
    fold_S = folds(task.strata(targets), seed=seed, count=FOLDS)
    prediction_S = np.empty(len(targets))
    for fold in np.unique(fold_S):
        train, test = np.flatnonzero(fold_S != fold), np.flatnonzero(fold_S == fold)
        head = task.probe().fit(x_SD[train], targets.take(train), seed=seed)
        prediction_S[test] = head.predict(x_SD[test])
    return task.scores[0].value(targets, task.clip(prediction_S))


class OnlineProbe:
    """Scores the encoder of a training loop. With more than one rank, each embeds its share of the subjects.

    The patches are read once and kept in memory: with the default settings 48 scans x 12 locations, 36 MiB.

    Args:
        workspace: holds the shards; `pretrain/<run>/probe.json` is written here.
        recipe: of the run.
        run: its name.
        subjects: of the probe.
        atlas: the locations.
        rank: of this process in training.
        world: number of ranks.
    """

    def __init__(
        self,
        workspace: Workspace,
        recipe: Recipe,
        run: str,
        subjects: ProbeSubjects,
        atlas: Atlas,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.workspace, self.recipe, self.run, self.subjects = workspace, recipe, run, subjects
        self.rank, self.world = rank, world
        self.task, self.seed = get_task(subjects.task, recipe.tasks), recipe.pretrain.seed
        count = min(recipe.pretrain.probe.locations, atlas.num_locations)
        self.locations_L = np.unique(np.linspace(0, atlas.num_locations - 1, count).round().astype(int))
        self.coordinates_L3 = np.array(atlas.coordinates_N3[self.locations_L], dtype=np.float32)
        self._hu_of_part: dict[int, np.ndarray] = {}

    def score(self, encoder: Encoder) -> float | None:
        """Main metric of the task in cross-validation, from a copy of the encoder; nan where it is undefined, and None
        on all ranks but the first. A collective operation."""
        vectors_SD = self.embed(encoder)
        if self.rank > 0:
            return None
        return cross_validated(self.task, vectors_SD, self.subjects.targets, seed=self.seed)

    def write_baselines(self, encoder: Encoder) -> None:
        """Write what the curve is compared with: the scores of the encoder before training and of lung density. A
        collective operation."""
        density, targets = self.subjects.density, self.subjects.targets
        start = self.score(encoder)
        if start is None:
            return
        values = {
            "start": start,
            "density": np.nan
            if density is None
            else cross_validated(self.task, np.array(density), targets, seed=self.seed),
        }
        metric = self.task.scores[0]
        self.workspace.write_json(
            {
                "task": self.task.name,
                "title": self.task.title,
                "metric": metric.name,
                "metric_title": metric.title,
                "higher_is_better": metric.higher_is_better,
                "subjects": len(targets),
                "locations": len(self.locations_L),
                "folds": FOLDS,
                **{name: float(value) if np.isfinite(value) else None for name, value in values.items()},
            },
            PRETRAIN,
            self.run,
            PROBE_FILE,
        )

    def embed(self, encoder: Encoder) -> np.ndarray:
        """Mean features over the locations of each subject's scan, [S, D] float64, on all ranks; the encoder is not
        modified. A collective operation."""
        import torch

        from drasclr.encoder import FEATURES
        from drasclr.norm import recalibrate, share_statistics

        device = next(encoder.parameters()).device
        coordinates_L3 = torch.from_numpy(self.coordinates_L3).to(device)
        # After training block by block, normalisation holds the statistics of the last blocks.
        copied = copy.deepcopy(encoder).requires_grad_(False)
        parts = [
            self._patches(part, device)
            for part in self._parts()[:CALIBRATION_BATCHES][self.rank :: self.world]
        ]
        recalibrate(
            copied,
            (
                (part.flatten(0, 1), coordinates_L3.repeat_interleave(part.shape[1], dim=0))
                for part in parts
                if part.shape[0] * part.shape[1] > 1
            ),
        )
        if self.world > 1:
            share_statistics(copied)
        copied.eval()
        features_SD = torch.zeros(len(self.subjects.scans), FEATURES, device=device)
        with torch.inference_mode():
            for part in self._parts()[self.rank :: self.world]:
                features_SD[part] = copied.grouped(self._patches(part, device), coordinates_L3).mean(0)
        if self.world > 1:
            torch.distributed.all_reduce(features_SD)
        return features_SD.double().cpu().numpy()

    def _parts(self) -> list[slice]:
        count = len(self.subjects.scans)
        return [slice(i, min(i + SCANS_PER_BATCH, count)) for i in range(0, count, SCANS_PER_BATCH)]

    def _patches(self, part: slice, device: torch.device) -> torch.Tensor:
        import torch

        from drasclr import augment

        if part.start not in self._hu_of_part:
            self._hu_of_part[part.start] = np.stack(
                [
                    shards.read_patches(self.workspace, scan, self.locations_L)[1]
                    for scan in self.subjects.scans[part]
                ],
                axis=1,
            )
        hu_LSDHW = torch.from_numpy(self._hu_of_part[part.start]).to(device)
        return augment.normalise(hu_LSDHW, hu_window=self.recipe.prepare.hu_window)
