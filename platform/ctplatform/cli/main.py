"""The `drasclr` command. Nothing heavy is imported before a command is known, so that --help answers at once."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import logging
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ctplatform import __version__
from ctplatform.errors import RESTART_STATUS, ConfigError, PlatformError, PreflightError, RestartRequested
from ctplatform.pipeline.graph import COHORT_INPUTS, GRAPH, STAGES

if TYPE_CHECKING:
    import pandas as pd

    from ctplatform.config.recipe import Recipe

INCOMPLETE = 3
"""Exit status of `drasclr embed` if some of the scans have no vector."""

EMBED = """Compute patch and patient embeddings: the stage of a workspace (--workspace), or of given scans from given
weights (SCAN... --weights DIR)."""
EXIT_STATUS = """exit status: 0 done; 1 an error, with what to do about it; 2 a command or option that does not exist,
or a problem found before anything started; 3 embed: done, but some scans have no vector; 75 stopped by SIGTERM with a
checkpoint, run it again; 130 interrupted"""
DESCRIPTION = """Chest CTs in, anatomy-aware encoder, embeddings and a label-efficiency report out."""
EPILOG = """examples:
  drasclr demo                                      the whole chain on a synthetic cohort, about ten minutes
  drasclr cohort scans/ -o cohort.csv               find CT volumes and DICOM series below a folder
  drasclr cohort idc --collection nlst --subjects 500
                                                    chest CTs of a public collection, read from its bucket
  drasclr run --cohort cohort.csv --workspace out   the whole chain on your scans; run it again to go on
  drasclr embed scan.nii.gz --weights out/pretrain/RUN -o scan.parquet
                                                    vectors of other scans from trained weights
  drasclr status --workspace out                    what came of each scan, and why
  drasclr explain SCAN_ID --workspace out           one of them, from its source to its embeddings
