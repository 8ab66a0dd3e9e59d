"""Views of a batch: each drawn by its own number; a neighbour that is encoded once has the view of its anchor."""

from __future__ import annotations

import numpy as np
import torch

from ctplatform.training.batch import Batch, Patches
from ctplatform.training.views import views_of
from drasclr import augment
from tests.ctplatform.training_world import recipe_with

#: Anchors 5 and 2, whose neighbours are 2, 7 and 5, 9; rows of the block are in another order than locations.
ROW_OF = {2: 1, 5: 3, 7: 0, 9: 2}


def batch() -> Batch:
    rng, around = np.random.default_rng(0), torch.tensor([[2, 7], [5, 9]])
    scans = [rng.integers(-1000, 200, (4, 32**3)).astype(np.int16) for _ in range(3)]
    return Batch(
        patches=Patches(scans, 32),
        anchor_rows_G=torch.tensor([ROW_OF[5], ROW_OF[2]]),
        neighbour_rows_GK=torch.tensor([[ROW_OF[2], ROW_OF[7]], [ROW_OF[5], ROW_OF[9]]]),
        locations_G=torch.tensor([5, 2]),
        neighbour_locations_GK=around,
        scans_S=torch.tensor([4, 0, 1]),
        subjects_S=torch.tensor([4, 0, 1]),
        epoch=3,
    )


def drawn(hu: torch.Tensor, locations: list[int], view: int) -> torch.Tensor:
    recipe = recipe_with()
    parameters = augment.draw(
        seed=recipe.pretrain.seed,
        epoch=3,
        scans=torch.tensor([4, 0, 1]),
        locations=torch.tensor(locations),
        view=view,
        strengths=augment.Strengths(translation=4, gamma_probability=0),
    )
    return augment.apply(hu, parameters, hu_window=recipe.prepare.hu_window)


def test_queries_keys_and_neighbours_have_views_of_their_own():
    made = batch()
    query, key, near = views_of(made, recipe_with())
    assert torch.equal(query, drawn(made.anchors(), [5, 2], 0))
    assert torch.equal(key, drawn(made.anchors(), [5, 2], 1))
    assert torch.equal(near.flatten(0, 1), drawn(made.neighbours().flatten(0, 1), [2, 7, 5, 9], 2))


def test_without_neighbours_in_the_loss_none_are_made():
    near = views_of(batch(), recipe_with("pretrain.beta=0"))[2]
    assert near.shape == (2, 2, 3, 1, 32, 32, 32)
    assert not near.any()


def test_encoded_once_others_have_the_view_of_an_anchor():
    made = batch()
    query, key, others = views_of(made, recipe_with("pretrain.encode_once=true"))
    assert made.other_locations().tolist() == [7, 9]
    hu = made.patches.take(torch.tensor([ROW_OF[7], ROW_OF[9]]))
    assert torch.equal(made.others(), hu)
    assert torch.equal(others, drawn(hu, [7, 9], 0))
    plain = views_of(made, recipe_with())
    assert torch.equal(query, plain[0])
    assert torch.equal(key, plain[1])


def test_without_augmentation_patches_are_scaled_alone():
    made = batch()
    query, key, _ = views_of(made, recipe_with("pretrain.augment=false"))
    assert torch.equal(query, augment.normalise(made.anchors()))
    assert torch.equal(key, query)
