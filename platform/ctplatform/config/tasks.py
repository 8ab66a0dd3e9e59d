"""Section `tasks`: the user's own labels, each a few lines of the recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ctplatform.config.section import Section


class TaskConfig(Section):
    """A task of your own, under its name: `tasks: {my_score: {kind: regression, column: score}}`.

    `sweep.tasks` says which tasks are evaluated, these and the platform's. The platform's are written in the same way
    (`ctplatform/tasks/definitions/`).
    """

    kind: Literal["regression", "ordinal", "binary", "count", "survival", "label_map"] = Field(
        description="of label; decides head, loss, strata and metrics"
    )
    column: str = Field(
        min_length=1,
        description="cohort column with the label; of survival: the time; of label_map: the path of the map",
    )
    event: str | None = Field(
        default=None, description="survival: column with 1 for an event, 0 for censored"
    )
    title: str = Field(default="", description="in reports; default: the name")
    unit: str = Field(default="", description="of the label, for example mm")
    values: dict[str, float] = Field(
        default_factory=dict, description="numbers that stand for texts of the column, {never: 0, current: 1}"
    )
    at_least: float | None = Field(
        default=None, description="binary: the label is 1 from this value of the column on, else 0"
    )
    valid: tuple[float | None, float | None] = Field(
        default=(None, None), description="least and greatest plausible value; others are left out"
    )
    metrics: tuple[str, ...] = Field(default=(), description="the main one first; default: those of the kind")
    minimum: int | None = Field(default=None, ge=2, description="labelled training subjects that a fit needs")
    classes: dict[str, int] = Field(
        default_factory=dict, description="label_map: class -> its value in the maps"
    )
    whole_lung: bool = Field(
        default=False,
        description="label_map: every voxel of lung has a class, the first of them normal, as emphysema subtypes have; "
        "false: structures stand out from a background of 0, as nodules do",
    )

    @model_validator(mode="after")
    def _fits_kind(self) -> TaskConfig:
        problems = []
        only = {"event": "survival", "at_least": "binary", "classes": "label_map", "whole_lung": "label_map"}
        for key, kind in only.items():
            if getattr(self, key) not in (None, {}, False) and self.kind != kind:
                problems.append(f"{key} is for kind {kind}, not {self.kind}")
        if self.kind == "survival" and not self.event:
            problems.append("survival needs event, the column with 1 for an event and 0 for censored")
        if self.kind == "label_map" and len(self.classes) < (2 if self.whole_lung else 1):
            least = "two classes, the normal one first" if self.whole_lung else "a class"
            problems.append(f"label_map needs {least} under classes, with their values in the maps")
        if len(set(self.classes.values())) < len(self.classes) or min(self.classes.values(), default=1) < 1:
            problems.append(f"classes need different values from 1 on, not {self.classes}")
        low, high = self.valid
        if low is not None and high is not None and low >= high:
            problems.append(f"valid is (least, greatest), not {list(self.valid)}")
        problems += _unknown_metrics(self)
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _unknown_metrics(config: TaskConfig) -> list[str]:
    from ctplatform.metrics.overlap import of_kind

    known = of_kind(config.kind, config.classes, whole_lung=config.whole_lung)
    unknown = [name for name in config.metrics if name not in known]
    return [f"metrics {', '.join(unknown)}: of kind {config.kind} there are {', '.join(known)}"] * bool(
        unknown
    )
