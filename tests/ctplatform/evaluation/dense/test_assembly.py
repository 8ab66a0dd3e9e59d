"""Tasks on label maps joined with cohort and split."""

from ctplatform.evaluation.sweep import sweep
from ctplatform.storage.layout import LABELLED
from tests.ctplatform.evaluation_world import RUN
from tests.ctplatform.labelled_world import build_labelled, labelled_recipe


def test_scans_without_a_usable_map_are_left_out_and_named(tmp_path, ray_local):
    config = labelled_recipe(tasks=["emphysema_subtypes"], initialisations=["density"], fractions=[1.0])
    workspace, cohort = build_labelled(tmp_path, config)
    lost = cohort["scan_id"].iloc[3]
    (name,) = [n for n in workspace.files(LABELLED, "emphysema_subtypes") if n.startswith(lost)]
    workspace.delete(LABELLED, "emphysema_subtypes", name)
    summary = sweep(workspace, cohort, config, run=RUN)
    assert summary.trials == 1
    assert any(f"scan {lost} is left out: there is no label map" in m for m in summary.messages)
