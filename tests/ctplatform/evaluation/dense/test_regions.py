"""Dense prediction."""

import numpy as np
import torch

from ctplatform.evaluation.assembly import assemble
from ctplatform.evaluation.dense import regions
from ctplatform.evaluation.dense.head import log_frequency
from ctplatform.evaluation.dense.windows import normaliser
from tests.ctplatform.evaluation_world import RUN
from tests.ctplatform.labelled_world import labelled_recipe


def test_without_a_step_fine_tuning_is_the_frozen_head(swept):
    workspace, cohort, _ = swept
    context, _ = assemble(workspace, cohort, labelled_recipe(), run=RUN)
    problem = context.problems["emphysema_subtypes"]
    rows = np.arange(len(problem.train))
    volumes = problem.volumes
    weights_CP, bias_C = regions.fit_head(volumes, rows, "drasclr", seed=0).linear()
    windows = [regions.read_training_windows(volumes, source) for source in volumes.train]
    class_M = np.concatenate([w.class_M for w in windows])
    frequency_C = log_frequency(class_M, np.concatenate([w.weight_M for w in windows]), 4)
    encoder, head = context.training.encoders.initial("finetune"), torch.nn.Linear(128, 4)
    normalise = normaliser((-1024, 240))
    regions.start_at_probe(encoder, head, windows, normalise, frequency_C, seed=0)
    x_MP = regions.features_of(encoder, windows[0], normalise)
    with torch.no_grad():
        tuned_MC = head(torch.from_numpy(x_MP)).numpy() + frequency_C
    np.testing.assert_allclose(tuned_MC, x_MP @ weights_CP.T + bias_C, atol=0.02)
