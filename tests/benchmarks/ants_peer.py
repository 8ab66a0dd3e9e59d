"""The published registration, run by ANTs: one process a scan, in an interpreter of its own.

    PYTHON tests/benchmarks/ants_peer.py FIXED MOVING RESULT

PYTHON needs antspyx and SimpleITK only. The settings are those of the published preprocessing, argument by argument.
RESULT becomes JSON: the affine from fixed to moving points (4x4, LPS mm) and the CPU-seconds of the registration,
reading included.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"


def arguments(fixed: str, moving: str, prefix: str) -> list[str]:
    """Arguments of antsRegistration as published."""
    pair = f"{fixed},{moving},1"
    return [
        *("-d", "3"),
        *("-o", f"[{prefix},{prefix}warped.nii.gz]"),
        *("-r", f"[{pair}]"),
        *("-t", "Affine[0.01]"),
        *("-m", f"MI[{pair},32,Regular,0.5]"),
        *("-c", "[500x250x100]"),
        *("-s", "2x1x0"),
        *("-f", "4x2x1"),
    ]


def main() -> None:
    """Register one scan."""
    import numpy as np
    import SimpleITK as sitk
    from ants.internal import get_lib_fn

    fixed, moving, result = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        prefix = f"{folder}/found_"
        start = time.process_time()
        code = get_lib_fn("antsRegistration")(arguments(fixed, moving, prefix))
        seconds = time.process_time() - start
        if code:
            raise SystemExit(f"antsRegistration returned {code}")
        transform = sitk.AffineTransform(sitk.ReadTransform(f"{prefix}0GenericAffine.mat"))
    affine_44 = np.eye(4)
    affine_44[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    affine_44[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    found = {"affine": affine_44.tolist(), "cpu_s": seconds, "software": f"antspyx {version('antspyx')}"}
    Path(result).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