"""


STOPPED = "stopped; run the same command again to go on"
_NO_PHANTOM = "recipe {!r} makes no synthetic cohort"


class Parser(argparse.ArgumentParser):
    """A parser that suggests the nearest command, stage or option for one that does not exist."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        option = re.search(r"unrecognized arguments: (--[^\s=]*)", message)
        wrong, known = "", []
        if choice:
            wrong, known = choice.group(1), re.findall(r"[\w-]+", choice.group(2))
        elif option:
            wrong, known = option.group(1), [name for name in self._all_options() if name.startswith("--")]
        close = difflib.get_close_matches(wrong, known, n=1) if wrong else []
        super().error(f"{message}; did you mean {close[0]}?" if close else message)

    def _all_options(self) -> list[str]:
        found = [name for action in self._actions for name in action.option_strings]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += [name for sub in action.choices.values() for name in sub._all_options()]
        return found


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _amount(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no amount of 0 or more")
    return value


def _above_0(text: str) -> float:
    value = _amount(text)
    if not value:
        raise argparse.ArgumentTypeError("it must be above 0")
    return value


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = Parser(
        prog="drasclr",
        description=DESCRIPTION,
        epilog=f"{EPILOG}\n{EXIT_STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"drasclr {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help_: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_, description=help_)
        sub.add_argument("-v", "--verbose", action="store_true", help="log what happens inside")
        sub.set_defaults(run=run)
        return sub

    demo = command("demo", "The whole chain on a synthetic cohort that is made first.", run_chain_command)
    demo.add_argument(
        "--workspace", default="runs/demo", help="folder or s3:// gs:// URI (default: %(default)s)"
    )
    _recipe_options(demo, default="demo")
    add_chain_options(demo)

    run = command(
        "run", "The whole chain on your scans; run it again to go on where it stopped.", run_chain_command
    )
    _stage_options(run, required=True)
    add_chain_options(run)

    cohort = command(
        "cohort",
        "Find CT volumes and DICOM series below a folder, or choose those of public collections, and write the scan "
        "table.",
        _cohort,
    )
    cohort.add_argument(
        "folder", help="folder to search; or `idc`: public collections of the Imaging Data Commons"
    )
    cohort.add_argument("-o", "--output", default="cohort.csv", help="(default: %(default)s)")
    cohort.add_argument("--address", help="of a Ray cluster, for large trees; default: a local one")
    _json_option(cohort)
    _idc_options(cohort.add_argument_group("of `drasclr cohort idc`"))

    own = {"atlas": _atlas, "embed": _embed}
    for name, stage in GRAPH.items():
        if stage.help:
            sub = command(name, stage.help, own.get(name, _chain(name)))
            if name == "atlas":
                sub.add_argument(
                    "action", nargs="?", choices=("build", "adopt"), default="build", help="(default: build)"
                )
            if name == "embed":
                sub.description = EMBED
                _embed_options(sub)
            # Labels come with the cohort: the stages after prepare read them from it.
            required = not set(COHORT_INPUTS).isdisjoint(stage.inputs)
            _stage_options(sub, required=required, workspace=name != "embed")
            if name == "prepare":
                _prefetch_option(sub)
            _lease_option(sub)

    status = command("status", "Where each stage stands, what came of each scan, and why.", _status)
    status.add_argument("--workspace", required=True, help="folder or s3:// gs:// URI")
    _json_option(status)

    verify = command(
        "verify", "Damaged files of a workspace, shards by their checksums, and what to do.", _verify
    )
    verify.add_argument("--workspace", required=True, help="folder or s3:// gs:// URI")
    verify.add_argument(
        "--discard", action="store_true", help="delete damaged shards; the next prepare makes them again"
    )

    estimate = command(
        "estimate", "Hours and price of a cohort that need not exist yet, from measured costs.", _estimate
    )
    estimate.add_argument("--scans", type=_count, required=True)
    estimate.add_argument("--locations", type=_count, help="default: by the recipe's atlas.step")
    estimate.add_argument("--cores", type=_above_0, default=1, help="(default: %(default)s)")
    estimate.add_argument("--gpus", type=_amount, default=0, help="(default: %(default)s)")
    estimate.add_argument("--gpu-rate", type=_above_0, metavar="N", help="anchors trained a second and GPU")
    estimate.add_argument("--core-price", type=_amount, default=0, metavar="PRICE", help="of a core-hour")
    estimate.add_argument("--gpu-price", type=_amount, default=0, metavar="PRICE", help="of a GPU-hour")
    estimate.add_argument("--workspace", help="take costs measured in this one")
    _json_option(estimate)
    _recipe_options(estimate)

    imported = command("import", "Turn a checkpoint of the authors' code into a weights folder.", _import)
    imported.add_argument("checkpoint", metavar="CHECKPOINT")
    imported.add_argument("-o", "--output", required=True, metavar="DIR")
    imported.add_argument(
        "--atlas", metavar="DIR", help="of the checkpoint: atlas_lung_mask.nii.gz and atlas_patch_loc.npy"
    )

    predict = command("predict", "Predict a label of scans with a model that a sweep has kept.", _predict)
    predict.add_argument(
        "scans",
        nargs="*",
        metavar="SCAN",
        help="files, folders or scan tables; with --workspace ids, by default of all that are embedded",
    )
    predict.add_argument(
        "--model", required=True, metavar="DIR", help="a folder below evaluation/<run>/models/, or its URI"
    )
    predict.add_argument("--workspace", help="in which the scans are embedded already: folder or URI")
    predict.add_argument(
        "--weights", metavar="DIR", help="of the encoder; default: those of the model's own workspace"
    )
    predict.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="scans at a time; default: this process for one, else all CPUs",
    )
    predict.add_argument("--address", help="of a Ray cluster")
    predict.add_argument("-o", "--output", metavar="FILE", help=".csv, .parquet or .json; default: print")
    _json_option(predict)

    explain = command("explain", "One scan from its source to its verdict, shard and embeddings.", _explain)
    explain.add_argument("scan_id", metavar="SCAN_ID")
    explain.add_argument("--workspace", required=True, help="folder or s3:// gs:// URI")
    _json_option(explain)

    doctor = command("doctor", "What this machine has of what a run needs, and what to do.", _doctor)
    doctor.add_argument("--workspace", help="also whether it can be written and read")
    doctor.add_argument(
        "--address", help="also whether this Ray cluster can be reached; default: RAY_ADDRESS"
    )
    _json_option(doctor)

    completion = command(
        "completion", "Print the script that completes this command in a shell.", _completion
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))

    submit = command("submit", "Submit the chain to a running Ray cluster and follow its log.", _submit)
    submit.add_argument(
        "--address", default="http://127.0.0.1:8265", help="of the Ray dashboard (default: %(default)s)"
    )
    submit.add_argument("--detach", action="store_true", help="end once the cluster has the job")
    submit.add_argument("--attach", metavar="JOB", help="follow a job that was submitted before")
    submit.add_argument(
        "--install",
        action="store_true",
        help="nodes install the pinned dependencies; else their image has them",
    )
    submit.add_argument(
        "--patience",
        type=float,
        default=900,
        metavar="SECONDS",
        help="how long a lost connection is waited for (default: 900)",
    )
    submit.add_argument("arguments", nargs=argparse.REMAINDER, help="for jobs/pipeline.py, after --")
    return top


