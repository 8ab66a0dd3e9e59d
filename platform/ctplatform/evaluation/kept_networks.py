"""Networks that were fine-tuned on labels of subjects and are kept after a sweep.

A network is trained on all training subjects, as the sweep's trial with all labels and seed 0 is. The folds in which
the number of its steps is chosen validate and calibrate it. Its score is linear in the mean feature over the locations
that it was trained on, so that it is stored as an encoder and a head of numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ctplatform.evaluation.cells import Cell
from ctplatform.evaluation.initialisations import FINETUNE
from ctplatform.evaluation.kept_candidate import Candidate, Outcome, validation
from ctplatform.evaluation.kept_heads import calibration, curve_times
from ctplatform.evaluation.models import end_to_end, patch_pool
from ctplatform.evaluation.problems import SubjectProblem
from ctplatform.inference.kept_model import KeptModel
from ctplatform.storage.layout import WEIGHTS_FILE

if TYPE_CHECKING:
    from drasclr.encoder import Encoder

SEED = 0


@dataclass(frozen=True, eq=False)
class NetworkCandidate(Candidate):
    """A network that starts from the pretrained encoder."""

    trains_a_network: ClassVar[bool] = True

    def digest(self) -> str:
        """Of all that the trial with all labels depends on."""
        return self.context.fingerprint(Cell(self.task.name, FINETUNE, 1.0, SEED))

    def fit(self) -> Outcome | str:
        """Fine-tune on all training subjects."""
        problem, training = self.problem, self.context.training
        assert isinstance(problem, SubjectProblem)
        cell = Cell(self.task.name, FINETUNE, self.fraction, SEED)
        chosen = self.context.read_chosen(cell) if self.context.searches(cell) else None
        pool = patch_pool(training, problem.scans)
        model = end_to_end(
            self.task,
            training,
            initialisation=FINETUNE,
            steps=training.steps(len(problem.train)),
            seed=SEED,
            lr=chosen.lr if chosen else None,
            weight_decay=chosen.weight_decay if chosen else None,
        )
        model.fit(pool, problem.train_subjects, problem.train)
        head = model.fitted_head(pool, problem.train_subjects, problem.train)
        locations_L = pool.locations_L
        files = network_files(model.encoder, training.encoders.pretrained(), task=self.task.name)
        folds = training.finetune.folds
        calibrated = calibration(self.task, problem.train, model.out_of_fold_, count=folds)
        return Outcome(
            files=lambda card: KeptModel(head, card, locations_L, encoder_files=files).files(),
            validation=validation(self.task.scores[0], problem.train, model.out_of_fold_, folds=folds),
            card={
                "features": network_features(self.features, files, pooling="locations"),
                "calibration": calibrated,
                **curve_times(self.task, problem.train),
                "steps": model.choice_.steps if model.choice_ else 0,
            },
        )


def network_files(encoder: Encoder, pretrained: Encoder, *, task: str) -> dict[str, bytes]:
    """The files of an encoder's own weights folder, by name.

    Args:
        encoder: as it was trained.
        pretrained: where it started, as `drasclr.load` returns it.
        task: that it was trained on.
    """
    from drasclr import weights

    provenance = {**pretrained.card.get("provenance", {}), "fine_tuned_on": task}
    card = {**pretrained.card, "features": "last", "pooling": "mean", "provenance": provenance}
    return weights.files(encoder, card, atlas=pretrained.atlas, template=pretrained.template)


def network_features(
    source: Mapping[str, Any], files: Mapping[str, bytes], *, pooling: str
) -> dict[str, Any]:
    """The card's `features` of a model with such an encoder.

    Args:
        source: those of the pretrained encoder that it started from.
        files: of `network_files`.
        pooling: of the patches' features.
    """
    from drasclr.encoder import FEATURES

    return {
        **{key: value for key, value in source.items() if key != "statistics_sha256"},
        "encoder": "own",
        "started_from_sha256": source.get("weights_sha256"),
        "weights_sha256": hashlib.sha256(files[WEIGHTS_FILE]).hexdigest(),
        "layer": "last",
        "pooling": pooling,
        "width": FEATURES,
    }
