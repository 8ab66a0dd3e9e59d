"""`drasclr import`: a checkpoint of the authors' code as a weights folder."""

from __future__ import annotations

from pathlib import Path

from ctplatform.config.loader import load_recipe
from ctplatform.errors import StageError


def import_checkpoint(checkpoint: str, output: str, *, atlas: str | None = None) -> list[str]:
    """Write weights.safetensors, card.json and README.md, with `atlas` also the atlas; returns lines for people.

    Args:
        checkpoint: a file of the authors' code; nothing in it is executed.
        output: folder, is made.
        atlas: folder of the atlas that the checkpoint was trained with: atlas_lung_mask.nii.gz and atlas_patch_loc.npy
            as published, or a workspace's.

    Raises:
        StageError: the file is no such checkpoint, or the folder holds no atlas.
    """
    from ctplatform.dataset.atlas import image_to_bytes
    from ctplatform.preparation.atlas import given_atlas, locate
    from drasclr import weights
    from drasclr.published import import_published

    try:
        encoder = import_published(Path(checkpoint).expanduser())
    except FileNotFoundError:
        raise StageError(f"there is no checkpoint {checkpoint}", "Check the path", code="weights") from None
    except ValueError as error:
        raise StageError(
            str(error), "Give a checkpoint as the published training code writes it", code="weights"
        ) from None
    card = dict(encoder.card)
    folder = Path(output).expanduser()
    if atlas is None:
        weights.save(folder, encoder, card)
        lines = [
            "without --atlas the folder lacks the locations that the encoder is conditioned on: it can start "
            "pretraining, but embeds no scan"
        ]
    else:
        template, corners_N3 = given_atlas(atlas)
        made = locate(template, load_recipe("published").atlas, corners_N3=corners_N3)
        card["atlas_hash"] = made.hash
        weights.save(folder, encoder, card, atlas=made, template=image_to_bytes(template))
        lines = [f"atlas {made.hash[:12]}, {made.num_locations} locations"]
    epoch = card["provenance"]["epoch"]
    return [f"epoch {epoch}, {encoder.experts} experts -> {folder}", *lines]
