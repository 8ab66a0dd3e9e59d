"""Affine registration of lung masks to an atlas, and the atlas lung mask of a cohort.

`affine_registration` is the entry point; `template` is its target, `distance_maps` what is compared,
`levenberg_marquardt` the fit, `affine` the transforms; `mean_template` makes an atlas of many masks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctplatform.lazy import attach

if TYPE_CHECKING:
    from ctplatform.registration.affine import to_transform, transform_points
    from ctplatform.registration.affine_registration import Registration, register
    from ctplatform.registration.mean_template import make_mean_template
    from ctplatform.registration.template import Template

__all__ = ["Registration", "Template", "make_mean_template", "register", "to_transform", "transform_points"]

__getattr__, __dir__ = attach(
    __name__,
    {
        "Registration": "affine_registration",
        "Template": "template",
        "make_mean_template": "mean_template",
        "register": "affine_registration",
        "to_transform": "affine",
        "transform_points": "affine",
    },
)
