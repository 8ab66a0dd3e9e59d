"""The split of subjects into training and test: by subject, stratified, stored, and checked for leaks.

It is made before pretraining, which reads no scan of a test subject.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from ctplatform.config.preparation import SplitConfig
from ctplatform.config.recipe import Recipe
from ctplatform.dataset import ledger
from ctplatform.dataset.duplicates import Pair, near_duplicates
from ctplatform.errors import StageError
from ctplatform.metrics.stratification import balanced_subset, quantile_strata, stratified_order
from ctplatform.storage.layout import SPLITS_FILE
from ctplatform.storage.workspace import Workspace

logger = logging.getLogger(__name__)
DEFAULT_COLUMN = "laa950"


@dataclass(frozen=True)
class Split:
    """Training and test subjects.

    Attributes:
        train, test: sorted subject ids.
        seed: of the draw.
        stratify: column whose quantiles or classes were kept in proportion; None: not stratified.
        test_fraction: of the subjects, as configured.
        similar: (scan_id, scan_id, correlation) of near-duplicate scans of different subjects.
        balance: columns whose classes were kept in proportion.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    seed: int = 0
    stratify: str | None = None
    test_fraction: float = 0.0
    similar: tuple[tuple[str, str, float], ...] = ()
    balance: tuple[str, ...] = ()

    def check(self, table: pd.DataFrame) -> None:
        """Check that nothing of a test subject is on the training side.

        Args:
            table: scans with `subject_id` and, where known, `content_hash`.

        Raises:
            StageError: a subject on both sides or on none, or the same image on both group_in_test.
        """
        both = set(self.train) & set(self.test)
        if both:
            raise _leak(f"{_some(both)} stand in both train and test")
        subjects = table["subject_id"].astype(str)
        missing = set(subjects) - set(self.train) - set(self.test)
        if missing:
            raise StageError(
                f"{_some(missing)} stand in neither train nor test of {SPLITS_FILE}",
                "Run `drasclr prepare` again, which adds new subjects to the split",
                code="split",
            )
        if "content_hash" in table:
            known = table["content_hash"].notna() & (table["content_hash"] != "")
            hashes, test = table.loc[known, "content_hash"], subjects[known].isin(self.test)
            shared = set(hashes[test]) & set(hashes[~test])
            if shared:
                raise _leak(
                    f"{_some(subjects[known][hashes.isin(shared)])} have the same image on both sides"
                )


def make_split(
    table: pd.DataFrame,
    config: SplitConfig,
    *,
    previous: Split | None = None,
    similar: Sequence[Pair] = (),
) -> Split:
    """Draw the test subjects; the same table in any order gives the same split.

    Subjects that share a scan with identical content, or have scans that are near-duplicates, stay on one side. Of each
    quantile bin of `config.stratify` (numbers) or each of its classes (texts), the same share goes to the test side;
    with `config.balance` about the same share, and of each class of those columns, too.

    Args:
        table: one row a scan: `subject_id`, and where there are any `content_hash` and the column to stratify on.
        config: fraction, seed and column; with column None, `laa950` where the table has it.
        previous: an older split of a smaller table; its subjects stay where they are.
        similar: near-duplicate scans (`duplicates.near_duplicates`), by `scan_id`.

    Raises:
        StageError: no such column, or too few subjects for two group_in_test.
    """
    column = config.stratify if config.stratify is not None else DEFAULT_COLUMN
    for name in config.balance:
        if name not in table:
            raise _no_column("split.balance", name, table)
    if column not in table:
        if config.stratify is not None:
            raise _no_column("split.stratify", column, table)
        logger.warning("the split is not stratified: there is no column %r", column)
        column = ""
    subjects = table["subject_id"].astype(str).to_numpy()
    pairs = _of_different_subjects(table, similar)
    group_of = _linked_subjects(subjects, table.get("content_hash"), pairs)
    groups = sorted(set(group_of.values()))
    if len(groups) < 2:
        raise StageError(
            f"{len(set(subjects))} subject(s) with different scans cannot be split in two",
            "Give a cohort with more subjects",
            code="split",
        )
    fixed = dict.fromkeys(previous.train, False) | dict.fromkeys(previous.test, True) if previous else {}
    group_in_test: dict[str, bool] = {}
    for subject in sorted(fixed):
        group_in_test.setdefault(group_of.get(subject, subject), fixed[subject])
    open_groups = [group for group in groups if group not in group_in_test]
    group_of_row = [group_of[s] for s in subjects]
    strata = _strata(table[column] if column else None, group_of_row, open_groups)
    count = round(config.test_fraction * len(open_groups))
    if not fixed:
        count = min(max(count, 1), len(groups) - 1)
    if config.balance:
        classes = [_classes(table[name], group_of_row, open_groups) for name in config.balance]
        chosen = balanced_subset(
            np.stack([strata - strata.min(initial=0), *classes], 1), count, seed=config.seed
        )
        group_in_test |= dict(zip(open_groups, chosen.tolist()))
    else:
        for place, index in enumerate(stratified_order(strata, seed=config.seed)):
            group_in_test[open_groups[index]] = place < count
    in_test = {
        subject: fixed.get(subject, group_in_test[group]) for subject, group in group_of.items()
    } | fixed
    split = Split(
        train=tuple(sorted(s for s, test in in_test.items() if not test)),
        test=tuple(sorted(s for s, test in in_test.items() if test)),
        seed=config.seed,
        stratify=column or None,
        test_fraction=config.test_fraction,
        similar=tuple((pair.a, pair.b, round(pair.correlation, 3)) for pair, _, _ in pairs),
        balance=config.balance,
    )
    split.check(table)
    return split


