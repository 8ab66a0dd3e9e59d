"""Commands beside the chain: scan tables, vectors and predictions of given scans, checks and explanations."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ctplatform.cli.chain_commands import print_json, recipe_of, stage_command
from ctplatform.errors import PlatformError
from ctplatform.pipeline.graph import GRAPH

if TYPE_CHECKING:
    import pandas as pd

INCOMPLETE = 3
"""Exit status of `drasclr embed` if some of the scans have no vector."""


def embed_command(args: argparse.Namespace) -> None:
    """The stage on a workspace, or given scans from given weights."""
    if not args.weights:
        if args.scans:
            raise PlatformError(
                "scans are embedded with trained weights, and none were given",
                "Give --weights DIR: of a training run of yours, WORKSPACE/pretrain/RUN",
                code="usage",
            )
        if not args.workspace:
            raise PlatformError(
                "nothing to embed",
                "Give SCAN... --weights DIR, or --workspace DIR for the stage",
                code="usage",
            )
        stage_command("embed")(args)
        return
    if args.workspace or args.overrides:
        raise PlatformError(
            "--workspace and --set belong to the stage of a workspace; with --weights their card says how scans are "
            "prepared",
            "Leave them out, or leave out --weights",
            code="usage",
        )
    from ctplatform.cli.embed import EmbedCommand, embed_given, result_lines
    from ctplatform.inference.scan_list import EmbedOptions

    result = embed_given(
        EmbedCommand(
            sources=(*args.scans, *([args.cohort] if args.cohort else [])),
            weights=args.weights,
            output=args.output,
            atlas=args.atlas,
            patches=args.patches,
            overlays=args.overlays,
            options=EmbedOptions(args.pooling, bool(args.overlays), args.device),
            workers=args.workers,
            address=args.address,
            quiet=args.json,
        )
    )
    if args.json:
        print_json(result)
    else:
        print("\n".join(result_lines(result)))
    if result["with_vectors"] < len(result["scans"]):
        sys.exit(INCOMPLETE)


def cohort_command(args: argparse.Namespace) -> None:
    """Write the scan table of a folder, or of public collections."""
    if args.folder == "idc":
        _public_cohort(args)
        return
    if args.collection:
        raise PlatformError(
            "--collection is an option of `drasclr cohort idc`",
            "Write `idc` in place of the folder",
            code="usage",
        )
    from ctplatform.cohort.discovery import discover
    from ctplatform.cohort.table import write_cohort
    from ctplatform.config.cluster import RayConfig

    found = discover(args.folder, csv_path=args.output, ray_config=RayConfig(address=args.address))
    write_cohort(found.table, args.output)
    if args.json:
        _print_cohort(args.output, found.table, passed_over=found.passed_over, notes=found.notes)
        return
    for line in found.passed_over:
        print(f"passed over  {line}")
    for note in found.notes:
        print(f"note  {note}")
    print(f"{len(found.table)} scans of {found.table['subject_id'].nunique()} subjects -> {args.output}")
    print("Add your label columns to it, then: drasclr run --cohort", args.output, "--workspace DIR")


def _public_cohort(args: argparse.Namespace) -> None:
    from ctplatform.cohort.clinical import join_labels, read_mapping
    from ctplatform.cohort.idc import public_cohort, summary
    from ctplatform.cohort.idc_selection import Choice
    from ctplatform.cohort.table import write_cohort

    choice = Choice(
        tuple(args.collection),
        subjects=args.subjects,
        max_bytes=None if args.max_tb is None else args.max_tb * 1e12,
        kernels=tuple(args.kernel),
        where=args.where,
        every_series=args.every_series,
        seed=args.seed,
        store=args.store,
    )
    mapping = read_mapping(args.collection[0], args.mapping) if args.labels and args.collection else None
    found = public_cohort(choice, index=args.index)
    table, said = found.table, summary(found)
    if mapping:
        joined = join_labels(table, args.labels, mapping, collection=args.collection[0])
        table, said = joined.table, [*said, *joined.lines()]
    write_cohort(table, args.output)
    if args.json:
        _print_cohort(args.output, table, notes=said)
        return
    print("\n".join(said))
    print(f"{len(found.table):,} scans of {found.table['subject_id'].nunique():,} subjects -> {args.output}")
    print("What it would take: drasclr run --dry-run --cohort", args.output, "--workspace DIR")


def _print_cohort(output: str, table: pd.DataFrame, **more: list[str]) -> None:
    print_json(
        {"output": output, "scans": len(table), "subjects": int(table["subject_id"].nunique()), **more}
    )


def verify_command(args: argparse.Namespace) -> None:
    """Name damaged files; status 1 if there are any."""
    from ctplatform.cli.verify import verify
    from ctplatform.storage.workspace import Workspace

    if verify(Workspace(args.workspace), discard=args.discard):
        sys.exit(1)


def estimate_command(args: argparse.Namespace) -> None:
    """Print hours and price of a cohort."""
    from dataclasses import asdict

    from ctplatform.pipeline.costs import Costs, Size
    from ctplatform.pipeline.estimate import bill, costs_of, guess_locations, table, total
    from ctplatform.storage.workspace import Workspace

    recipe = recipe_of(args)
    costs = Costs(gpu_anchors_per_s=args.gpu_rate, gpu_basis="--gpu-rate" if args.gpu_rate else "")
    if args.workspace:
        costs = costs_of(Workspace(args.workspace), costs)
    training = round(args.scans * (1 - recipe.split.test_fraction))
    size = Size(args.scans, training, args.locations or guess_locations(recipe))
    works = [work for stage in GRAPH.values() if (work := stage.work(recipe, size, costs)).amount]
    terms = {
        "core_price": args.core_price,
        "gpu_price": args.gpu_price,
        "cores": args.cores,
        "gpus": args.gpus,
    }
    if args.json:
        print_json({"stages": [asdict(work) for work in works], "total": asdict(total(works, **terms))})
        return
    print("\n".join(table(works)), end="\n\n")
    print("\n".join(bill(works, **terms)))


def explain_command(args: argparse.Namespace) -> None:
    """Print all about one scan."""
    from ctplatform.cli.explain import explain, explain_lines
    from ctplatform.storage.workspace import Workspace

    found = explain(Workspace(args.workspace), args.scan_id)
    if args.json:
        print_json(found)
    else:
        print("\n".join(explain_lines(found)))


def doctor_command(args: argparse.Namespace) -> None:
    """Print what this machine has; status 1 if something is missing."""
    from ctplatform.cli.doctor import examine, lines, plain

    found = plain(findings := examine(workspace=args.workspace, address=args.address))
    if args.json:
        print_json(found)
    else:
        print("\n".join(lines(findings)))
    if found["problems"]:
        sys.exit(1)


def import_command(args: argparse.Namespace) -> None:
    """Make a weights folder of a checkpoint of the authors' code."""
    from ctplatform.cli.import_weights import import_checkpoint

    print("\n".join(import_checkpoint(args.checkpoint, args.output, atlas=args.atlas)))


