"""The workspace that workers are compared on is one that training ends on, with Ray and without."""

from ctplatform.config.loader import load_recipe
from ctplatform.training.pretrain import pretrain
from ctplatform.training.runs import read_metrics
from tests.benchmarks.scaling import made_up, run_without_ray

SMALL = (
    *("pretrain.num_workers=0", "pretrain.scans_per_batch=4", "pretrain.locations_per_batch=2"),
    *("pretrain.max_steps=8", "pretrain.log_every=1", "pretrain.queue_size=16"),
)


def test_training_on_the_made_up_workspace_leaves_weights_and_without_ray_it_is_the_same(tmp_path):
    workspace, recipe = made_up(tmp_path, scans=4), load_recipe("fast", SMALL)
    run = pretrain(workspace, recipe).run
    assert workspace.exists("pretrain", run, "weights.safetensors")
    losses = [line["loss"] for line in read_metrics(workspace, run)]
    rate, wait = run_without_ray(workspace, recipe)
    assert [line["loss"] for line in read_metrics(workspace, run)] == losses
    assert len(losses) == 8
    assert rate > 0
    assert 0 <= wait < 1
