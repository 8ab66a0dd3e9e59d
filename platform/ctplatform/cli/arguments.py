"""Options that commands share, and the parser that suggests near names."""

from __future__ import annotations

import argparse
import difflib
import math
import re
from typing import NoReturn

from ctplatform.pipeline.graph import STAGES


class Parser(argparse.ArgumentParser):
    """A parser that suggests the nearest command, stage or option for one that does not exist."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        option = re.search(r"unrecognized arguments: (--[^\s=]*)", message)
        wrong, known = "", []
        if choice:
            wrong, known = choice.group(1), re.findall(r"[\w-]+", choice.group(2))
        elif option:
            wrong, known = option.group(1), [name for name in self._all_options() if name.startswith("--")]
        close = difflib.get_close_matches(wrong, known, n=1) if wrong else []
        super().error(f"{message}; did you mean {close[0]}?" if close else message)

    def _all_options(self) -> list[str]:
        found = [name for action in self._actions for name in action.option_strings]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += [name for sub in action.choices.values() for name in sub._all_options()]
        return found


def count(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def amount(text: str) -> float:
    """A finite number of at least 0."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no amount of 0 or more")
    return value


def above_0(text: str) -> float:
    """A finite number above 0."""
    value = amount(text)
    if not value:
        raise argparse.ArgumentTypeError("it must be above 0")
    return value


def add_json_option(sub: argparse.ArgumentParser, help_: str = "print the result as JSON") -> None:
    """--json."""
    sub.add_argument("--json", action="store_true", help=help_)


def add_idc_options(group: argparse._ArgumentGroup) -> None:
    """Options of `drasclr cohort idc`."""
    group.add_argument(
        "--collection", action="append", default=[], metavar="NAME", help="e.g. nlst; may be repeated"
    )
    group.add_argument(
        "--subjects", type=int, metavar="N", help="so many people at most, with all their scans"
    )
    group.add_argument("--max-tb", type=float, metavar="X", help="people are added up to this size")
    group.add_argument(
        "--kernel",
        action="append",
        default=[],
        metavar="NAME",
        help="keep these kernels; or `smooth`, `sharp`",
    )
    group.add_argument(
        "--where", default="", metavar="SQL", help="condition on the columns of the index (duckdb)"
    )
    group.add_argument("--every-series", action="store_true", help="not the best series of each study only")
    group.add_argument("--seed", type=int, default=0, help="of the order of people (default: %(default)s)")
    group.add_argument("--store", choices=("s3", "gs"), default="s3", help="(default: %(default)s)")
    group.add_argument(
        "--labels", metavar="FILE", help="clinical table of the (first) collection, CSV or Parquet"
    )
    group.add_argument(
        "--mapping", metavar="YAML", help="its columns as labels; default: the platform's, for nlst"
    )
    group.add_argument("--index", metavar="FILE", help="idc_index.parquet; default: that of idc-index-data")


def add_workspace_option(sub: argparse.ArgumentParser, *, required: bool = True) -> None:
    """--workspace."""
    sub.add_argument("--workspace", required=required, help="folder or s3:// gs:// URI")


def add_recipe_options(sub: argparse.ArgumentParser, *, default: str = "fast") -> None:
    """--recipe, --set and the cluster."""
    sub.add_argument("--recipe", default=default, metavar="NAME|FILE", help="(default: %(default)s)")
    sub.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override a key"
    )
    sub.add_argument(
        "--address", help="of a Ray cluster; default: the one that this machine belongs to, else a local one"
    )


def add_lease_option(sub: argparse.ArgumentParser) -> None:
    """--take-over."""
    sub.add_argument(
        "--take-over",
        action="store_true",
        help="go on in a workspace whose last user has ended without notice",
    )