def _json_option(sub: argparse.ArgumentParser, help_: str = "print the result as JSON") -> None:
    sub.add_argument("--json", action="store_true", help=help_)


def _idc_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--collection", action="append", default=[], metavar="NAME", help="e.g. nlst; may be repeated"
    )
    group.add_argument(
        "--subjects", type=int, metavar="N", help="so many people at most, with all their scans"
    )
    group.add_argument("--max-tb", type=float, metavar="X", help="people are added up to this size")
    group.add_argument(
        "--kernel",
        action="append",
        default=[],
        metavar="NAME",
        help="keep these kernels; or `smooth`, `sharp`",
    )
    group.add_argument(
        "--where", default="", metavar="SQL", help="condition on the columns of the index (duckdb)"
    )
    group.add_argument("--every-series", action="store_true", help="not the best series of each study only")
    group.add_argument("--seed", type=int, default=0, help="of the order of people (default: %(default)s)")
    group.add_argument("--store", choices=("s3", "gs"), default="s3", help="(default: %(default)s)")
    group.add_argument(
        "--labels", metavar="FILE", help="clinical table of the (first) collection, CSV or Parquet"
    )
    group.add_argument(
        "--mapping", metavar="YAML", help="its columns as labels; default: the platform's, for nlst"
    )
    group.add_argument("--index", metavar="FILE", help="idc_index.parquet; default: that of idc-index-data")


def _recipe_options(sub: argparse.ArgumentParser, *, default: str = "fast") -> None:
    sub.add_argument("--recipe", default=default, metavar="NAME|FILE", help="(default: %(default)s)")
    sub.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override a key"
    )
    sub.add_argument(
        "--address", help="of a Ray cluster; default: the one that this machine belongs to, else a local one"
    )


def _lease_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--take-over",
        action="store_true",
        help="go on in a workspace whose last user has ended without notice",
    )


def _embed_options(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("of given scans, from given weights")
    group.add_argument(
        "scans",
        nargs="*",
        metavar="SCAN",
        help="volume file, DICOM folder, tree of folders, URI, or scan table (.csv)",
    )
    group.add_argument("--weights", metavar="DIR", help="folder, Hugging Face Hub id, or s3:// gs:// URI")
    group.add_argument(
        "-o", "--output", default="embeddings.parquet", help=".parquet, .csv or .npz (default: %(default)s)"
    )
    group.add_argument("--patches", metavar="FILE", help="also the vectors of all patches, .parquet")
    group.add_argument("--overlays", metavar="DIR", help="also a picture of each scan for quality control")
    group.add_argument("--pooling", choices=("mean", "mean_std"), help="default: as the weights' card says")
    group.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="scans at a time; 1: in this process, without Ray (default for one scan)",
    )
    _json_option(sub)


def _stage_options(sub: argparse.ArgumentParser, *, required: bool = False, workspace: bool = True) -> None:
    sub.add_argument(
        "--cohort", required=required, metavar="CSV", help="scan table, as `drasclr cohort` writes it"
    )
    add_label_options(sub)
    sub.add_argument("--workspace", required=workspace, help="folder or s3:// gs:// URI")
    sub.add_argument("--atlas", metavar="PATH", help="use this atlas instead of building one")
    _recipe_options(sub)


