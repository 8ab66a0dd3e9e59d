"""Segmentation of pulmonary nodules."""

from ctplatform.tasks.label_map import VolumeTask

TASK = VolumeTask(
    name="nodules",
    title="Nodule segmentation",
    kind="structures",
    columns=("nodule_map",),
    metrics=("dice", "hd95", "false_ml"),
    minimum=2,
    classes={"nodule": 1},
)
