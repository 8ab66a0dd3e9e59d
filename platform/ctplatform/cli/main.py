"""The `drasclr` command. Nothing heavy is imported before a command is known, so that --help answers at once."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence

from ctplatform import __version__
from ctplatform.cli import commands
from ctplatform.cli.arguments import (
    Parser,
    above_0,
    add_chain_options,
    add_embed_options,
    add_export_options,
    add_idc_options,
    add_json_option,
    add_lease_option,
    add_license_option,
    add_nearest_options,
    add_prefetch_option,
    add_recipe_options,
    add_stage_options,
    add_view_options,
    add_workspace_option,
    amount,
    count,
)
from ctplatform.cli.chain_commands import (
    atlas_command,
    run_chain_command,
    stage_command,
    status_command,
    submit_command,
)
from ctplatform.errors import RESTART_STATUS, PlatformError, PreflightError, RestartRequested
from ctplatform.pipeline.graph import COHORT_INPUTS, GRAPH

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


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = Parser(
        prog="drasclr",
        description=DESCRIPTION,
        epilog=f"{EPILOG}\n{EXIT_STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"drasclr {__version__}")
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help_: str, run: Callable[[argparse.Namespace], None]) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=help_, description=help_)
        sub.add_argument("-v", "--verbose", action="store_true", help="log what happens inside")
        sub.set_defaults(run=run)
        return sub

    demo = command("demo", "The whole chain on a synthetic cohort that is made first.", run_chain_command)
    demo.add_argument(
        "--workspace", default="runs/demo", help="folder or s3:// gs:// URI (default: %(default)s)"
    )
    add_recipe_options(demo, default="demo")
    add_chain_options(demo)

    run = command(
        "run", "The whole chain on your scans; run it again to go on where it stopped.", run_chain_command
    )
    add_stage_options(run, required=True)
    add_chain_options(run)

    cohort = command(
        "cohort",
        "Find CT volumes and DICOM series below a folder, or choose those of public collections, and write the scan "
        "table.",
        commands.cohort_command,
    )
    cohort.add_argument(
        "folder", help="folder to search; or `idc`: public collections of the Imaging Data Commons"
    )
    cohort.add_argument("-o", "--output", default="cohort.csv", help="(default: %(default)s)")
    cohort.add_argument("--address", help="of a Ray cluster, for large trees; default: a local one")
    add_json_option(cohort)
    add_idc_options(cohort.add_argument_group("of `drasclr cohort idc`"))

    own = {"atlas": atlas_command, "embed": commands.embed_command}
    for name, stage in GRAPH.items():
        if stage.help:
            sub = command(name, stage.help, own.get(name, stage_command(name)))
            if name == "atlas":
                sub.add_argument(
                    "action", nargs="?", choices=("build", "adopt"), default="build", help="(default: build)"
                )
            if name == "embed":
                sub.description = EMBED
                add_embed_options(sub)
            # Labels come with the cohort: the stages after prepare read them from it.
            required = not set(COHORT_INPUTS).isdisjoint(stage.inputs)
            add_stage_options(sub, required=required, workspace=name != "embed")
            if name == "prepare":
                add_prefetch_option(sub)
            add_lease_option(sub)

    status = command("status", "Where each stage stands, what came of each scan, and why.", status_command)
    add_workspace_option(status)
    add_json_option(status)

    verify = command(
        "verify",
        "Damaged files of a workspace, shards by their checksums, and what to do.",
        commands.verify_command,
    )
    add_workspace_option(verify)
    verify.add_argument(
        "--discard", action="store_true", help="delete damaged shards; the next prepare makes them again"
    )

    estimate = command(
        "estimate",
        "Hours and price of a cohort that need not exist yet, from measured costs.",
        commands.estimate_command,
    )
    estimate.add_argument("--scans", type=count, required=True)
    estimate.add_argument("--locations", type=count, help="default: by the recipe's atlas.step")
    estimate.add_argument("--cores", type=above_0, default=1, help="(default: %(default)s)")
    estimate.add_argument("--gpus", type=amount, default=0, help="(default: %(default)s)")
    estimate.add_argument("--gpu-rate", type=above_0, metavar="N", help="anchors trained a second and GPU")
    estimate.add_argument("--core-price", type=amount, default=0, metavar="PRICE", help="of a core-hour")
    estimate.add_argument("--gpu-price", type=amount, default=0, metavar="PRICE", help="of a GPU-hour")
    estimate.add_argument("--workspace", help="take costs measured in this one")
    add_json_option(estimate)
    add_recipe_options(estimate)

    imported = command(
        "import",
        "Turn a checkpoint of the authors' code into a weights folder.",
        commands.import_command,
    )
    imported.add_argument("checkpoint", metavar="CHECKPOINT")
    imported.add_argument("-o", "--output", required=True, metavar="DIR")
    imported.add_argument(
        "--atlas", metavar="DIR", help="of the checkpoint: atlas_lung_mask.nii.gz and atlas_patch_loc.npy"
    )

    add_export_options(
        command("export", "Turn trained weights into files for other software.", commands.export_command)
    )

    pushed = command("push", "Upload trained weights to the Hugging Face Hub.", commands.push_command)
    pushed.add_argument("weights", metavar="DIR", help="folder, hf://owner/name, or s3:// gs:// URI")
    pushed.add_argument("name", metavar="OWNER/NAME")
    add_license_option(pushed)
    pushed.add_argument(
        "--public", action="store_true", help="if the repository is new; else only its owner sees it"
    )

    predict = command(
        "predict",
        "Predict a label of scans with a model that a sweep has kept.",
        commands.predict_command,
    )
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
    predict.add_argument(
        "--maps",
        default="label_maps",
        metavar="DIR",
        help="of a model of label maps: where the maps go (default: %(default)s)",
    )
    predict.add_argument(
        "--no-seg", action="store_true", help="label maps as NIfTI alone, also of DICOM series"
    )
    add_json_option(predict)

    add_nearest_options(
        command("nearest", "The most similar patients of a scan, with pictures.", commands.nearest_command)
    )

    add_view_options(
        command(
            "view", "A scan with its mask and the atlas's locations, for a browser.", commands.view_command
        )
    )

    explain = command(
        "explain",
        "One scan from its source to its verdict, shard and embeddings.",
        commands.explain_command,
    )
    explain.add_argument("scan_id", metavar="SCAN_ID")
    add_workspace_option(explain)
    add_json_option(explain)

    doctor = command(
        "doctor",
        "What this machine has of what a run needs, and what to do.",
        commands.doctor_command,
    )
    doctor.add_argument("--workspace", help="also whether it can be written and read")
    doctor.add_argument(
        "--address", help="also whether this Ray cluster can be reached; default: RAY_ADDRESS"
    )
    add_json_option(doctor)

    completion = command(
        "completion", "Print the script that completes this command in a shell.", _completion
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))

    submit = command(
        "submit", "Submit the chain to a running Ray cluster and follow its log.", submit_command
    )
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


def _completion(args: argparse.Namespace) -> None:
    from ctplatform.cli.completion import completion

    print(completion(parser(), args.shell))


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