def add_embed_options(sub: argparse.ArgumentParser) -> None:
    """Options for given scans and weights."""
    group = sub.add_argument_group("of given scans, from given weights")
    group.add_argument(
        "scans",
        nargs="*",
        metavar="SCAN",
        help="volume file, DICOM folder, tree of folders, URI, or scan table (.csv)",
    )
    group.add_argument("--weights", metavar="DIR", help="folder, hf://owner/name, or s3:// gs:// URI")
    group.add_argument(
        "-o", "--output", default="embeddings.parquet", help=".parquet, .csv or .npz (default: %(default)s)"
    )
    group.add_argument("--patches", metavar="FILE", help="also the vectors of all patches, .parquet")
    group.add_argument("--overlays", metavar="DIR", help="also a picture of each scan for quality control")
    group.add_argument(
        "--pooling",
        choices=("mean", "mean_std", "standardised", "standardised_spread", "standardised_gradient"),
        help="default: as the weights' card says",
    )
    group.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(default: %(default)s)")
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="scans at a time; 1: in this process, without Ray (default for one scan)",
    )
    add_json_option(sub)


def add_export_options(sub: argparse.ArgumentParser) -> None:
    """Options of `drasclr export`."""
    sub.add_argument("weights", metavar="DIR", help="folder, hf://owner/name, or s3:// gs:// URI")
    sub.add_argument("--to", required=True, choices=("onnx", "monai-bundle", "huggingface"))
    sub.add_argument("-o", "--output", metavar="DIR", help="default: the name of the weights, and the format")
    sub.add_argument("--atlas", metavar="DIR", help="of weights that were saved without it")
    add_license_option(sub)


def add_license_option(sub: argparse.ArgumentParser) -> None:
    """--license."""
    sub.add_argument(
        "--license",
        metavar="ID",
        help="of the weights on the Hugging Face Hub, as cc-by-nc-4.0; default: the card's",
    )


def add_nearest_options(sub: argparse.ArgumentParser) -> None:
    """Options of `drasclr nearest`."""
    sub.add_argument(
        "scan", metavar="SCAN", help="id of a scan of the workspace, volume file or DICOM folder"
    )
    add_workspace_option(sub)
    sub.add_argument("--run", dest="run_name", metavar="RUN", help="whose embeddings; default: the only one")
    sub.add_argument(
        "--location",
        dest="locations",
        action="append",
        type=int,
        default=[],
        metavar="N",
        help="of the atlas, may be repeated; default: the three with the most lung below -950 HU",
    )
    sub.add_argument("--count", type=count, default=4, metavar="K", help="neighbours (default: %(default)s)")
    sub.add_argument("-o", "--output", default="nearest.html", metavar="FILE", help="(default: %(default)s)")
    add_open_option(sub)
    add_json_option(sub)


def add_view_options(sub: argparse.ArgumentParser) -> None:
    """Options of `drasclr view`."""
    sub.add_argument("scan", metavar="SCAN", help="volume file or DICOM folder")
    sub.add_argument("--weights", metavar="DIR", help="whose atlas is shown; without, CT and mask only")
    sub.add_argument("--atlas", metavar="DIR", help="atlas of the weights, where they were saved without it")
    sub.add_argument(
        "--labels", metavar="FILE", help="label map: NIfTI, NRRD, MetaImage, DICOM SEG or RTSTRUCT"
    )
    sub.add_argument(
        "--spacing",
        type=above_0,
        default=1.5,
        metavar="MM",
        help="of the voxels in the page (default: %(default)s)",
    )
    sub.add_argument(
        "--viewer",
        choices=("niivue", "slices"),
        help="NiiVue, with a rendering (default where it is installed), or slices without WebGL",
    )
    sub.add_argument(
        "--mask",
        metavar="FILE",
        help="write the lung mask (right 50, left 100) on the scan's own voxels, too: .nii.gz",
    )
    sub.add_argument("-o", "--output", default="scan.html", metavar="FILE", help="(default: %(default)s)")
    add_open_option(sub)
    add_json_option(sub)


