"""Emphysema subtypes: every region of the lung is normal, centrilobular, panlobular or paraseptal."""

from ctplatform.metrics.overlap import SUBTYPES
from ctplatform.tasks.label_map import VolumeTask

TASK = VolumeTask(
    name="emphysema_subtypes",
    title="Emphysema subtypes by region",
    kind="regions",
    columns=("subtype_map",),
    metrics=(
        "dice_mean",
        *(f"{score}_{subtype}" for score in ("dice", "auroc", "percent") for subtype in SUBTYPES),
    ),
    minimum=2,
    classes={"normal": 1, **{subtype: value for value, subtype in enumerate(SUBTYPES, 2)}},
)
