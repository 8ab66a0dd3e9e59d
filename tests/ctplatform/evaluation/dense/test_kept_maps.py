"""Models of label maps that are kept after a sweep: they make the maps that the sweep's trials have scored."""

import numpy as np
import pytest

import drasclr
from ctplatform.dataset.ledger import read_ledger
from ctplatform.evaluation.dense.kept_maps import validation_part
from ctplatform.evaluation.dense.label_map_model import LabelMapper, read_label_map_model
from ctplatform.evaluation.dense.lung_volume import read_lung_volume
from ctplatform.evaluation.dense.sources import labelled_scans
from ctplatform.metrics.scores import Targets
from ctplatform.tasks.registry import get_task
from tests.ctplatform.evaluation_world import RUN, table, tiny_atlas
from tests.ctplatform.labelled_world import labelled_recipe

MODELS = {
    "emphysema_subtypes-drasclr",
    "emphysema_subtypes-density",
    "emphysema_subtypes-finetune",
    "nodules-finetune",
}


def test_every_kind_of_model_is_kept_with_one_best_a_task(swept):
    workspace, *_ = swept
    assert set(workspace.folders("evaluation", RUN, "models")) == MODELS
    cards = {
        name: read_label_map_model(workspace.path("evaluation", RUN, "models", name)).card for name in MODELS
    }
    best = [name for name, card in cards.items() if card["selection"]["best"]]
    assert sorted(name.split("-")[0] for name in best) == ["emphysema_subtypes", "nodules"]
    card = cards["emphysema_subtypes-density"]
    assert card["task"]["classes"] == {"normal": 1, "centrilobular": 2, "panlobular": 3, "paraseptal": 4}
    assert card["selection"]["subjects"] + 5 <= card["trained_on"]["subjects"]
    assert 0 <= card["selection"]["value"] <= 1
    assert {score["metric"] for score in card["scores"]} >= {"dice_mean"}
    assert cards["nodules-finetune"]["segmentation"] == {"window": 32, "overlap": 0.0}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_kept_model_makes_the_maps_of_the_sweep_s_trial(swept, name):
    workspace, cohort, _ = swept
    task, initialisation = name.split("-")
    model = read_label_map_model(workspace.path("evaluation", RUN, "models", name))
    encoder = drasclr.load(model.encoder or workspace.path("pretrain", RUN))
    assert bool(model.encoder) == (initialisation == "finetune")
    mapper = LabelMapper(model, encoder, tiny_atlas(), hu_window=(-1024, 240))
    rows = table(workspace, "predictions")
    rows = rows[(rows["task"] == task) & (rows["initialisation"] == initialisation)]
    scan_id = rows["scan_id"].iloc[0]
    one = get_task(task)
    source = labelled_scans([(one, one.maps(cohort))], labelled_recipe(), read_ledger(workspace))[scan_id]
    volume = read_lung_volume(workspace, *source.volume_path)
    numbers_ZYX = mapper.numbers(volume)
    amounts = mapper.amounts(volume, numbers_ZYX)
    expected = rows[rows["scan_id"] == scan_id].set_index("class")["prediction"]
    prefix = "percent_" if model.regions else "ml_"
    found = {key.removeprefix(prefix): value for key, value in amounts.items()}
    if model.regions:
        assert set(np.unique(numbers_ZYX[volume.lungs_ZYX])) <= {1, 2, 3, 4}
        assert sum(found.values()) == pytest.approx(100)
    for label, value in expected.items():
        assert found[label] == pytest.approx(value, abs=1e-6), label


def test_too_few_subjects_are_not_validated():
    task = get_task("nodules")
    assert validation_part(task, Targets(np.array([[3.0], [0.0]]))) is None
    inside, outside = validation_part(task, Targets(np.arange(10.0)[:, None]))
    assert (len(inside), len(outside)) == (8, 2)
    assert not set(inside) & set(outside)
