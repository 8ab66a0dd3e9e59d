"""Submit the chain to a running Ray cluster, follow its log and return its exit status.

python jobs/submit.py --address http://127.0.0.1:8265 -- --recipe demo --workspace s3://bucket/run
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from ctplatform.cli.main import main

if __name__ == "__main__":
    main(["submit", *sys.argv[1:]])
