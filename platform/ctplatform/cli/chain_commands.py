"""Commands that run stages, here or as a job; their recipes and what can be checked of them at once."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ctplatform.cli.arguments import job_parser
from ctplatform.errors import ConfigError, PlatformError, PreflightError
from ctplatform.pipeline.graph import STAGES

if TYPE_CHECKING:
    from ctplatform.config.recipe import Recipe

NO_PHANTOM = "recipe {!r} makes no synthetic cohort"


def run_chain_command(args: argparse.Namespace) -> None:
    """Run the chain, plan it, or show its state; on the synthetic cohort where none is given."""
    if args.status:
        status_command(args)
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
    recipe = checked_recipe(args)
    if getattr(args, "cohort", None):
        run_cohort(args.workspace, args.cohort, recipe, options, labels=labels_of(args))
    elif recipe.phantom is None and getattr(args, "cohort_or_phantom", False):
        raise PreflightError(NO_PHANTOM.format(args.recipe), "Give --cohort", code="usage")
    else:
        run_demo(args.workspace, recipe, options)


def _check_order(args: argparse.Namespace) -> None:
    if STAGES.index(args.first) > STAGES.index(args.last):
        raise PreflightError(
            f"--from {args.first} --to {args.last}: {args.last} comes before {args.first}",
            f"The order is {', '.join(STAGES)}",
            code="usage",
        )


def checked_recipe(args: argparse.Namespace) -> Recipe:
    """The recipe; where it cannot be used, its problems and those of the other inputs are reported together."""
    try:
        return recipe_of(args)
    except ConfigError as error:
        from ctplatform.cli.run import findings_without_recipe
        from ctplatform.pipeline.checks.finding import require

        require(findings_without_recipe(error, args.workspace, getattr(args, "cohort", None)))
        raise


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe that --recipe and --set name, with what other options set in it."""
    from ctplatform.config.loader import load_recipe

    overrides = list(args.overrides)
    if args.address:
        overrides.append(f"ray.address={args.address}")
    if getattr(args, "atlas", None):
        overrides.append(f"atlas.source={args.atlas}")
    if getattr(args, "prefetch", None) is not None:
        overrides.append(f"prepare.prefetch={args.prefetch}")
    return load_recipe(args.recipe, overrides)


def labels_of(args: argparse.Namespace) -> tuple[str, str] | None:
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


def stage_command(stage: str) -> Callable[[argparse.Namespace], None]:
    """The command of one stage."""

    def run(args: argparse.Namespace) -> None:
        from ctplatform.cli.run import ChainOptions, run_cohort

        options = ChainOptions(
            first=first_stage(stage, atlas=args.atlas), last=stage, take_over=args.take_over
        )
        run_cohort(args.workspace, args.cohort, checked_recipe(args), options, labels=labels_of(args))

    return run


def atlas_command(args: argparse.Namespace) -> None:
    """Make the atlas, or adopt a given one."""
    if args.action == "adopt" and not args.atlas:
        raise PlatformError("nothing to adopt", "Give --atlas PATH", code="usage")
    stage_command("atlas")(args)


def status_command(args: argparse.Namespace) -> None:
    """Print where the workspace stands."""
    from ctplatform.cli.status import show_status, status_json
    from ctplatform.storage.workspace import Workspace

    if args.json:
        print_json(status_json(Workspace(args.workspace)))
    else:
        show_status(Workspace(args.workspace))


def submit_command(args: argparse.Namespace) -> None:
    """Submit the chain, or attach to a job."""
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
        recipe = recipe_of(job)
    except ConfigError as error:
        require([of_error("--recipe", error)])
        raise
    if recipe.phantom is None and not job.cohort and not job.status:
        require([Finding("error", "--cohort", NO_PHANTOM.format(job.recipe), "Give --cohort")])
    stages = between(job.first, job.last)
    found = recipe_findings(recipe, stages)
    # Labels of a second table are joined where the job runs.
    if job.cohort and not job.labels and Path(job.cohort).is_file():
        found += cohort_findings(read_cohort(job.cohort), recipe, stages, local=False)
    for finding in found:
        if finding.level == "warning":
            print(finding.line(), file=sys.stderr)
    require(found)


def print_json(value: Any) -> None:
    """A value as indented JSON."""
    import json

    print(json.dumps(value, indent=2))
