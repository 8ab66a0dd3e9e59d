"""`drasclr predict`: a kept model applied to given scans, or to those of a workspace."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctplatform.errors import PlatformError
from ctplatform.inference.kept_model import KeptModel, kept_model_of
from ctplatform.inference.model_folder import LABEL_MAP, read_folder

if TYPE_CHECKING:
    import pandas as pd

    from drasclr.encoder import Encoder

FORMATS = (".csv", ".parquet", ".json")


@dataclass(frozen=True)
class PredictCommand:
    """Arguments of the command.

    Attributes:
        model: folder or URI of a kept model.
        scans: files, folders, URIs or scan tables; with `workspace` ids of it, by default all that are embedded.
        workspace: in which the scans are embedded already.
        weights: of the encoder; None: those of the workspace that the model lies in.
        output: file to write, .csv, .parquet or .json; None prints.
        as_json: print JSON.
        workers: scans at a time; None: this process for one scan, else all CPUs of Ray.
        address: of a Ray cluster.
        maps: of a model of label maps: folder for the maps.
        segmentations: also as DICOM SEG, where the scan is DICOM.
    """

    model: str
    scans: tuple[str, ...] = ()
    workspace: str | None = None
    weights: str | None = None
    output: str | None = None
    as_json: bool = False
    workers: int | None = None
    address: str | None = None
    maps: str = "label_maps"
    segmentations: bool = True


def predict(command: PredictCommand) -> bool:
    """Predict, and write or print a row a scan; returns whether every scan has a prediction.

    Raises:
        PlatformError: the model does not fit, a scan has no vector, or the output's format is not known.
    """
    from ctplatform.inference.predict import predict_workspace
    from ctplatform.storage.workspace import Workspace

    output = command.output
    if output and Path(output).suffix not in FORMATS:
        raise PlatformError(
            f"{output}: not a format that is written", f"Use {', '.join(FORMATS)}", code="usage"
        )
    folder = read_folder(command.model)
    if folder.encoder and command.weights:
        raise PlatformError(
            f"the model of {command.model} has an encoder of its own", "Leave --weights out", code="usage"
        )
    if folder.card["format"] == LABEL_MAP and not command.workspace:
        from ctplatform.cli.label_maps import make_label_maps

        weights = folder.encoder or command.weights or _own_weights(command.model, folder.card["features"])
        if (command.workers or 1) > 1 or command.address:
            raise PlatformError(
                "label maps are made one after the other in this process",
                "Leave out --workers and --address",
                code="usage",
            )
        table = make_label_maps(
            command.scans,
            model=folder,
            weights=weights,
            folder=Path(command.maps).expanduser(),
            segmentations=command.segmentations,
        )
        shown = map_lines(folder.card, table)
    else:
        kept = kept_model_of(folder)
        if command.workspace:
            own = _load(kept.encoder) if kept.encoder else None
            table = predict_workspace(Workspace(command.workspace), kept, scan_ids=command.scans, encoder=own)
        else:
            table = _given(command, kept)
        shown = lines(kept, table)
    if output:
        _write(table, output)
    if command.as_json:
        print(json.dumps(_records(table), indent=1))
    elif output:
        print(f"{len(table):,} scans -> {output}")
    else:
        print("\n".join(shown))
    return "state" not in table or not table["state"].isin(("rejected", "failed")).any()


def _given(command: PredictCommand, kept: KeptModel) -> pd.DataFrame:
    """Read, prepare and encode the scans, then predict; a scan without a vector keeps its row and its reason."""
    from ctplatform.cohort.given_scans import LISTED, given_scans
    from ctplatform.config.cluster import RayConfig
    from ctplatform.inference.predict import check_weights, predict_embedded
    from ctplatform.inference.scan_list import EmbedOptions, embed_here, embed_on_ray

    model = _load(kept.encoder or command.weights or _own_weights(command.model, kept.features))
    check_weights(kept, model)
    # A network takes the features of its own locations, whatever they are pooled to.
    pooling = None if kept.encoder else kept.features.get("pooling")
    options = EmbedOptions(pooling=pooling, features=kept.features.get("layer"))
    ray_config = RayConfig.model_validate({"address": command.address})
    items = given_scans(command.scans, ray_config=ray_config).table.to_dict("records")
    with contextlib.ExitStack() as stack:
        if command.workers == 1 or (command.workers is None and len(items) == 1):
            found = dict(embed_here(model, items, options))
        else:
            from ctplatform.compute.session import ray_session

            stack.enter_context(ray_session(ray_config))
            found = dict(embed_on_ray(model, items, options, workers=command.workers))
    for number, item in enumerate(items):
        if not item[LISTED]:
            found[number].row["path"] = item["path"]
    return predict_embedded(kept, [found[number] for number in sorted(found)])


def _load(weights: str) -> Encoder:
    from ctplatform.cli.embed import load_model

    return load_model(weights)


def _own_weights(model: str, features: Mapping[str, Any]) -> str:
    """The weights' folder in the workspace that the model's folder is part of."""
    from ctplatform.storage.layout import EVALUATION, MODELS, PRETRAIN

    place, _, options = model.rstrip("/").partition("?")
    parts = str(Path(place).resolve()).split("/") if "://" not in place else place.split("/")
    if len(parts) > 4 and parts[-4] == EVALUATION and parts[-2] == MODELS and features.get("run"):
        folder = "/".join([*parts[:-4], PRETRAIN, features["run"]])
        return f"{folder}?{options}" if options else folder
    raise PlatformError(
        f"{model} is not in its workspace, so that its encoder is not beside it",
        "Give the encoder's folder: --weights DIR",
        code="usage",
    )


def lines(model: KeptModel, table: pd.DataFrame) -> list[str]:
    """What the model is, then a line a scan."""
    head = _about(model.card, [model.card["selection"]["metric"]])
    shown = table.drop(columns="prediction") if "risk" in table else table
    return [*head, "", shown.to_string(index=False, float_format=lambda value: f"{value:.3f}")]


def map_lines(card: Mapping[str, Any], table: pd.DataFrame) -> list[str]:
    """The same of a model of label maps."""
    head = _about(card, [score["metric"] for score in card["scores"]])
    return [*head, "", table.to_string(index=False, float_format=lambda value: f"{value:.2f}")]


def _about(card: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
    """The task, and its scores on held-out subjects."""
    task = card["task"]
    unit = f", {task['unit']}" if task["unit"] and task["unit"] not in task["title"] else ""
    return [f"{task['title']}{unit}; trained on {card['trained_on']['subjects']} subjects"] + [
        f"held out: {s['metric']} {s['value']:.2f} [{s['low']:.2f}, {s['high']:.2f}], n = {s['n_test']}"
        for s in card["scores"]
        if s["metric"] in metrics and None not in (s["value"], s["low"], s["high"])
    ]


def _records(table: pd.DataFrame) -> list[dict[str, object]]:
    """Rows without NaN, which JSON does not have."""
    records: list[dict[str, object]] = table.astype(object).where(table.notna(), None).to_dict("records")
    return records


def _write(table: pd.DataFrame, output: str) -> None:
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        path.write_text(json.dumps(_records(table), indent=1) + "\n", encoding="utf-8")
