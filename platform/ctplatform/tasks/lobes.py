"""Segmentation of the five lobes of the lungs."""

from ctplatform.tasks.label_map import VolumeTask

TASK = VolumeTask(
    name="lobes",
    title="Lobe segmentation",
    kind="structures",
    columns=("lobe_map",),
    metrics=("dice", "hd95"),
    minimum=2,
    classes={"right upper": 1, "right middle": 2, "right lower": 3, "left upper": 4, "left lower": 5},
)
