"""Ablations: the recipe with one part of the method taken away, each a pretraining run of its own."""

from __future__ import annotations

from typing import Any

from ctplatform.config.loader import validate
from ctplatform.config.recipe import Recipe

UNCONDITIONED = {"conditioning": "none", "experts": 1}
#: What each ablation changes of `pretrain`. `moco` keeps one queue a location, as all of them do: its encoder has no
#: location as an input, but its negatives are patches of the same location.
CHANGES: dict[str, dict[str, Any]] = {
    "local": {"beta": 0.0},
    "global": {"local_weight": 0.0},
    "none": {"encoder": UNCONDITIONED},
    "moco": {"encoder": UNCONDITIONED, "beta": 0.0},
}


def ablated(recipe: Recipe, name: str) -> Recipe:
    """The recipe of one ablation; its run is pretrained and embedded as any other, without the random control."""
    values = recipe.model_dump(mode="json")
    changes = CHANGES[name]
    values["name"] = f"{recipe.name}-{name}"
    values["pretrain"] |= {key: value for key, value in changes.items() if key != "encoder"}
    if values["pretrain"]["beta"] == 0:
        values["pretrain"]["encode_once"] = False  # there are no neighbours to encode
    values["pretrain"]["encoder"] |= changes.get("encoder", {})
    values["embed"]["encoders"] = ["drasclr"]
    return validate(values, source=values["name"])