def add_open_option(sub: argparse.ArgumentParser) -> None:
    """--open."""
    sub.add_argument("--open", action="store_true", help="open the page in a browser")


def add_stage_options(
    sub: argparse.ArgumentParser, *, required: bool = False, workspace: bool = True
) -> None:
    """Options of the command of a stage."""
    sub.add_argument(
        "--cohort", required=required, metavar="CSV", help="scan table, as `drasclr cohort` writes it"
    )
    add_label_options(sub)
    add_workspace_option(sub, required=workspace)
    sub.add_argument("--atlas", metavar="PATH", help="use this atlas instead of building one")
    add_recipe_options(sub)


def add_label_options(sub: argparse.ArgumentParser) -> None:
    """Options of commands that read a scan table, for a second one with labels."""
    sub.add_argument(
        "--labels",
        metavar="FILE",
        help="more columns for the scan table: CSV, TSV, XLSX or Parquet, a row a key",
    )
    sub.add_argument(
        "--key",
        default="subject_id",
        metavar="COLUMN",
        help="what --labels is joined by: subject_id or scan_id, subject_id=NAME if it is called NAME there "
        "(default: %(default)s)",
    )


def add_prefetch_option(sub: argparse.ArgumentParser) -> None:
    """--prefetch."""
    sub.add_argument(
        "--prefetch",
        type=int,
        metavar="N",
        help="series of public buckets fetched ahead for each scan in preparation",
    )


def add_chain_options(sub: argparse.ArgumentParser) -> None:
    """Options of commands that run more than one stage."""
    sub.add_argument("--from", dest="first", choices=STAGES, default=STAGES[0], help="first stage")
    sub.add_argument("--to", dest="last", choices=STAGES, default=STAGES[-1], help="last stage")
    sub.add_argument(
        "--dry-run", action="store_true", help="check everything, say what would run, and how much work it is"
    )
    sub.add_argument("--status", action="store_true", help="say where the workspace stands, and end")
    add_json_option(sub, "print what --dry-run or --status say as JSON")
    sub.add_argument(
        "--redo", action="append", default=[], choices=STAGES, help="make this stage's work again"
    )
    sub.add_argument(
        "--keep-older", action="store_true", help="keep what another version of this software finished"
    )
    add_lease_option(sub)
    sub.add_argument(
        "--gpu-rate", type=above_0, metavar="N", help="anchors trained a second and GPU, for --dry-run"
    )
    add_prefetch_option(sub)
    terms = sub.add_argument_group("for --dry-run on scans of public buckets")
    terms.add_argument("--core-price", type=amount, default=0, metavar="PRICE", help="of a core-hour")
    terms.add_argument("--gpu-price", type=amount, default=0, metavar="PRICE", help="of a GPU-hour")
    terms.add_argument(
        "--egress-price", type=amount, default=0, metavar="PRICE", help="of a GB out of a bucket"
    )
    terms.add_argument("--node-cores", type=count, default=16, metavar="N", help="(default: %(default)s)")
    terms.add_argument("--node-gpus", type=int, default=0, metavar="N", help="(default: %(default)s)")
    terms.add_argument("--night", type=above_0, default=10, metavar="HOURS", help="(default: %(default)s)")


def job_parser(description: str = "", prog: str | None = None) -> argparse.ArgumentParser:
    """Options of `jobs/pipeline.py`, which a submission runs; without --cohort, it makes a synthetic cohort."""
    job = Parser(prog=prog, description=description)
    job.add_argument("--recipe", default="fast", metavar="NAME|FILE")
    job.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    job.add_argument("--cohort", metavar="CSV")
    add_label_options(job)
    job.add_argument("--atlas", metavar="PATH", help="use this atlas instead of building one")
    job.add_argument("--workspace", default="runs/job", help="folder or s3:// gs:// URI")
    job.set_defaults(
        address=None, cohort_or_phantom=True
    )  # a job runs on the cluster that it was submitted to
    add_chain_options(job)
    return job
