"""The whole chain as one job: `ray job submit --working-dir . -- python jobs/pipeline.py --recipe demo`.

Stages whose inputs, settings and code are unchanged are skipped; the same command resumes a run that was cut off.
"""

from __future__ import annotations

import sys
from pathlib import Path

# A submitted job is a source tree without an installation.
sys.path[:0] = [str(Path(__file__).resolve().parent.parent / folder) for folder in ("", "platform")]

from ctplatform.cli.main import job_parser, run_chain_command
from ctplatform.errors import RESTART_STATUS, PlatformError, PreflightError, RestartRequested


def main() -> None:
    """Without --cohort, the recipe's synthetic cohort is made and used."""
    args = job_parser(__doc__ or "").parse_args()
    try:
        run_chain_command(args)
    except RestartRequested as request:
        print(request, file=sys.stderr)
        sys.exit(RESTART_STATUS)
    except PlatformError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, PreflightError) else 1)


if __name__ == "__main__":
    main()
