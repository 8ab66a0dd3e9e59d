"""The atlas of a workspace: built from the cohort itself, or given."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ctplatform.compute.cpu_slots import slots_of_this_node
from ctplatform.compute.placement import ray_options
from ctplatform.compute.time_limit import time_limit
from ctplatform.config.digest import config_hash
from ctplatform.config.preparation import AtlasConfig
from ctplatform.config.recipe import Recipe
from ctplatform.dataset.atlas import image_from_bytes, image_to_bytes
from ctplatform.errors import ScanError, StageError
from ctplatform.imaging.label_map import given_path
from ctplatform.preparation.scan import limits_of
from ctplatform.preparation.waves import one_task_a_scan
from ctplatform.storage.layout import ATLAS, ATLAS_FILE, ATLAS_STAGE_FILE, TEMPLATE_FILE
from ctplatform.storage.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    import SimpleITK as sitk

    from drasclr.atlas import Atlas

logger = logging.getLogger(__name__)
PUBLISHED_TEMPLATE, PUBLISHED_CORNERS = "atlas_lung_mask.nii.gz", "atlas_patch_loc.npy"

RETRIES = 1
"""Times that a scan is tried again whose worker died."""
MAX_THREADS = 8
"""Of the task that averages the masks; the result does not depend on their number."""
MIN_LUNG_L = 0.1
"""Of each lung of a scan that goes into a template."""

Progress = Callable[[int, int], None]


def atlas(
    workspace: Workspace, cohort: pd.DataFrame | None, recipe: Recipe, *, on_progress: Progress | None = None
) -> dict[str, Any]:
    """Make the workspace's atlas, or keep the one that is there if it was made with the same settings.

    Args:
        workspace: receives the atlas.
        cohort: the scan table; a built template is the mean of its lung masks. Not needed for a given one.
        recipe: its section `atlas`: `source` is "build", or where the template is.
        on_progress: called with (scans done, scans in all).

    Returns:
        What was done: `made`, `locations`, `hash`, `scans`.

    Raises:
        StageError: no usable lung mask, or a given atlas that cannot be read.
    """
    config = recipe.atlas
    wanted = config_hash(config, recipe.prepare.lungs if config.source == "build" else "given")
    if workspace.exists(ATLAS, ATLAS_STAGE_FILE) and workspace.exists(ATLAS, ATLAS_FILE):
        stage = workspace.read_json(ATLAS, ATLAS_STAGE_FILE)
        if stage["config_hash"] == wanted:
            return {**stage, "made": False}
    if config.source == "build":
        if cohort is None:
            raise StageError(
                "an atlas is built from a cohort, and none was given", "Give --cohort", code="atlas"
            )
        template, used = _build_template(workspace, cohort, recipe, on_progress)
        corners = None
    else:
        template, corners = given_atlas(config.source)
        used = 0
    made = locate(template, config, corners_N3=corners)
    workspace.write_bytes(image_to_bytes(template), ATLAS, TEMPLATE_FILE)
    workspace.write_json(made.to_json(), ATLAS, ATLAS_FILE)
    stage = {"config_hash": wanted, "hash": made.hash, "locations": made.num_locations, "scans": used}
    workspace.write_json(stage, ATLAS, ATLAS_STAGE_FILE)
    return {**stage, "made": True}


def locate(template: sitk.Image, config: AtlasConfig, *, corners_N3: np.ndarray | None = None) -> Atlas:
    """The atlas whose locations are a grid on a template, or at given corners."""
    import SimpleITK as sitk

    from drasclr.atlas import Atlas

    return Atlas.from_template(
        sitk.GetArrayFromImage(template),
        spacing=template.GetSpacing(),
        origin=template.GetOrigin(),
        direction=template.GetDirection(),
        patch_size=config.patch_size,
        step=config.step,
        min_lung_fraction=config.min_lung_fraction,
        neighbours=config.neighbours,
        block_size=config.block_size,
        corners_N3=corners_N3,
    )


def _build_template(
    workspace: Workspace, cohort: pd.DataFrame, recipe: Recipe, on_progress: Progress | None
) -> tuple[sitk.Image, int]:
    """Template, and the number of its scans. Masks by Ray Data, one task a scan, and their mean in one more task: the
    driver decodes no mask but the mean."""
    import ray

    config = recipe.atlas
    # A scan's place in the draw depends on its id alone, so that new scans change the draw little.
    order = sorted(
        range(len(cohort)), key=lambda i: hashlib.sha256(cohort["scan_id"][i].encode()).hexdigest()
    )
    rows = cohort.iloc[order[: config.max_scans]].to_dict("records")
    items = [
        {
            "scan_id": r["scan_id"],
            "path": r["path"],
            "series_uid": r.get("series_uid") or "",
            "lung_mask": given_path(r.get("lung_mask")),
        }
        for r in rows
    ]
    dataset = one_task_a_scan(items, _Masker(recipe), recipe, retries=RETRIES)
    dataset.context.max_errored_blocks = -1  # a block is one scan: a lost one is no reason to stop the others
    refs, reasons = [], []
    lost = {item["scan_id"] for item in items}
    for done, row in enumerate(dataset.iter_rows(), 1):
        lost.discard(row["scan_id"])
        if row["mask"]:
            refs.append(ray.put(row["mask"]))
        else:
            reasons.append(f"{row['scan_id']}: {row['problem']}")
        if on_progress:
            on_progress(done, len(items))
    reasons += [
        f"{scan}: its worker died each time: out of memory, a crash of a decoder, or longer than "
        f"prepare.max_seconds={recipe.prepare.max_seconds:g}"
        for scan in sorted(lost)
    ]
    for reason in reasons:
        logger.info("not in the atlas: %s", reason)
    if not refs:
        raise StageError(
            f"none of {len(items)} scans has a lung mask that an atlas can be built from ({'; '.join(reasons[:5])})",
            "Give whole-lung CTs, or an atlas with --atlas",
            code="atlas",
        )
    options = ray_options(recipe.placement.prepare)
    mean = ray.remote(num_cpus=recipe.prepare.num_cpus, **options)(_mean_template)
    return image_from_bytes(ray.get(mean.remote(refs, config.iterations))), len(refs)


class _Masker:
    """Row -> its coarse lung mask as bytes, or the reason why it is not used."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import SimpleITK as sitk

        from ctplatform.imaging.volume import read_volume
        from ctplatform.lungs.segmenter import lung_mask

        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        quality = self.recipe.prepare.quality
        config = self.recipe.prepare
        try:
            with time_limit(config.max_seconds, lambda: None), limits_of(config):
                volume = read_volume(row["path"], series_uid=row["series_uid"] or None)
                mask = lung_mask(volume.image, config.lungs, given=row["lung_mask"])
        except ScanError as error:
            return {"scan_id": row["scan_id"], "mask": b"", "problem": error.problem}
        except Exception as error:  # of a library: one scan less, as in prepare
            logger.exception("scan %s", row["scan_id"])
            problem = f"an unexpected {type(error).__name__} while working on this scan"
            return {"scan_id": row["scan_id"], "mask": b"", "problem": problem}
        low, high = quality.flag_volume_l
        litres = mask.measures["volume_l"]
        cut = max(mask.measures["cut_top_cm2"], mask.measures["cut_bottom_cm2"])
        problem = ""
        if not low <= litres <= high:
            problem = f"lung volume {litres:.1f} L"
        elif min(mask.measures["right_l"], mask.measures["left_l"]) < MIN_LUNG_L:
            problem = "one lung only (a crop, or a lung that was removed)"
        elif cut > quality.flag_cut_cm2:
            problem = f"lungs cut off at an end slice ({cut:.0f} cm2)"
        data = b"" if problem else image_to_bytes(mask.labels)
        return {"scan_id": row["scan_id"], "mask": data, "problem": problem}


