"""Settings that came after workspaces had been made: as long as they keep their default, nothing is redone for them.

A run's name and a stage's record hold the settings that the result depends on. A setting that did not exist then counts
as unchanged where its default computes what was computed without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

#: By dotted key, of settings or whole sections, whose defaults are how version 0.1.0 computed without them.
LATER = (
    "embed.features",
    "prepare.max_bytes_unpacked",
    "prepare.max_seconds",
    "prepare.max_voxels",
    "pretrain.augmentation",
    "pretrain.clip_norm",
    "pretrain.decoupled",
    "pretrain.encode_once",
    "pretrain.init",
    "pretrain.location_norm",
    "pretrain.momentum_end",
    "pretrain.patience",
    "pretrain.routing_gain",
    "pretrain.routing_lr",
    "pretrain.variance_weight",
    "split.balance",
)


@cache
def _neutral() -> Mapping[str, Any]:
    from ctplatform.config.recipe import Recipe
    from ctplatform.config.section import flatten

    plain = flatten("", Recipe().model_dump(mode="json"))
    prefixes = tuple(f"{key}." for key in LATER)
    return {key[1:]: value for key, value in plain.items() if f"{key[1:]}.".startswith(prefixes)}


def without_neutral(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key, less those among `LATER` that have their default."""
    neutral = _neutral()
    return {key: value for key, value in settings.items() if key not in neutral or value != neutral[key]}


def nested_without_neutral(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a section's nested values; a section of which nothing is left is left out."""
    neutral = _neutral()
    kept: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{section}.{key}"
        if isinstance(value, Mapping) and any(name.startswith(f"{dotted}.") for name in neutral):
            inner = nested_without_neutral(dotted, value)
            if inner:
                kept[key] = inner
        elif dotted not in neutral or value != neutral[dotted]:
            kept[key] = value
    return kept
