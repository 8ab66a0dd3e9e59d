"""`python -m ctplatform.phantom FOLDER`: write a synthetic cohort."""

from __future__ import annotations

import argparse

from ctplatform.config.recipe import PhantomConfig, VariationConfig
from ctplatform.phantom.files import generate


def main() -> None:
    """Parse the command line and write the cohort."""
    default = PhantomConfig.model_validate({})
    parser = argparse.ArgumentParser(
        prog="python -m ctplatform.phantom", description="Write a synthetic chest-CT cohort."
    )
    parser.add_argument("folder")
    parser.add_argument("--subjects", type=int, default=default.subjects)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--spacing", type=float, default=default.spacing_mm, help="mean in-plane spacing, mm")
    parser.add_argument(
        "--dicom-every", type=int, default=default.dicom_every, help="every n-th scan as DICOM; 0: none"
    )
    parser.add_argument(
        "--vary",
        nargs="+",
        default=[],
        choices=list(VariationConfig.model_fields),
        metavar="OPTION",
        help="options of `phantom.variation`: %(choices)s",
    )
    options = parser.parse_args()
    config = PhantomConfig(
        subjects=options.subjects,
        seed=options.seed,
        spacing_mm=options.spacing,
        dicom_every=options.dicom_every,
        variation=VariationConfig(**dict.fromkeys(options.vary, True)),
    )
    table = generate(options.folder, config)
    print(f"{len(table)} subjects in {options.folder}, table in {options.folder}/cohort.csv")


if __name__ == "__main__":
    main()