def write_split(workspace: Workspace, split: Split) -> None:
    """Commit the split."""
    values = asdict(split)
    if not split.balance:  # as files of splits without it have always been
        del values["balance"]
    workspace.write_json(values, SPLITS_FILE)


def read_split(workspace: Workspace) -> Split:
    """The stored split.

    Raises:
        StageError: there is none, or its file is damaged.
    """
    split = workspace.read_record(Split, SPLITS_FILE)
    return replace(
        split,
        train=tuple(split.train),
        test=tuple(split.test),
        similar=tuple((a, b, value) for a, b, value in split.similar),
        balance=tuple(split.balance),
    )


def leak_warnings(split: Split, table: pd.DataFrame, similar: Sequence[Pair]) -> list[str]:
    """Messages on near-duplicate scans on different sides of the split. No errors, as two people may look alike;
    identical content is refused by `Split.check`."""
    test = set(split.test)
    return [
        f"scans {pair} look like one acquisition, but subject {a} and subject {b} stand on different sides of the "
        "split: compare the two pictures in scans/qc; if they are one patient, give both the same subject_id and "
        "start in a new workspace, else nothing is to be done"
        for pair, a, b in _of_different_subjects(table, similar)
        if (a in test) != (b in test)
    ]


def _of_different_subjects(table: pd.DataFrame, similar: Sequence[Pair]) -> list[tuple[Pair, str, str]]:
    if not similar:
        return []
    owner = table.drop_duplicates("scan_id").set_index("scan_id")["subject_id"].astype(str)
    known = [(pair, owner.get(pair.a), owner.get(pair.b)) for pair in similar]
    return [(pair, a, b) for pair, a, b in known if a is not None and b is not None and a != b]


def _linked_subjects(
    subjects: np.ndarray, hashes: pd.Series | None, pairs: Sequence[tuple[Pair, str, str]] = ()
) -> dict[str, str]:
    """Subject -> the first subject (by id) that it shares a scan with, in any number of steps."""
    from scipy.cluster.hierarchy import DisjointSet

    linked = DisjointSet(sorted(set(subjects)))
    first_of = {subject: subject for subject in linked}  # root of a set -> its first subject

    def link(one: str, other: str, message: str, *arguments: object) -> None:
        a, b = first_of[linked[one]], first_of[linked[other]]
        if a != b:
            logger.warning(message, *arguments or (a, b))
            linked.merge(one, other)
            first_of[linked[one]] = min(a, b)

    if hashes is not None:
        first: dict[str, str] = {}
        for subject, content in sorted(zip(subjects, hashes.fillna("").astype(str))):
            if not content:
                continue
            message = "subjects %s and %s have the same image; they stay on one side"
            link(first.setdefault(content, subject), subject, message)
    for pair, one, other in pairs:
        message = (
            "scans %s of subjects %s and %s look like one acquisition; the subjects stay on one side. Compare the "
            "pictures in scans/qc: one patient under two names should have one subject_id"
        )
        link(one, other, message, pair, one, other)
    return {subject: first_of[linked[subject]] for subject in linked}


def _classes(column: pd.Series, group_of_row: list[str], groups: list[str]) -> np.ndarray:
    """Class number of each group: the most frequent class of its scans, of several the first."""
    texts = column.astype("string").fillna("")
    most = texts.groupby(group_of_row).agg(lambda values: values.mode().iloc[0])
    return np.asarray(pd.factorize(most.loc[groups], sort=True)[0])


def _strata(column: pd.Series | None, group_of_row: list[str], groups: list[str]) -> np.ndarray:
    if column is None or not groups:
        return np.zeros(len(groups), int)
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().sum() == 0 and column.notna().any():  # texts: classes
        first = column.astype("string").fillna("").groupby(group_of_row).first()
        return np.asarray(pd.factorize(first.loc[groups], sort=True)[0])
    values = numbers.groupby(group_of_row).mean().loc[groups].to_numpy()
    strata = np.full(len(groups), -1)  # those without a value are a stratum of their own
    known = np.isfinite(values)
    strata[known] = quantile_strata(values[known])
    return strata


def _some(subjects: Iterable[object]) -> str:
    names = sorted({str(subject) for subject in subjects})
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"subject(s) {', '.join(names[:5])}{more}"


def _no_column(key: str, name: str, table: pd.DataFrame) -> StageError:
    return StageError(
        f"{key} names {name!r}, which is no column: {', '.join(map(str, table.columns))}",
        "Name one of these columns",
        code="split",
    )


def _leak(problem: str) -> StageError:
    return StageError(
        f"the split leaks: {problem}",
        f"Delete {SPLITS_FILE} and run from `prepare` on; weights pretrained with this split cannot be evaluated",
        code="leak",
    )


def ensure_split(workspace: Workspace, cohort: pd.DataFrame, recipe: Recipe) -> Split:
    """The stored split; made, or extended by new subjects, from the usable scans.

    Raises:
        StageError: no usable scan, or as of `make_split`.
    """
    rows = ledger.usable(ledger.read_ledger(workspace), use_flagged=recipe.prepare.quality.use_flagged)
    rows = ledger.with_acquisition(rows, cohort)
    extra = [c for c in cohort.columns if c == "scan_id" or c not in rows.columns]
    table = rows.merge(cohort[extra], on="scan_id", how="left")
    previous = read_split(workspace) if workspace.exists(SPLITS_FILE) else None
    if previous and set(table["subject_id"]) <= {*previous.train, *previous.test}:
        return previous
    similar = near_duplicates(workspace, rows, alike_above=recipe.split.alike_above)
    split = make_split(table, recipe.split, previous=previous, similar=similar)
    write_split(workspace, split)
    return split
