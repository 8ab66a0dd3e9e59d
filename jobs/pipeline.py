"""The whole chain as one job: `ray job submit --working-dir . -- python jobs/pipeline.py --recipe demo`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# A submitted job is a source tree without an installation.
sys.path[:0] = [str(Path(__file__).resolve().parent.parent / folder) for folder in ("", "platform")]

from ctplatform.config import load_recipe
from ctplatform.errors import PlatformError
from ctplatform.launch import run_cohort, run_demo


def main() -> None:
    """Without --cohort, the recipe's synthetic cohort is made and used."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="fast", metavar="NAME|FILE")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--cohort", metavar="CSV")
    parser.add_argument("--workspace", default="runs/job", help="folder or s3:// gs:// URI")
    args = parser.parse_args()
    try:
        recipe = load_recipe(args.recipe, args.overrides)
        if args.cohort:
            run_cohort(args.workspace, args.cohort, recipe)
        elif recipe.phantom:
            run_demo(args.workspace, recipe)
        else:
            parser.error(f"recipe {args.recipe!r} makes no synthetic cohort: give --cohort")
    except PlatformError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
