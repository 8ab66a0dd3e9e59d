"""Pretrain the encoder, as a job: `... -- python jobs/pretrain.py --workspace URI`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / folder) for folder in ("", "platform")]

from ctplatform.cli.main import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