def add_label_options(sub: argparse.ArgumentParser) -> None:
    """Options of commands that read a scan table, for a second one with labels."""
    sub.add_argument(
        "--labels",
        metavar="FILE",
        help="more columns for the scan table: CSV, TSV, XLSX or Parquet, a row a key",
    )
    sub.add_argument(
        "--key",
        default="subject_id",
        metavar="COLUMN",
        help="what --labels is joined by: subject_id or scan_id, subject_id=NAME if it is called NAME there "
        "(default: %(default)s)",
    )


def _prefetch_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--prefetch",
        type=int,
        metavar="N",
        help="series of public buckets fetched ahead for each scan in preparation",
    )


def add_chain_options(sub: argparse.ArgumentParser) -> None:
    """Options of commands that run more than one stage."""
    sub.add_argument("--from", dest="first", choices=STAGES, default=STAGES[0], help="first stage")
    sub.add_argument("--to", dest="last", choices=STAGES, default=STAGES[-1], help="last stage")
    sub.add_argument(
        "--dry-run", action="store_true", help="check everything, say what would run, and how much work it is"
    )
    sub.add_argument("--status", action="store_true", help="say where the workspace stands, and end")
    _json_option(sub, "print what --dry-run or --status say as JSON")
    sub.add_argument(
        "--redo", action="append", default=[], choices=STAGES, help="make this stage's work again"
    )
    sub.add_argument(
        "--keep-older", action="store_true", help="keep what another version of this software finished"
    )
    _lease_option(sub)
    sub.add_argument(
        "--gpu-rate", type=_above_0, metavar="N", help="anchors trained a second and GPU, for --dry-run"
    )
    _prefetch_option(sub)
    terms = sub.add_argument_group("for --dry-run on scans of public buckets")
    terms.add_argument("--core-price", type=_amount, default=0, metavar="PRICE", help="of a core-hour")
    terms.add_argument("--gpu-price", type=_amount, default=0, metavar="PRICE", help="of a GPU-hour")
    terms.add_argument(
        "--egress-price", type=_amount, default=0, metavar="PRICE", help="of a GB out of a bucket"
    )
    terms.add_argument("--node-cores", type=_count, default=16, metavar="N", help="(default: %(default)s)")
    terms.add_argument("--node-gpus", type=int, default=0, metavar="N", help="(default: %(default)s)")
    terms.add_argument("--night", type=_above_0, default=10, metavar="HOURS", help="(default: %(default)s)")


def job_parser(description: str = "", prog: str | None = None) -> argparse.ArgumentParser:
    """Options of `jobs/pipeline.py`, which a submission runs; without --cohort, it makes a synthetic cohort."""
    job = Parser(prog=prog, description=description)
    job.add_argument("--recipe", default="fast", metavar="NAME|FILE")
    job.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    job.add_argument("--cohort", metavar="CSV")
    add_label_options(job)
    job.add_argument("--atlas", metavar="PATH", help="use this atlas instead of building one")
    job.add_argument("--workspace", default="runs/job", help="folder or s3:// gs:// URI")
    job.set_defaults(
        address=None, cohort_or_phantom=True
    )  # a job runs on the cluster that it was submitted to
    add_chain_options(job)
    return job


def run_chain_command(args: argparse.Namespace) -> None:
    """Run the chain, plan it, or show its state; on the synthetic cohort where none is given."""
    if args.status:
        _status(args)
        return
    _check_order(args)
    if args.json and not args.dry_run:
        raise PreflightError(
            "--json is of --dry-run and --status", "Leave it out, or add one of them", code="usage"
        )
    from ctplatform.cli.run import ChainOptions, run_cohort, run_demo
    from ctplatform.pipeline.public_fetch import Terms

    options = ChainOptions(
        first=args.first,
        last=args.last,
        dry_run=args.dry_run,
        as_json=args.json,
        redo=tuple(args.redo),
        older_code="keep" if args.keep_older else "redo",
        gpu_rate=args.gpu_rate,
        take_over=args.take_over,
        terms=Terms(
            args.core_price, args.gpu_price, args.egress_price, args.node_cores, args.node_gpus, args.night
        ),
    )
    recipe = _checked_recipe(args)
    if getattr(args, "cohort", None):
        run_cohort(args.workspace, args.cohort, recipe, options, labels=_labels(args))
    elif recipe.phantom is None and getattr(args, "cohort_or_phantom", False):
        raise PreflightError(_NO_PHANTOM.format(args.recipe), "Give --cohort", code="usage")
    else:
        run_demo(args.workspace, recipe, options)


