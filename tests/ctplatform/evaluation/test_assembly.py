"""Labels, representations and split joined to problems."""

import numpy as np
import pandas as pd
import pytest

from ctplatform.errors import StageError
from ctplatform.evaluation.assembly import assemble
from ctplatform.evaluation.sweep import sweep
from tests.ctplatform.evaluation_world import RUN, build, recipe


def test_no_task_at_all_is_an_error(tmp_path):
    workspace, cohort = build(tmp_path, subjects=12, with_shards=False)
    with pytest.raises(StageError, match="no task can be evaluated"):
        sweep(workspace, cohort[["scan_id", "subject_id"]], recipe(), run=RUN)


def test_scans_of_a_subject_are_averaged_and_rejected_ones_left_out(tmp_path):
    workspace, cohort = build(tmp_path, with_shards=False)
    context, messages = assemble(workspace, cohort, recipe(), run=RUN)
    problem = context.problems["emphysema_extent"]
    vectors = workspace.read_table("embeddings", RUN, "patients-drasclr.parquet").to_pandas()
    side = 0 if "sub000" in problem.train_subjects else 1
    row = (problem.train_subjects, problem.test_subjects)[side].index("sub000")
    both = np.mean([vectors["vector"][0], vectors["vector"][1]], axis=0)
    assert problem.features["drasclr"][side][row] == pytest.approx(both)
    assert problem.scans["sub000"] == ("scan000", "scan001")
    assert not set(problem.train_subjects) & set(problem.test_subjects)
    assert messages == []


def test_an_initialisation_without_embeddings_is_skipped(tmp_path):
    workspace, cohort = build(tmp_path, with_shards=False)
    workspace.delete("embeddings", RUN, "patients-random.parquet")
    context, messages = assemble(workspace, cohort, recipe(), run=RUN)
    assert set(context.problems["survival"].features) == {"drasclr", "density"}
    assert "initialisation random is skipped" in messages[0]


def test_vectors_of_other_encoders_are_initialisations(tmp_path):
    workspace, cohort = build(tmp_path / "ws", with_shards=False)
    rng = np.random.default_rng(0)
    scans = cohort["scan_id"].iloc[:-3]
    pd.DataFrame({"scan_id": scans, "f0": rng.normal(size=len(scans)), "f1": 1.0}).to_csv(
        tmp_path / "theirs.csv", index=False
    )
    settings = recipe(
        tasks=["emphysema_extent"],
        initialisations=["drasclr"],
        external={"theirs": str(tmp_path / "theirs.csv"), "gone": str(tmp_path / "gone.csv")},
    )
    assert settings.sweep.initialisations == ("drasclr", "theirs", "gone")
    assert settings.model_validate(settings.model_dump()) == settings
    context, messages = assemble(workspace, cohort, settings, run=RUN)
    problem = context.problems["emphysema_extent"]
    assert set(problem.features) == {"drasclr", "theirs"}
    assert problem.features["theirs"][0].shape == (len(problem.train_subjects), 2)
    assert "sweep.external.theirs: 3 of 41 usable scans have no vector" in messages
    assert any(m.startswith("initialisation gone is skipped: there is no table of vectors") for m in messages)
    assert len(problem.train_subjects) + len(problem.test_subjects) == 37  # the same subjects for both
