"""What a run leaves: weights with a calibrated normalisation, their card, atlas and README."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ctplatform import __version__
from ctplatform.config.hardware import PREPARATION
from ctplatform.storage.layout import ATLAS, CARD_FILE, PRETRAIN, TEMPLATE_FILE
from ctplatform.training.initial_weights import initial_card
from drasclr import augment, weights
from drasclr.norm import recalibrate, share_statistics

if TYPE_CHECKING:
    from ctplatform.config.recipe import Recipe
    from ctplatform.storage.workspace import Workspace
    from ctplatform.training.feed import Feed
    from ctplatform.training.runs import ScanEntry
    from ctplatform.training.selection import Selection
    from drasclr.atlas import Atlas
    from drasclr.encoder import Encoder

CALIBRATION_STEPS = 24
#: Keys of `prepare` that say where scans are prepared and which are used, not what becomes of one.
_NOT_OF_A_SCAN: Any = {**dict.fromkeys(PREPARATION, True), "overlays": True, "quality": {"use_flagged"}}


def publish(
    workspace: Workspace,
    recipe: Recipe,
    run: str,
    encoder: Encoder,
    atlas: Atlas,
    *,
    step: int,
    scans: Sequence[ScanEntry],
    lines: Sequence[Mapping[str, Any]],
    selection: Selection | None,
    task: str | None,
) -> None:
    """Write an encoder's weights, card, atlas and README. The run is finished once its card exists.

    Args:
        workspace: of the run.
        recipe: the whole recipe.
        run: its name below `pretrain/`.
        encoder: calibrated.
        atlas: its locations.
        step: training steps made.
        scans: what it was trained on.
        lines: metrics of each logged step.
        selection: how the encoder was chosen, if not as the last one.
        task: what it was chosen by.
    """
    chosen, metrics = step, lines[-1] if lines else {}
    if selection and selection.weights:
        chosen = selection.step
        metrics = next(line for line in lines if line["step"] == chosen)
    provenance = {
        "steps": chosen,
        "scans": len(scans),
        "subjects": len({scan.subject for scan in scans}),
        "pretrain": recipe.pretrain.model_dump(mode="json"),
        "metrics": metrics,
    }
    if selection:
        provenance["selection"] = {
            "by": "probe",
            "task": task,
            "step": chosen,
            "score": metrics.get("probe"),
            "probes": selection.probes,
            "trained_steps": step,
        }
    if initial := initial_card(workspace, run):
        provenance["initial"] = initial
    template = workspace.read_bytes(ATLAS, TEMPLATE_FILE)
    files = weights_and_card(encoder, atlas, template, recipe, run=run, provenance=provenance)
    for name, data in files.items():
        workspace.write_bytes(data, PRETRAIN, run, name)


def calibrate_norm(
    encoder: Encoder, feed: Feed, atlas: Atlas, *, hu_window: tuple[int, int], rank: int = 0, world: int = 1
) -> None:
    """Replace normalisation statistics by their means over batches that together cover all blocks of locations.

    With more than one rank a collective operation: every rank computes its share of the batches.
    """
    device = next(encoder.parameters()).device
    coordinates_N3 = torch.from_numpy(np.array(atlas.coordinates_N3, dtype=np.float32))

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in feed.sample(epoch=0, count=CALIBRATION_STEPS, rank=rank, world=world):
            hu_GSDHW = batch.anchors(device)
            locations_B3 = coordinates_N3[batch.locations_G].repeat_interleave(hu_GSDHW.shape[1], dim=0)
            yield augment.normalise(hu_GSDHW, hu_window=hu_window).flatten(0, 1), locations_B3.to(device)

    with torch.no_grad():
        recalibrate(encoder, batches())
        if world > 1:
            share_statistics(encoder)


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