def _check_order(args: argparse.Namespace) -> None:
    if STAGES.index(args.first) > STAGES.index(args.last):
        raise PreflightError(
            f"--from {args.first} --to {args.last}: {args.last} comes before {args.first}",
            f"The order is {', '.join(STAGES)}",
            code="usage",
        )


def _checked_recipe(args: argparse.Namespace) -> Recipe:
    """The recipe; where it cannot be used, its problems and those of the other inputs are reported together."""
    try:
        return _recipe(args)
    except ConfigError as error:
        from ctplatform.cli.run import findings_without_recipe
        from ctplatform.pipeline.checks.finding import require

        require(findings_without_recipe(error, args.workspace, getattr(args, "cohort", None)))
        raise


def _recipe(args: argparse.Namespace) -> Recipe:
    from ctplatform.config.loader import load_recipe

    overrides = list(args.overrides)
    if args.address:
        overrides.append(f"ray.address={args.address}")
    if getattr(args, "atlas", None):
        overrides.append(f"atlas.source={args.atlas}")
    if getattr(args, "prefetch", None) is not None:
        overrides.append(f"prepare.prefetch={args.prefetch}")
    return load_recipe(args.recipe, overrides)


def _labels(args: argparse.Namespace) -> tuple[str, str] | None:
    """(table, key) of --labels and --key."""
    if args.labels and not args.cohort:
        raise PlatformError(
            "--labels adds columns to a scan table, and none is given", "Give --cohort", code="usage"
        )
    return (args.labels, args.key) if args.labels else None


def first_stage(stage: str, *, atlas: str | None) -> str:
    """The stage that the command of a stage begins with; `atlas` is a given one, which is put into the workspace."""
    if stage == "pretrain":  # the encoder must not see held-out subjects
        return "split"
    return "atlas" if stage == "prepare" and atlas else stage


def _chain(stage: str) -> Callable[[argparse.Namespace], None]:
    def run(args: argparse.Namespace) -> None:
        from ctplatform.cli.run import ChainOptions, run_cohort

        options = ChainOptions(
            first=first_stage(stage, atlas=args.atlas), last=stage, take_over=args.take_over
        )
        run_cohort(args.workspace, args.cohort, _checked_recipe(args), options, labels=_labels(args))

    return run


def _atlas(args: argparse.Namespace) -> None:
    if args.action == "adopt" and not args.atlas:
        raise PlatformError("nothing to adopt", "Give --atlas PATH", code="usage")
    _chain("atlas")(args)


def _embed(args: argparse.Namespace) -> None:
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
        _chain("embed")(args)
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
        _print_json(result)
    else:
        print("\n".join(result_lines(result)))
    if result["with_vectors"] < len(result["scans"]):
        sys.exit(INCOMPLETE)


def _cohort(args: argparse.Namespace) -> None:
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
    _print_json(
        {"output": output, "scans": len(table), "subjects": int(table["subject_id"].nunique()), **more}
    )


def _print_json(value: Any) -> None:
    import json

    print(json.dumps(value, indent=2))


def _status(args: argparse.Namespace) -> None:
    from ctplatform.cli.status import show_status, status_json
    from ctplatform.storage.workspace import Workspace

    if args.json:
        _print_json(status_json(Workspace(args.workspace)))
    else:
        show_status(Workspace(args.workspace))


def _verify(args: argparse.Namespace) -> None:
    from ctplatform.cli.verify import verify
    from ctplatform.storage.workspace import Workspace

    if verify(Workspace(args.workspace), discard=args.discard):
        sys.exit(1)


