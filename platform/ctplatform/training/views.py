"""The views of a batch that a training step encodes."""

from __future__ import annotations

import torch
from torch import Tensor

from ctplatform.config.recipe import Recipe
from ctplatform.training.batch import Batch
from ctplatform.training.model import strengths_of
from drasclr import augment

VIEW_QUERY, VIEW_KEY, VIEW_NEIGHBOUR = 0, 1, 2


def views_of(
    batch: Batch, recipe: Recipe, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and neighbours, as `DrasCLR.forward` takes them.

    With `pretrain.encode_once` the neighbours are `Batch.others`, in the view that they have where they are anchors.

    Args:
        batch: patches of this rank.
        recipe: `pretrain` says how views are made, `prepare` has the window of HU.
        device: of the views.
    """
    config, window = recipe.pretrain, recipe.prepare.hu_window

    def view(hu_GSDHW: Tensor, locations_G: Tensor, number: int) -> Tensor:
        if not config.augment:
            return augment.normalise(hu_GSDHW, hu_window=window)
        parameters = augment.draw(
            seed=config.seed,
            epoch=batch.epoch,
            scans=batch.scans_S,
            locations=locations_G,
            view=number,
            strengths=strengths_of(config.augmentation),
        )
        return augment.apply(hu_GSDHW, parameters, hu_window=window)

    anchors = batch.anchors(device)
    query = view(anchors, batch.locations_G, VIEW_QUERY)
    key = view(anchors, batch.locations_G, VIEW_KEY)
    if config.encode_once:
        return query, key, view(batch.others(device), batch.other_locations(), VIEW_QUERY)
    neighbours = query.new_zeros((*batch.neighbour_rows_GK.shape, *query.shape[1:]))
    if config.beta > 0 and neighbours.numel():
        near = batch.neighbours(device).flatten(0, 1)
        flat = view(near, batch.neighbour_locations_GK.flatten(), VIEW_NEIGHBOUR)
        neighbours = flat.view(neighbours.shape)
    return query, key, neighbours
