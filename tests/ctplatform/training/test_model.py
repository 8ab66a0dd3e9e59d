"""Each option of the method is reached from a recipe, changes the model, and takes a step that uses every parameter."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ctplatform.config.loader import load_recipe
from ctplatform.training.model import build_model, build_optimizer
from drasclr.atlas import Atlas
from drasclr.contrast import DrasCLR

OPTIONS = {
    "neighbour_aggregation=sum": lambda m: m.neighbour_aggregation == "sum",
    "neighbour_aggregation=mean": lambda m: m.neighbour_aggregation == "mean",
    "neighbour_aggregation=attention": lambda m: m.attention is not None,
    "beta=0": lambda m: not m.has_global,
    "local_weight=0": lambda m: m.local_weight == 0,
    "encoder.experts=1": lambda m: m.query.experts == 1,
    "encoder.conditioning=none": lambda m: m.query.conditioning == "none",
    "encoder.conditioning=concat": lambda m: m.query.layers[0].conv.in_channels == 4,
    "encoder.norm=group": lambda m: m.query.norm == "group",
    "exclude_same_subject=false": lambda m: not m.exclude_same_subject,
    "batch_negatives=false": lambda m: not m.batch_negatives,
    "shuffle_keys=true": lambda m: m.shuffle_keys,
    "queue_size=3": lambda m: m.memory.size == 3,
}


def atlas(neighbours: int) -> Atlas:
    shape = (50, 50, 50)
    grid = {"spacing": (1, 1, 1), "origin": (0, 0, 0), "direction": (1, 0, 0, 0, 1, 0, 0, 0, 1)}
    return Atlas.from_template(np.ones(shape, np.uint8), **grid, step=18, neighbours=neighbours)


def step(model: DrasCLR, places: int, scans: int) -> float:
    generator = torch.Generator().manual_seed(0)
    locations, subjects = torch.arange(places), torch.tensor([5, 5, 6])[:scans]
    shape = (scans, 1, 32, 32, 32)
    query, key = (torch.rand(places, *shape, generator=generator) * 2 - 1 for _ in range(2))
    neighbours = model.neighbours_NK.shape[1]
    around = torch.rand(places, neighbours, *shape, generator=generator) * 2 - 1
    keys = torch.nn.functional.normalize(torch.randn(places, 2, 128, generator=generator), dim=-1)
    model.memory.enqueue(locations, keys, torch.tensor([5, 9]))
    result = model(query, key, around, locations, subjects)
    result.loss.backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []
    return result.loss.item()


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_a_recipe_reaches_the_model(option):
    recipe = load_recipe("fast", [f"pretrain.{option}"])
    torch.manual_seed(0)
    model = build_model(recipe.pretrain, atlas(2)).train()
    assert OPTIONS[option](model)
    assert np.isfinite(step(model, places=2, scans=3))


def test_no_neighbours_at_all():
    recipe = load_recipe("fast", ["atlas.neighbours=0", "pretrain.beta=0"])
    model = build_model(recipe.pretrain, atlas(recipe.atlas.neighbours)).train()
    assert step(model, places=1, scans=2) > 0


def test_the_published_recipe_has_each_published_setting():
    settings = load_recipe("published").pretrain
    model = build_model(settings, atlas(2))
    assert (settings.locations_per_batch, settings.scans_per_batch, settings.epochs) == (1, 128, 20)
    assert (model.temperature, model.momentum, model.memory.size, model.beta) == (0.2, 0.999, 4096, 1.0)
    assert (model.query.experts, model.query.conditioning, model.query.norm) == (8, "experts", "batch")
    assert model.neighbour_aggregation == "sum"
    assert not model.exclude_same_subject
    assert not model.batch_negatives
    assert model.shuffle_keys
    assert (settings.optimizer, settings.lr, settings.sgd_momentum) == ("sgd", 0.01, 0.9)
    assert (settings.weight_decay, settings.warmup_steps) == (1e-4, 0)
    assert load_recipe("published").atlas.neighbours == 2


def test_every_deviation_of_the_fast_recipe_is_explained():
    page = (Path(__file__).parents[3] / "docs" / "explanation" / "method.md").read_text(encoding="utf-8")
    section = page.split("## Where `fast` deviates from `published`")[1].split("\n## ")[0]
    fast, published = (dict(leaves(load_recipe(name).model_dump())) for name in ("fast", "published"))
    differing = {key for key in fast if fast[key] != published[key]} - {"name", "description"}
    assert {"pretrain.neighbour_aggregation", "pretrain.shuffle_keys"} <= differing
    aliases = {"pretrain.scans_per_batch": "`locations_per_batch` x scans"}
    missing = [key for key in differing if aliases.get(key, f"`{key.split('.')[-1]}`") not in section]
    assert missing == []


def leaves(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_state_of_an_optimiser_that_was_not_fused_goes_on(optimizer):
    config = load_recipe("fast", [f"pretrain.optimizer={optimizer}"]).pretrain
    torch.manual_seed(0)
    models = [build_model(config, atlas(2)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    fused, plain = (build_optimizer(model, config) for model in models)
    for group in plain.param_groups:
        group["fused"] = None

    def descend() -> None:
        for own, other in zip(*(model.parameters() for model in models), strict=True):
            if own.requires_grad:
                own.grad = torch.randn_like(own)
                other.grad = own.grad.clone()
        fused.step()
        plain.step()
        for own, other in zip(*(model.parameters() for model in models), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-7)

    descend()
    descend()
    fused.load_state_dict(copy.deepcopy(plain.state_dict()))
    descend()
