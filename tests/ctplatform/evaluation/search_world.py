"""A sweep of two cells whose hyper-parameters are searched: one with all labels, one with few."""

from __future__ import annotations

from ctplatform.evaluation.cells import Cell
from tests.ctplatform.evaluation_world import recipe


def searching(**keys):
    search = {"configurations": 3, "lr_factor": [0.01, 3.0], **keys.pop("search", {})}
    values = {
        "tasks": ["emphysema_extent"],
        "initialisations": ["scratch"],
        "fractions": [0.1, 1.0],
        "seeds": 1,
        "scratch": {"max_steps": 6, "locations": 1, "pool": 1, "subjects_per_batch": 4, "lr": 3e-3},
        "search": search,
        **keys,
    }
    return recipe(**values)


FULL, FEW = (Cell("emphysema_extent", "scratch", fraction, 0) for fraction in (1.0, 0.1))
