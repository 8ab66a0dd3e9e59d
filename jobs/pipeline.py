"""The whole chain as one job: `ray job submit --working-dir . -- python jobs/pipeline.py --recipe demo`.

Stages whose inputs, settings and code are unchanged are skipped; the same command resumes a run that was cut off.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# A submitted job is a source tree without an installation.
sys.path[:0] = [str(Path(__file__).resolve().parent.parent / folder) for folder in ("", "platform")]

from ctplatform.cli.main import add_chain_options, add_label_options, run_chain_command
from ctplatform.config.loader import load_recipe
from ctplatform.errors import RESTART_STATUS, PlatformError, RestartRequested


def main() -> None:
    """Without --cohort, the recipe's synthetic cohort is made and used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="fast", metavar="NAME|FILE")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--cohort", metavar="CSV")
    add_label_options(parser)
    parser.add_argument("--atlas", metavar="PATH", help="use this atlas instead of building one")
    parser.add_argument("--workspace", default="runs/job", help="folder or s3:// gs:// URI")
    add_chain_options(parser)
    args = parser.parse_args()
    args.address = None  # a job runs on the cluster that it was submitted to
    try:
        if not args.cohort and not args.status and not load_recipe(args.recipe, args.overrides).phantom:
            parser.error(f"recipe {args.recipe!r} makes no synthetic cohort: give --cohort")
        run_chain_command(args)
    except RestartRequested as request:
        print(request, file=sys.stderr)
        sys.exit(RESTART_STATUS)
    except PlatformError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
