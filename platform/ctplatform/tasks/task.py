"""A downstream task: its labels and how they are checked, the head that is fitted, and its metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from ctplatform.errors import StageError
from ctplatform.metrics.scores import METRICS, Metric, Targets
from ctplatform.metrics.stratification import quantile_strata
from ctplatform.tasks.heads import Cumulative, Poisson, Probe, Ridge

Kind = Literal["regression", "ordinal", "binary", "count", "survival", "regions", "structures"]
TOP_STRATUM = 3  # counts from here on are one stratum


@dataclass(frozen=True)
class Labels:
    """The labelled subjects of a task, sorted by id; `notes` say what was left out."""

    subjects: tuple[str, ...]
    targets: Targets
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """One downstream task.

    Args:
        name: as in the recipe and the tables.
        title: in the report, with the unit.
        kind: of label; decides the default head, the loss of end-to-end training and the strata.
        columns: standard label names, the label (or time) first, the event second.
        metrics: names in `metrics.scores.METRICS`, the main one first.
        valid: least and greatest plausible value of the column; others are counted and left out.
        minimum: fewest labelled training subjects that a head can be fitted on.
        unit: of the label.
        values: numbers that stand for texts of the column.
        at_least: the label is 1 from this value of the column on, else 0.
        head: makes the head; None takes the usual one of the kind.
        definition: digest of what a user's own task depends on; empty for the platform's, which a release fixes.
    """

    name: str
    title: str
    kind: Kind
    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    valid: tuple[float, float] = (-np.inf, np.inf)
    minimum: int = 4
    unit: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    at_least: float | None = None
    head: Callable[[], Probe] | None = None
    definition: str = ""

    @property
    def scores(self) -> tuple[Metric, ...]:
        """The task's metrics, the main one first."""
        return tuple(METRICS[name] for name in self.metrics)

    def labels(self, cohort: pd.DataFrame, columns: Mapping[str, str] | None = None) -> Labels:
        """Read one label a subject: the first one among its scans.

        Args:
            cohort: `subject_id` and label columns, one row a scan.
            columns: standard label name -> the cohort's column, where they differ.

        Raises:
            StageError: a column is missing, or no subject has a usable label.
        """
        names = [(columns or {}).get(name, name) for name in self.columns]
        missing = [name for name in names if name not in cohort]
        if missing:
            raise StageError(
                f"task {self.name} is skipped: the cohort has no column {', '.join(map(repr, missing))}",
                "Add it, or name yours under sweep.columns",
                code="no-column",
            )
        raw = cohort[names].replace(r"^\s*$", np.nan, regex=True)
        if self.values:
            raw = raw.assign(**{names[0]: [self._number(value) for value in raw[names[0]]]})
        table = raw.apply(pd.to_numeric, errors="coerce").astype(float)
        table = table.replace([np.inf, -np.inf], np.nan)
        notes = []
        unreadable = int((table.isna() & raw.notna()).any(axis=1).sum())
        value, (low, high) = table[names[0]], self.valid
        outside = value.notna() & ~value.between(low, high)
        table.loc[outside, names[0]] = np.nan
        if self.kind == "binary" and self.at_least is None:
            neither = value.notna() & ~value.isin([0, 1])
            if neither.any():
                notes.append(
                    f"{self.name}: {int(neither.sum())} label(s) are neither 0 nor 1 and were left out"
                )
                table.loc[neither, names[0]] = np.nan
        if self.kind == "survival":
            no_flag = table[names[1]].notna() & ~table[names[1]].isin([0, 1])
            outside |= no_flag
            table.loc[no_flag, names[1]] = np.nan
        subject = cohort["subject_id"].astype(str)
        differing = int((table.groupby(subject).nunique() > 1).any(axis=1).sum())
        complete = table.dropna().groupby(subject).first().sort_index()
        unlabelled = subject.nunique() - len(complete)
        if unreadable:
            notes.append(f"{self.name}: {unreadable} label(s) are no number and were left out")
        if outside.any():
            notes.append(
                f"{self.name}: {int(outside.sum())} label(s) outside [{low:g}, {high:g}] were left out"
            )
        if differing:
            notes.append(
                f"{self.name}: {differing} subject(s) have scans with different labels; the first was taken"
            )
        if unlabelled:
            notes.append(f"{self.name}: {unlabelled} of {subject.nunique()} subjects have no label")
        if complete.empty:
            raise StageError(
                f"task {self.name} is skipped: no subject has a usable {' and '.join(map(repr, names))}",
                "Check the column's values",
                code="no-labels",
            )
        label = complete[names[0]].to_numpy()
        if self.at_least is not None:
            label = (label >= self.at_least).astype(float)
        event = complete[names[1]].to_numpy() == 1 if self.kind == "survival" else None
        return Labels(tuple(complete.index), Targets(label, event), tuple(notes))

    def _number(self, value: object) -> object:
        return self.values.get(str(value).strip(), value)

    def strata(self, targets: Targets) -> np.ndarray:
        """Strata of label subsets and folds: the class, the event, or the quantile bin."""
        if targets.event_N is not None:
            return targets.event_N.astype(int)
        if self.kind == "regression":
            return quantile_strata(targets.value_N)
        if self.kind == "count":
            return np.asarray(np.minimum(targets.value_N, TOP_STRATUM).astype(int))
        return np.unique(targets.value_N, return_inverse=True)[1]

    def check(self, targets: Targets) -> None:
        """Check that a head can be fitted on these training labels.

        Raises:
            StageError: too few subjects, events or classes.
        """
        problem = ""
        if len(targets) < self.minimum:
            problem = f"{len(targets)} labelled training subject(s), at least {self.minimum} are needed"
        elif targets.event_N is not None and targets.event_N.sum() < 2:
            problem = (
                f"{int(targets.event_N.sum())} event(s) among the training subjects, at least 2 are needed"
            )
        elif self.kind != "survival" and len(np.unique(targets.value_N)) < 2:
            problem = f"all {len(targets)} training subjects have the label {targets.value_N[0]:g}"
        if problem:
            raise StageError(f"task {self.name}: {problem}", "Label more subjects", code="few-labels")

    def clip(self, prediction_N: np.ndarray) -> np.ndarray:
        """Predictions of a number, moved into the valid range."""
        return np.clip(prediction_N, *self.valid) if self.kind == "regression" else prediction_N

    def probe(self) -> Probe:
        """A new head for frozen representations."""
        if self.head is not None:
            return self.head()
        if self.kind == "regression":
            return Ridge()
        if self.kind == "count":
            return Poisson()
        if self.kind == "survival":
            from ctplatform.tasks.survival import Cox

            return Cox()
        return Cumulative(probability=self.kind == "binary")