def _estimate(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from ctplatform.pipeline.costs import Costs, Size
    from ctplatform.pipeline.estimate import bill, costs_of, guess_locations, table, total
    from ctplatform.storage.workspace import Workspace

    recipe = _recipe(args)
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
        _print_json({"stages": [asdict(work) for work in works], "total": asdict(total(works, **terms))})
        return
    print("\n".join(table(works)), end="\n\n")
    print("\n".join(bill(works, **terms)))


def _explain(args: argparse.Namespace) -> None:
    from ctplatform.cli.explain import explain, explain_lines
    from ctplatform.storage.workspace import Workspace

    found = explain(Workspace(args.workspace), args.scan_id)
    if args.json:
        _print_json(found)
    else:
        print("\n".join(explain_lines(found)))


def _doctor(args: argparse.Namespace) -> None:
    from ctplatform.cli.doctor import examine, lines, plain

    found = plain(findings := examine(workspace=args.workspace, address=args.address))
    if args.json:
        _print_json(found)
    else:
        print("\n".join(lines(findings)))
    if found["problems"]:
        sys.exit(1)


def _completion(args: argparse.Namespace) -> None:
    from ctplatform.cli.completion import completion

    print(completion(parser(), args.shell))


def _import(args: argparse.Namespace) -> None:
    from ctplatform.cli.import_weights import import_checkpoint

    print("\n".join(import_checkpoint(args.checkpoint, args.output, atlas=args.atlas)))


def _predict(args: argparse.Namespace) -> None:
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
    predict(
        PredictCommand(
            args.model,
            tuple(args.scans),
            workspace=args.workspace,
            weights=args.weights,
            output=args.output,
            as_json=args.json,
            workers=args.workers,
            address=args.address,
        )
    )


def _submit(args: argparse.Namespace) -> None:
    from ctplatform.compute.job_log import FollowOptions, follow_job
    from ctplatform.compute.submission import submit

    options = FollowOptions(patience_s=args.patience)
    if args.attach:
        sys.exit(follow_job(args.attach, address=args.address, options=options))
    rest = args.arguments[1:] if args.arguments[:1] == ["--"] else args.arguments
    _check_submission(job_parser(prog="drasclr submit --").parse_args(rest))
    follow = not args.detach
    sys.exit(submit(rest, address=args.address, follow=follow, install=args.install, options=options))


def _check_submission(job: argparse.Namespace) -> None:
    """What a job's arguments show before it is submitted; the job checks the rest where it runs.

    Raises:
        PreflightError: it could not end well.
    """
    from pathlib import Path

    from ctplatform.cohort.table import read_cohort
    from ctplatform.pipeline.checks.cohort import cohort_findings
    from ctplatform.pipeline.checks.finding import Finding, of_error, require
    from ctplatform.pipeline.checks.recipe import recipe_findings
    from ctplatform.pipeline.graph import between

    _check_order(job)
    try:
        recipe = _recipe(job)
    except ConfigError as error:
        require([of_error("--recipe", error)])
        raise
    if recipe.phantom is None and not job.cohort and not job.status:
        require([Finding("error", "--cohort", _NO_PHANTOM.format(job.recipe), "Give --cohort")])
    stages = between(job.first, job.last)
    found = recipe_findings(recipe, stages)
    # Labels of a second table are joined where the job runs.
    if job.cohort and not job.labels and Path(job.cohort).is_file():
        found += cohort_findings(read_cohort(job.cohort), recipe, stages, local=False)
    for finding in found:
        if finding.level == "warning":
            print(finding.line(), file=sys.stderr)
    require(found)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `drasclr` command.

    An error that the user can correct ends with one message and status 1; with 2 if it was found before anything
    started.
    """
    args = parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if getattr(args, "verbose", False) else logging.WARNING, format="%(message)s"
    )
    from ctplatform.compute.interruption import STATUS, ends_within

    try:
        # A submission that is followed goes on after Ctrl-C: the user chooses what becomes of the job.
        with contextlib.nullcontext() if args.command == "submit" else ends_within(message=STOPPED):
            args.run(args)
    except RestartRequested as request:
        print(f"\n{request}", file=sys.stderr)
        sys.exit(RESTART_STATUS)
    except PlatformError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, PreflightError) else 1)
    except KeyboardInterrupt:
        print(f"\n{STOPPED}", file=sys.stderr)
        sys.exit(STATUS)


if __name__ == "__main__":
    main()
