"""Real CTs with axes reversed in all seven ways, and in another order: which are accepted, and which true ones are
rejected for it.

DRASCLR_REAL_CT=... DRASCLR_ATLAS=... python -m tests.benchmarks.reversals
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from dataclasses import replace

import SimpleITK as sitk

from ctplatform.config.preparation import PrepareConfig
from ctplatform.errors import ScanError
from ctplatform.imaging.volume import Volume, read_volume
from ctplatform.lungs.segmenter import make_segmenter
from ctplatform.preparation.quality import Verdict, assess, measure
from ctplatform.registration.affine_registration import register
from ctplatform.registration.template import Template
from tests.benchmarks.realscans import folders, items

CONFIG = PrepareConfig.model_validate({})
REVERSED = ("mirrored", "front to back", "upside down", "swapped")
ORDERS = [order for order in itertools.permutations(range(3)) if order != (0, 1, 2)]


def reversed_axes(image: sitk.Image, axes: tuple[bool, ...]) -> sitk.Image:
    """The same header, and voxels in the opposite order along some axes: what a header that lies does."""
    flipped = sitk.Flip(image, axes)
    flipped.CopyInformation(image)
    return flipped


def turned_axes(image: sitk.Image, order: tuple[int, ...], axes: tuple[bool, ...]) -> sitk.Image:
    """Voxels and their sizes in another order of the axes, and the direction of the true one."""
    turned = sitk.Flip(sitk.PermuteAxes(image, order), axes)
    turned.SetDirection(image.GetDirection())
    return turned


def verdict_of(volume: Volume, template: Template) -> tuple[Verdict, dict[str, float]]:
    """As `prepare` finds it, without samples."""
    try:
        mask = make_segmenter(CONFIG.lungs)(volume.image)
        registration = register(mask.labels, template, CONFIG.registration)
    except ScanError as error:
        return Verdict("rejected", (error.problem,)), {}
    measures = measure(volume, mask, registration, None, template)
    return assess(measures, CONFIG.quality, notes=mask.notes), measures


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    ct, atlas = folders()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    template = Template.read(atlas / "atlas_lung_mask.nii.gz", config=CONFIG.registration)
    accepted = rejected = named = total = 0
    turned: Counter[str] = Counter()
    for item in items(ct):
        volume = read_volume(item["path"], series_uid=item["series_uid"] or None)
        for axes in itertools.product((False, True), repeat=3):
            seen, measures = verdict_of(replace(volume, image=reversed_axes(volume.image, axes)), template)
            found = [word for word in REVERSED if any(word in reason for reason in seen.reasons)]
            if any(axes):
                total += 1
                accepted += seen.state == "accepted"
                named += bool(found)
            else:
                rejected += seen.state == "rejected" and bool(found)
            name = "".join(letter for letter, flip in zip("xyz", axes) if flip) or "true"
            shown = {
                k: round(measures[k], 2) for k in ("mirrored", "bone_behind", "apex_above") if k in measures
            }
            print(f"{item['scan_id']}  {name:4}  {seen.state:8}  {', '.join(found) or '-':30}  {shown}")
        for order, axes in itertools.product(ORDERS, itertools.product((False, True), repeat=3)):
            seen, _ = verdict_of(replace(volume, image=turned_axes(volume.image, order, axes)), template)
            turned[seen.state] += 1
            if seen.state != "rejected":
                print(f"{item['scan_id']}  {order} {axes}  {seen.state}: {seen.reasons}")
    print(f"in another order of the axes: {dict(turned)}")
    print(
        f"{total} reversed: {accepted} accepted, {named} named; true scans rejected as reversed: {rejected}"
    )


if __name__ == "__main__":
    main()