def export_command(args: argparse.Namespace) -> None:
    """Write trained weights in another format."""
    from ctplatform.cli.export import export_weights

    lines = export_weights(args.weights, args.to, output=args.output, atlas=args.atlas, licence=args.license)
    print("\n".join(lines))


def push_command(args: argparse.Namespace) -> None:
    """Upload trained weights."""
    from ctplatform.export.hub import push

    print(push(args.weights, args.name, licence=args.license, public=args.public))
    print(f"drasclr embed SCAN --weights hf://{args.name}")


def nearest_command(args: argparse.Namespace) -> None:
    """Find similar patients."""
    from ctplatform.cli.nearest import find_nearest, nearest_lines
    from ctplatform.storage.workspace import Workspace

    found = find_nearest(
        Workspace(args.workspace),
        args.scan,
        output=args.output,
        run=args.run_name,
        locations=args.locations,
        count=args.count,
    )
    if args.json:
        print_json(found)
    else:
        print("\n".join(nearest_lines(found)))
    if args.open:
        _open_page(found["page"])


def view_command(args: argparse.Namespace) -> None:
    """Write the page of one scan."""
    from ctplatform.cli.view import write_view

    made = write_view(
        args.scan,
        output=args.output,
        weights=args.weights,
        atlas=args.atlas,
        labels=args.labels,
        spacing_mm=args.spacing,
        viewer=args.viewer,
        mask=args.mask,
    )
    if args.json:
        print_json(made)
    else:
        print(f"{made['verdict']} -> {made['page']}".removeprefix(" -> "))
    if args.open:
        _open_page(made["page"])


def _open_page(page: str) -> None:
    import webbrowser
    from pathlib import Path

    if not webbrowser.open(Path(page).resolve().as_uri()):
        print(f"no browser could be started; open {page}", file=sys.stderr)


def predict_command(args: argparse.Namespace) -> None:
    """Predict a label of scans."""
    from ctplatform.cli.predict import PredictCommand, predict

    if not args.workspace and not args.scans:
        raise PlatformError(
            "no scan is given",
            "Give files or folders, or --workspace for those that are embedded",
            code="usage",
        )
    if args.workspace and (args.weights or args.workers or args.address):
        raise PlatformError(
            "--weights, --workers and --address belong to scans that are not embedded yet",
            "Leave them out, or leave out --workspace",
            code="usage",
        )
    complete = predict(
        PredictCommand(
            args.model,
            tuple(args.scans),
            workspace=args.workspace,
            weights=args.weights,
            output=args.output,
            as_json=args.json,
            workers=args.workers,
            address=args.address,
            maps=args.maps,
            segmentations=not args.no_seg,
        )
    )
    if not complete:
        sys.exit(INCOMPLETE)
