"""Networks that were fine-tuned on labels of subjects and are kept after a sweep.

A kept network is that of the sweep's trial with all labels and the first seed. The folds in which the number of its
steps was chosen validate and calibrate it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ctplatform.evaluation.kept_candidate import Candidate, Outcome, validation
from ctplatform.evaluation.kept_heads import calibration, curve_times
from ctplatform.evaluation.trained_network import OUT_OF_FOLD, network_features
from ctplatform.inference.kept_model import LOCATIONS, KeptModel
from ctplatform.tasks.fitted_head import FittedHead


@dataclass(frozen=True, eq=False)
class NetworkCandidate(Candidate):
    """A network that starts from the pretrained encoder."""

    trains_a_network: ClassVar[bool] = True

    def digest(self) -> str:
        """Of all that the trial with all labels depends on."""
        return self.context.fingerprint(self.cell)

    def fit(self) -> Outcome | str:
        """The network of the trial with all labels."""
        network, train = self.trained(), self.problem.train
        head = FittedHead.from_tensors(
            network.tensors, kind=network.card["kind"], valid=network.card["valid"]
        )
        out_of_fold_N = network.tensors.get(OUT_OF_FOLD)
        folds = self.context.training.finetune.folds
        return Outcome(
            files=lambda card: KeptModel(
                head, card, network.tensors[LOCATIONS], encoder_files=network.encoder
            ).files(),
            validation=validation(self.task.scores[0], train, out_of_fold_N, folds=folds),
            card={
                "features": network_features(self.features, network.encoder, pooling="locations"),
                "calibration": calibration(self.task, train, out_of_fold_N, count=folds),
                **curve_times(self.task, train),
                "steps": network.card["steps"],
            },
        )
