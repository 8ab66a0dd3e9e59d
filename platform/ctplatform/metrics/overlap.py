"""Scores of predicted label maps: Dice, HD95, AUROC over voxels, percentage of the lung. Intervals are over subjects.

A trial stores K numbers a subject and class, from which the score of any resample of the subjects follows. Pooled
scores add these numbers over the subjects: they are defined where a subject lacks a class, and false positives in
healthy subjects lower them. Scores by case are means over the subjects that have the structure.

Legend: N test subjects, C classes, K numbers a subject and class, B resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ctplatform.metrics.scores import METRICS, Metric, Score, Targets

BINS = 128
"""Bins of the logit of a class' probability, from whose histograms AUROC is computed."""
_LOGIT = 10.0
INTERSECTION, PREDICTED, TRUE, PREDICTED_PERCENT, TRUE_PERCENT = range(5)
REGION_NUMBERS = 5  # then the histograms of the class' own voxels and of the others
CASE_DICE, CASE_HD95, CASE_FALSE_ML = range(3)
SUBTYPES = ("centrilobular", "panlobular", "paraseptal")


def bins(probability_M: np.ndarray) -> np.ndarray:
    """Bin of a probability, 0 to BINS - 1; order is kept."""
    p = np.clip(probability_M, 1e-9, 1 - 1e-9)
    logit = np.clip(np.log(p / (1 - p)), -_LOGIT, _LOGIT)
    return np.asarray(np.minimum(((logit + _LOGIT) / (2 * _LOGIT) * BINS).astype(int), BINS - 1))


def region_numbers(counts_MC: np.ndarray, missed_C: np.ndarray, probability_MC: np.ndarray) -> np.ndarray:
    """A subject's K numbers a class, [C, K], from its windows.

    Args:
        counts_MC: labelled voxels of each class in each window's tile.
        missed_C: labelled voxels of each class outside of all tiles: they count as missed, with the lowest probability.
        probability_MC: of each class; the largest is the predicted one.
    """
    classes = counts_MC.shape[1]
    called_M = probability_MC.argmax(1)
    labelled_M = counts_MC.sum(1)
    rows = []
    for c in range(classes):
        own_M, called = counts_MC[:, c], called_M == c
        true = own_M.sum() + missed_C[c]
        histograms = [
            np.bincount(bins(probability_MC[:, c]), weights=weight, minlength=BINS).astype(float)
            for weight in (own_M, labelled_M - own_M)
        ]
        histograms[0][0] += missed_C[c]
        histograms[1][0] += missed_C.sum() - missed_C[c]
        numbers = [own_M[called].sum(), labelled_M[called].sum(), true, np.nan, np.nan]
        rows.append(np.concatenate([numbers, *histograms]))
    table = np.array(rows, float)
    table[:, PREDICTED_PERCENT] = 100 * table[:, PREDICTED] / max(labelled_M.sum(), 1)
    table[:, TRUE_PERCENT] = 100 * table[:, TRUE] / max(table[:, TRUE].sum(), 1)
    return table


def pooled_dice(numbers_NCK: np.ndarray, rows_BN: np.ndarray, c: int) -> np.ndarray:
    """2 x intersection / (predicted + true), each summed over the subjects; nan without a true voxel, [B]."""
    inter, predicted, true = _sums(numbers_NCK[:, c, :3], rows_BN).T
    return np.asarray(
        np.divide(2 * inter, predicted + true, out=np.full(len(rows_BN), np.nan), where=true > 0)
    )


def pooled_auroc(numbers_NCK: np.ndarray, rows_BN: np.ndarray, c: int) -> np.ndarray:
    """AUROC of one class against all others over all subjects' voxels; pairs in one bin count one half, [B]."""
    own_BH = _sums(numbers_NCK[:, c, REGION_NUMBERS : REGION_NUMBERS + BINS], rows_BN)
    other_BH = _sums(numbers_NCK[:, c, REGION_NUMBERS + BINS :], rows_BN)
    below_BH = np.cumsum(other_BH, 1) - other_BH / 2
    pairs_B = own_BH.sum(1) * other_BH.sum(1)
    return np.asarray(
        np.divide((own_BH * below_BH).sum(1), pairs_B, out=np.full(len(rows_BN), np.nan), where=pairs_B > 0)
    )


def percent_rho(numbers_NCK: np.ndarray, rows_BN: np.ndarray, c: int) -> np.ndarray:
    """Spearman's rho of predicted and true percentage of the lung over subjects, [B]."""
    true = Targets(numbers_NCK[:, c, TRUE_PERCENT])
    return METRICS["spearman"].score(true, numbers_NCK[:, c, PREDICTED_PERCENT], rows_BN)


