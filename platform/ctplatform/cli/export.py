"""`drasclr export DIR --to FORMAT`: trained weights for other software."""

from __future__ import annotations

from pathlib import Path

from ctplatform.cli.embed import load_model
from ctplatform.errors import StageError

ONNX, MONAI, HUGGING_FACE = "onnx", "monai-bundle", "huggingface"


def export_weights(
    weights: str, to: str, *, output: str | None = None, atlas: str | None = None, licence: str | None = None
) -> list[str]:
    """Write a folder of the format; returns lines for people.

    Args:
        weights: folder, Hub id or URI.
        to: `ONNX`, `MONAI` or `HUGGING_FACE`.
        output: folder; by default the weights' name and the format, below the current one.
        atlas: folder of the atlas, for weights that were saved without it.
        licence: of `HUGGING_FACE`.

    Raises:
        StageError: the weights cannot be used, or a package is not installed.
    """
    folder = Path(output).expanduser() if output else Path(f"{_name(weights)}-{to}")
    if licence and to != HUGGING_FACE:
        raise StageError(
            f"--license is no option of {to}", f"Leave it out, or use --to {HUGGING_FACE}", code="usage"
        )
    if to == HUGGING_FACE:
        from ctplatform.export.hub import write_hub_folder

        if atlas:
            raise StageError(
                "--atlas is no option of huggingface: files are copied as they are",
                "Leave it out",
                code="usage",
            )
        write_hub_folder(weights, folder, licence=licence)
        return [f"{folder}: upload it with `drasclr push`, or as it is"]
    encoder = load_model(weights, atlas=atlas)
    if to == ONNX:
        from ctplatform.export.onnx_folder import write_onnx

        return write_onnx(encoder, folder)
    from ctplatform.export.monai_bundle import write_monai_bundle

    return write_monai_bundle(encoder, folder)


def _name(weights: str) -> str:
    """Last part of a path, Hub id or URI."""
    place = weights.partition("?")[0]
    place = place.partition("@")[0] if place.startswith("hf://") else place
    return Path(place if "://" in place else Path(place).expanduser().resolve()).name