def _mean_template(refs: list[Any], iterations: int) -> bytes:
    import ray
    import SimpleITK as sitk

    from ctplatform.registration.mean_template import make_mean_template

    # The stage's last step: nothing else of it runs on this node.
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(min(MAX_THREADS, slots_of_this_node(1.0)))
    masks = [image_from_bytes(data) for data in ray.get(refs)]
    return image_to_bytes(make_mean_template(masks, iterations=iterations))


def given_atlas(source: str) -> tuple[sitk.Image, np.ndarray | None]:
    """Template and corners from a NIfTI file, a workspace's atlas folder, or the published atlas's folder.

    Raises:
        StageError: there is none.
    """
    import SimpleITK as sitk

    place = Workspace(source)
    corners = None
    if source.endswith((".nii", ".nii.gz", ".nrrd", ".mha")):
        folder, _, name = source.rpartition("/")
        place, names = Workspace(folder or "."), [name]
    else:
        names = [TEMPLATE_FILE, PUBLISHED_TEMPLATE]
        if place.exists(ATLAS_FILE):
            from drasclr.atlas import Atlas

            corners = Atlas.from_json(place.read_json(ATLAS_FILE)).corners_N3
        elif place.exists(PUBLISHED_CORNERS):
            corners = np.load(io.BytesIO(place.read_bytes(PUBLISHED_CORNERS)), allow_pickle=False)
    for name in names:
        if place.exists(name):
            image = image_from_bytes(place.read_bytes(name), name=name)
            if image.GetDimension() != 3 or not sitk.GetArrayViewFromImage(image).any():
                break
            return sitk.Cast(image, sitk.sitkUInt8), corners
    raise StageError(
        f"{source} holds no atlas",
        f"Give a 3-D lung-mask image, or a folder with {TEMPLATE_FILE} (and {ATLAS_FILE}) "
        f"or {PUBLISHED_TEMPLATE} and {PUBLISHED_CORNERS}",
        code="atlas",
    )