def case_mean(numbers_NCK: np.ndarray, rows_BN: np.ndarray, number: int) -> np.ndarray:
    """Mean over cases (subject x class) for which a number is defined, [B]."""
    values_NC = numbers_NCK[:, :, number]
    defined_NC = np.isfinite(values_NC)
    total_B = np.where(defined_NC, values_NC, 0).sum(1)[rows_BN].sum(1)
    cases_B = defined_NC.sum(1)[rows_BN].sum(1).astype(float)
    return np.asarray(np.divide(total_B, cases_B, out=np.full(len(rows_BN), np.nan), where=cases_B > 0))


def _sums(numbers_NK: np.ndarray, rows_BN: np.ndarray) -> np.ndarray:
    """Numbers summed over each resample's subjects, [B, K]."""
    drawn_BN = np.stack([np.bincount(rows, minlength=len(numbers_NK)) for rows in rows_BN])
    return np.asarray(drawn_BN @ numbers_NK)


def _dice_of_one_class(test: Targets, c: int) -> float:
    """Dice of predicting one class everywhere."""
    share = test.value_N[:, c].sum() / max(test.value_N.sum(), 1)
    return float(2 * share / (1 + share))


def _of_class(score: Callable[[np.ndarray, np.ndarray, int], np.ndarray], c: int) -> Score:
    return lambda targets, numbers_NCK, rows_BN: score(numbers_NCK, rows_BN, c)


def region_metrics(classes: Sequence[str], title: str = "mean Dice of the classes") -> list[Metric]:
    """Metrics of a task in which every voxel of lung has a class; `classes` are those after the normal one."""
    numbered = list(enumerate(classes, 1))

    def mean_dice(_: Targets, numbers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        each = np.stack([pooled_dice(numbers, rows, c) for c, _ in numbered])
        defined = np.isfinite(each)  # a resample may lack a subtype
        total, count = np.where(defined, each, 0).sum(0), defined.sum(0)
        return np.asarray(np.divide(total, count, out=np.full(len(rows), np.nan), where=count > 0))

    metrics = [
        Metric(
            "dice_mean",
            title,
            mean_dice,
            lambda train, test: max(_dice_of_one_class(test, c) for c, _ in numbered) / len(numbered),
        )
    ]
    for c, name in numbered:

        def chance_dice(train: Targets, test: Targets, c: int = c) -> float:
            return _dice_of_one_class(test, c)

        metrics += [
            Metric(
                f"dice_{name}",
                f"Dice, {name}",
                _of_class(pooled_dice, c),
                chance_dice,
            ),
            Metric(
                f"auroc_{name}",
                f"AUROC over voxels, {name}",
                _of_class(pooled_auroc, c),
                lambda train, test: 0.5,
            ),
            Metric(
                f"percent_{name}",
                f"rho of % of the lung, {name}",
                _of_class(percent_rho, c),
                lambda train, test: 0.0,
            ),
        ]
    return metrics


def _case_metric(name: str, title: str, number: int, chance: float, *, higher: bool) -> Metric:
    return Metric(
        name,
        title,
        lambda _, numbers, rows: case_mean(numbers, rows, number),
        lambda train, test: chance,
        higher_is_better=higher,
    )


OVERLAP: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *region_metrics(SUBTYPES, "mean Dice of the subtypes"),
        _case_metric("dice", "Dice", CASE_DICE, 0.0, higher=True),
        _case_metric("hd95", "HD95, mm", CASE_HD95, float("nan"), higher=False),
        _case_metric("false_ml", "ml painted where there is none", CASE_FALSE_ML, 0.0, higher=False),
    )
}
SCORES = METRICS | OVERLAP
"""All metrics by name."""
_OF_KIND = {
    "regression": ("r2", "spearman", "mae"),
    "ordinal": ("kappa", "exact", "within_one"),
    "binary": ("auroc", "auprc", "brier"),
    "count": ("d2", "spearman", "mae"),
    "survival": ("c_index",),
}
_BY_CLASS = {"dice": "Dice", "auroc": "AUROC over voxels", "percent": "rho of % of the lung"}


def of_kind(kind: str, classes: Iterable[str] = (), *, whole_lung: bool = False) -> dict[str, Metric]:
    """The metrics of a kind of label, by name.

    Args:
        kind: as in the recipe's section `tasks`.
        classes: of a label map.
        whole_lung: whether every voxel of lung has a class, the first of them normal.
    """
    if kind in _OF_KIND:
        return {name: METRICS[name] for name in _OF_KIND[kind]}
    if not whole_lung:
        return {name: OVERLAP[name] for name in ("dice", "hd95", "false_ml")}
    own = tuple(classes)[1:]
    metrics = OVERLAP if own == SUBTYPES else {metric.name: metric for metric in region_metrics(own)}
    return {name: metrics[name] for name in ("dice_mean", *(f"{s}_{c}" for s in _BY_CLASS for c in own))}


def title_of(name: str) -> str | None:
    """A metric's title; None for a name that no metric has, and for no class of a label map."""
    if name in SCORES:
        return SCORES[name].title
    score, _, of = name.partition("_")
    if name == "dice_mean" or score not in _BY_CLASS or not of:
        return None
    return f"{_BY_CLASS[score]}, {of}"
