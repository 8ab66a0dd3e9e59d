"""The model of a training run: built from the recipe; at the end calibrated and serialised as weights and card."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ctplatform import __version__
from ctplatform.config.hardware import PREPARATION
from ctplatform.config.training import AugmentationConfig, PretrainConfig
from ctplatform.storage.layout import CARD_FILE
from drasclr import augment, weights
from drasclr.contrast import DrasCLR
from drasclr.encoder import Encoder
from drasclr.norm import recalibrate
from drasclr.optimisation import parameter_groups

if TYPE_CHECKING:
    from ctplatform.config.recipe import Recipe
    from ctplatform.training.feed import Feed
    from drasclr.atlas import Atlas
    from drasclr.gather import Gather

CALIBRATION_STEPS = 24
#: Keys of `prepare` that say where scans are prepared and which are used, not what becomes of one.
_NOT_OF_A_SCAN: Any = {**dict.fromkeys(PREPARATION, True), "overlays": True, "quality": {"use_flagged"}}


def strengths_of(config: AugmentationConfig) -> augment.Strengths:
    """The augmentation's strengths in its own units: rotations in rad."""
    return augment.Strengths(
        rotation=config.rotation_degrees / 180 * math.pi,
        translation=config.translation,
        scale=config.scale,
        flip_probability=config.flip_probability,
        noise_probability=config.noise_probability,
        noise_std=config.noise_hu,
        gamma_probability=config.gamma_probability,
        gamma=config.gamma,
        kernel_probability=config.kernel_probability,
        blur=config.blur,
        sharpen=config.sharpen,
        dose_probability=config.dose_probability,
        dose_std=config.dose_hu,
        grain=config.grain,
        breath_probability=config.breath_probability,
        breath=config.breath,
    )


def build_model(
    config: PretrainConfig,
    atlas: Atlas,
    *,
    memory_locations: torch.Tensor | None = None,
    gather: Gather | None = None,
    initial: Encoder | None = None,
) -> DrasCLR:
    """Encoder, momentum encoder, losses and key memory of a recipe.

    Args:
        config: settings of pretraining.
        atlas: locations and their neighbours.
        memory_locations: locations whose keys this worker holds; None for all.
        gather: exchanges keys between workers; None for a single worker, or if each holds its own locations.
        initial: start from this encoder, of the same architecture, instead of random weights.
    """
    encoder = Encoder(**config.encoder.model_dump(), routing_gain=config.routing_gain)
    if initial is not None:
        encoder.load_state_dict(initial.state_dict())
    return DrasCLR(
        encoder=encoder,
        coordinates_N3=atlas.coordinates_N3,
        neighbours_NK=atlas.neighbours_NK,
        queue_size=config.queue_size,
        temperature=config.temperature,
        momentum=config.momentum,
        beta=config.beta,
        local_weight=config.local_weight,
        neighbour_aggregation=config.neighbour_aggregation,
        exclude_same_subject=config.exclude_same_subject,
        batch_negatives=config.batch_negatives,
        shuffle_keys=config.shuffle_keys,
        memory_locations=memory_locations,
        gather=gather,
        location_norm=config.location_norm,
        decoupled=config.decoupled,
        variance_weight=config.variance_weight,
        encode_once=config.encode_once,
    )


def build_optimizer(model: DrasCLR, config: PretrainConfig) -> torch.optim.Optimizer:
    """The recipe's optimiser over all parameters that require gradients; a group's `lr_scale` multiplies the rate."""
    parameters = parameter_groups(model, routing_lr=config.routing_lr)
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=config.lr, momentum=config.sgd_momentum, weight_decay=config.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)


def calibrate_norm(encoder: Encoder, feed: Feed, atlas: Atlas, *, hu_window: tuple[int, int]) -> None:
    """Replace normalisation statistics by their means over batches that together cover all blocks of locations."""
    device = next(encoder.parameters()).device
    coordinates_N3 = torch.from_numpy(np.array(atlas.coordinates_N3, dtype=np.float32))

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in feed.sample(epoch=0, count=CALIBRATION_STEPS):
            hu_GSDHW = batch.anchors(device)
            locations_B3 = coordinates_N3[batch.locations_G].repeat_interleave(hu_GSDHW.shape[1], dim=0)
            yield augment.normalise(hu_GSDHW, hu_window=hu_window).flatten(0, 1), locations_B3.to(device)

    with torch.no_grad():
        recalibrate(encoder, batches())


def weights_and_card(
    encoder: Encoder,
    atlas: Atlas,
    template: bytes,
    recipe: Recipe,
    *,
    run: str,
    provenance: dict[str, Any],
) -> dict[str, bytes]:
    """The files of a weights folder by name; the card last, for its existence marks the run as finished.

    Args:
        encoder: what was trained.
        atlas: its locations.
        template: the atlas's lung mask, the bytes of a compressed NIfTI file.
        recipe: `prepare` says how scans become patches, `embed` how patches become a vector.
        run: name of the training run.
        provenance: what it was trained on, and with which settings.
    """
    card = {
        "run": run,
        "spacing_mm": 1.0,
        "hu_window": list(recipe.prepare.hu_window),
        "patch_size": atlas.patch_size,
        "atlas_hash": atlas.hash,
        "normalisation": {
            "patch": "(clip(hu) - low) / ((high - low) / 2) - 1",
            "location": "corner / max * 2 - 1",
        },
        "preparation": recipe.prepare.model_dump(mode="json", exclude=_NOT_OF_A_SCAN),
        "features": recipe.embed.features,
        "pooling": recipe.embed.pooling,
        "provenance": {"software": __version__, **provenance},
    }
    content = weights.files(encoder, card, atlas=atlas, template=template)
    return dict(sorted(content.items(), key=lambda file: file[0] == CARD_FILE))
