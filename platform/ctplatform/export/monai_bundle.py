"""An encoder with its preprocessing as a MONAI bundle.

    configs/metadata.json    versions, input and output; as MONAI's `verify_metadata` checks them
    configs/inference.json   scans of a folder -> a file of vectors each, run by `monai.bundle run`
    models/model.pt          the network's weights (`monai_network`)
    models/card.json, atlas.json, lung_mask.nii.gz    what the preprocessing needs
    docs/README.md           the model card, and how to run the bundle

Specification: https://docs.monai.io/en/stable/mb_specification.html
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctplatform import __version__
from ctplatform.errors import StageError
from ctplatform.storage.layout import ATLAS_FILE, CARD_FILE, README_FILE, TEMPLATE_FILE

if TYPE_CHECKING:
    from drasclr.encoder import Encoder

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
MODULES = "ctplatform.export"
RUN = """
## As a MONAI bundle

    pip install 'drasclr[monai]'
    python -m monai.bundle run --config_file configs/inference.json --bundle_root . --dataset_dir SCANS

writes a file of vectors for each volume file in SCANS into `eval/`. The registration that finds the atlas's locations
in a scan is part of the package drasclr, which must be installed where the bundle runs.
"""


def write_monai_bundle(encoder: Encoder, folder: str | Path) -> list[str]:
    """Write the bundle; returns lines for people.

    Args:
        encoder: from `drasclr.load`, with its atlas.
        folder: is made if it is missing.

    Raises:
        StageError: the weights have no atlas.
    """
    import torch

    from ctplatform.export.monai_network import network_arguments, network_state
    from ctplatform.inference.encoding import coordinates_of
    from drasclr.card import readme

    if encoder.atlas is None or encoder.template is None:
        raise StageError(
            "these weights were saved without their atlas, which the bundle's preprocessing needs",
            "Give the atlas's folder with --atlas",
            code="weights",
        )
    folder, features = Path(folder), str(encoder.card.get("features", "last"))
    arguments = network_arguments(encoder, features=features, locations=encoder.atlas.num_locations)
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _write_json(folder / "configs" / "metadata.json", _metadata(encoder, features))
    _write_json(folder / "configs" / "inference.json", _inference(arguments, encoder.card))
    torch.save(network_state(encoder, coordinates_of(encoder.atlas)), folder / "models" / "model.pt")
    _write_json(folder / "models" / CARD_FILE, encoder.card)
    _write_json(folder / "models" / ATLAS_FILE, encoder.atlas.to_json())
    (folder / "models" / TEMPLATE_FILE).write_bytes(encoder.template)
    (folder / "docs" / README_FILE).write_text(readme(encoder.card) + RUN, encoding="utf-8")
    return [f"{folder}: MONAI bundle, {encoder.atlas.num_locations} locations"]


def _metadata(encoder: Encoder, features: str) -> dict[str, Any]:
    from drasclr.encoder import FEATURES, MULTISCALE_FEATURES, PATCH_SIZE

    assert encoder.atlas is not None
    card, count = encoder.card, encoder.atlas.num_locations
    width = FEATURES + (MULTISCALE_FEATURES if features == "multiscale" else 0)
    tensor = {"num_channels": count, "dtype": "float32", "is_patch_data": False}
    return {
        "schema": SCHEMA,
        "version": __version__,
        "changelog": {__version__: "exported by drasclr"},
        "monai_version": metadata.version("monai"),
        "pytorch_version": metadata.version("torch"),
        "numpy_version": metadata.version("numpy"),
        "required_packages_version": {"drasclr": __version__, "pytorch-ignite": "0.5.0"},
        "name": "DrasCLR encoder",
        "task": "Features of chest CT at the locations of an atlas of the lungs",
        "description": "Location-conditioned encoder, trained without labels; patches are found by registering the "
        "lungs of a scan to the atlas",
        "authors": "see docs/README.md",
        "copyright": f"licence: {card.get('license', 'unknown')}",
        "intended_use": "Research; no medical device",
        "references": ["Yu et al., DrasCLR, Medical Image Analysis 2024, doi:10.1016/j.media.2023.103062"],
        "network_data_format": {
            "inputs": {
                "image": {
                    **tensor,
                    "type": "image",
                    "format": "hounsfield",
                    "modality": "CT",
                    "spatial_shape": [PATCH_SIZE] * 3,
                    "value_range": [-1, 1],
                    "channel_def": {"0": "patch at location 0 of models/atlas.json, and so on in its order"},
                }
            },
            "outputs": {
                "pred": {
                    **tensor,
                    "type": "array",
                    "format": "features",
                    "spatial_shape": [width],
                    "value_range": [],
                    "channel_def": {
                        "0": "features at location 0 of models/atlas.json, and so on in its order"
                    },
                }
            },
        },
    }


def _inference(arguments: dict[str, object], card: dict[str, Any]) -> dict[str, Any]:
    """The workflow, in MONAI's terms: `@` refers to another entry, `$` starts an expression."""
    pooling = card.get("pooling", "mean")
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": "$sorted(glob.glob(os.path.join(@dataset_dir, '*.*')))",
        "network_def": {"_target_": f"{MODULES}.monai_network.AtlasEncoder", **arguments},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": f"{MODULES}.monai_transforms.SampleAtlasd",
                    "keys": "image",
                    "folder": "$@bundle_root + '/models'",
                }
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': path} for path in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 0},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": f"{MODULES}.monai_transforms.SaveVectorsd",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "pooling": pooling if pooling in ("mean", "mean_std") else "mean",
                }
            ],
        },
        "checkpointloader": {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": ["@checkpointloader"],
        },
        "run": ["$@evaluator.run()"],
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
