"""The workspace that workers are compared on is one that training ends on."""

from ctplatform.config.loader import load_recipe
from ctplatform.training.pretrain import pretrain
from tests.benchmarks.scaling import made_up

SMALL = (
    *("pretrain.num_workers=0", "pretrain.scans_per_batch=4", "pretrain.locations_per_batch=2"),
    *("pretrain.max_steps=2", "pretrain.queue_size=16"),
)


def test_training_on_the_made_up_workspace_leaves_weights(tmp_path):
    workspace = made_up(tmp_path, scans=4)
    run = pretrain(workspace, load_recipe("fast", SMALL)).run
    assert workspace.exists("pretrain", run, "weights.safetensors")
