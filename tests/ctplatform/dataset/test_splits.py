"""Splits: by subject, stratified, the same for the same table, and without leaks."""

import numpy as np
import pandas as pd
import pytest

from ctplatform.config.preparation import SplitConfig
from ctplatform.dataset import splits
from ctplatform.dataset.duplicates import Pair
from ctplatform.dataset.splits import Split, leak_warnings, make_split, read_split, write_split
from ctplatform.errors import StageError
from ctplatform.storage.workspace import Workspace


def cohort(subjects=40, scans_each=2, seed=0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    ids = np.repeat([f"s{i:03d}" for i in range(subjects)], scans_each)
    extent = np.repeat(rng.exponential(0.1, subjects), scans_each)
    hashes = [f"hash-{i}" for i in range(len(ids))]
    return pd.DataFrame({"subject_id": ids, "laa950": extent, "content_hash": hashes})


@pytest.mark.parametrize("seed", range(5))
def test_every_subject_is_on_one_side(seed):
    table = cohort(seed=seed)
    split = make_split(table, SplitConfig(test_fraction=0.3, seed=seed))
    assert not set(split.train) & set(split.test)
    assert set(split.train) | set(split.test) == set(table["subject_id"])
    assert len(split.test) == 12


def test_row_order_does_not_matter_but_the_seed_does():
    table = cohort()
    split = make_split(table, SplitConfig(seed=1))
    assert make_split(table.sample(frac=1, random_state=3), SplitConfig(seed=1)) == split
    assert make_split(table, SplitConfig(seed=2)).test != split.test


def test_both_sides_look_alike():
    table = cohort(subjects=60, scans_each=1)
    extent = table.set_index("subject_id")["laa950"]
    bins = pd.qcut(extent, 5, labels=False)
    for seed in range(10):
        split = make_split(table, SplitConfig(test_fraction=1 / 3, seed=seed))
        counts = bins.loc[list(split.test)].value_counts()
        assert counts.min() >= 3
        assert counts.max() <= 5


def test_classes_can_be_stratified_on():
    table = cohort(subjects=40, scans_each=1).assign(site=["a"] * 30 + ["b"] * 10)
    split = make_split(table, SplitConfig(test_fraction=0.2, stratify="site"))
    assert table.set_index("subject_id").loc[list(split.test), "site"].value_counts().to_dict() == {
        "a": 6,
        "b": 2,
    }


def test_kernel_manufacturer_and_site_are_balanced_together():
    """Twelve draws: balanced splits are less than a subject away from every share, plain ones several."""
    rng = np.random.default_rng(5)
    table = cohort(subjects=90, scans_each=2, seed=5)
    people = len(table) // 2
    for name, classes in (
        ("kernel", ["B30f", "B50f", "FC51"]),
        ("manufacturer", ["GE", "Siemens"]),
        ("site", "abcdef"),
    ):
        table[name] = np.repeat(rng.choice(list(classes), people), 2)
    of_subject = table.drop_duplicates("subject_id").set_index("subject_id")
    names = ("kernel", "manufacturer", "site")

    def worst(**settings) -> float:
        off = 0.0
        for seed in range(12):
            split = make_split(table, SplitConfig(test_fraction=1 / 3, seed=seed, **settings))
            assert len(split.test) == 30
            for name in names:
                held = of_subject.loc[list(split.test), name].value_counts()
                off = max(
                    off, float((held.sub(of_subject[name].value_counts() / 3, fill_value=0)).abs().max())
                )
        return off

    assert worst(balance=names) < 1
    assert worst() > 4


def test_a_balanced_split_is_stored_with_its_columns_and_a_plain_one_as_ever(tmp_path):
    table = cohort().assign(kernel=["B30f", None] * 40)
    workspace = Workspace(tmp_path)
    balanced = make_split(table, SplitConfig(balance=("kernel",)))
    write_split(workspace, balanced)
    assert read_split(workspace) == balanced
    assert balanced == make_split(table.sample(frac=1, random_state=3), SplitConfig(balance=("kernel",)))
    write_split(workspace, make_split(table, SplitConfig()))
    assert "balance" not in workspace.read_json("splits.json")
    with pytest.raises(StageError, match=r"split\.balance names 'site'"):
        make_split(table, SplitConfig(balance=("site",)))


def test_a_balanced_split_is_extended_by_new_subjects():
    table = cohort(subjects=60).assign(kernel=["a", "a", "b", "b"] * 30)
    config = SplitConfig(balance=("kernel",))
    first = make_split(table.head(80), config)
    second = make_split(table, config, previous=first)
    assert set(first.train) <= set(second.train)
    assert set(first.test) <= set(second.test)
    assert len(second.train) + len(second.test) == 60


def test_identical_images_stay_together_in_any_number_of_steps():
    table = cohort(subjects=30)
    # s000 - s010 - s020 share images pairwise: one person under three names.
    table.loc[[0, 20], "content_hash"] = "twin-a"
    table.loc[[21, 40], "content_hash"] = "twin-b"
    for seed in range(10):
        split = make_split(table, SplitConfig(seed=seed, test_fraction=0.5))
        sides = {subject in split.test for subject in ("s000", "s010", "s020")}
        assert len(sides) == 1


def test_a_leak_is_found():
    table = cohort(subjects=4)
    ids = ("s000", "s001", "s002", "s003")
    with pytest.raises(StageError, match="s001 stand in both"):
        Split(train=ids[:2], test=ids[1:]).check(table)
    with pytest.raises(StageError, match="s003 stand in neither"):
        Split(train=ids[:2], test=ids[2:3]).check(table)
    Split(train=ids[:2], test=ids[2:]).check(table)
    table.loc[7, "content_hash"] = table.loc[0, "content_hash"]
    with pytest.raises(StageError, match="s000, s003 have the same image") as caught:
        Split(train=ids[:2], test=ids[2:]).check(table)
    assert caught.value.code == "leak"


def test_a_grown_cohort_keeps_its_split():
    table = cohort(subjects=60)
    old = make_split(table[table["subject_id"] < "s040"], SplitConfig(seed=3))
    new = make_split(table, SplitConfig(seed=3), previous=old)
    assert set(old.train) <= set(new.train)
    assert set(old.test) <= set(new.test)
    assert len(new.test) - len(old.test) == 7  # 35% of the 20 new ones


def test_a_new_name_for_a_known_image_goes_to_its_side():
    table = cohort(subjects=20)
    old = make_split(table, SplitConfig())
    twin = table[table["subject_id"] == old.test[0]].assign(subject_id="zz")
    assert "zz" in make_split(pd.concat([table, twin]), SplitConfig(), previous=old).test


def test_written_equals_read(tmp_path):
    split = make_split(cohort(), SplitConfig())
    write_split(Workspace(tmp_path), split)
    assert read_split(Workspace(tmp_path)) == split


def test_what_cannot_be_split_is_refused():
    with pytest.raises(StageError, match="cannot be split"):
        make_split(cohort(subjects=1), SplitConfig())
    with pytest.raises(StageError, match=r"stratify names 'site'"):
        make_split(cohort(), SplitConfig(stratify="site"))


def test_two_scans_of_one_subject_may_look_alike():
    table = pd.DataFrame({"scan_id": ["a", "b", "c"], "subject_id": ["x", "x", "y"]})
    assert leak_warnings(Split(train=("x",), test=("y",)), table, [Pair("a", "b", 0.9)]) == []
    assert len(leak_warnings(Split(train=("x",), test=("y",)), table, [Pair("a", "c", 0.9)])) == 1


def test_linked_subjects_are_those_of_a_search_through_the_graph(caplog):
    """Against breadth-first search over shared images and near-duplicate scans, in any order of the table."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        count = int(rng.integers(2, 30))
        table = pd.DataFrame(
            {
                "scan_id": [f"scan{i}" for i in range(3 * count)],
                "subject_id": [f"s{i:02d}" for i in rng.integers(0, count, 3 * count)],
                "content_hash": [f"h{i}" if i else None for i in rng.integers(0, 3 * count, 3 * count)],
            }
        )
        pairs = [Pair(*(f"scan{i}" for i in rng.choice(3 * count, 2, replace=False)), 0.9) for _ in range(4)]
        owner = table.set_index("scan_id")["subject_id"]
        linked = {subject: {subject} for subject in set(owner)}
        groups = [list(g["subject_id"]) for _, g in table.dropna().groupby("content_hash")]
        for group in [*groups, *([owner[p.a], owner[p.b]] for p in pairs)]:
            for one in group:
                linked[one] |= set(group)
        expected = {}
        for subject in linked:
            reached, border = set(), {subject}
            while border:
                reached |= border
                border = set().union(*(linked[s] for s in border)) - reached
            expected[subject] = min(reached)
        known = [(p, owner[p.a], owner[p.b]) for p in pairs if owner[p.a] != owner[p.b]]
        caplog.clear()
        found = splits._linked_subjects(table["subject_id"].to_numpy(), table["content_hash"], known)
        assert found == expected
        assert len(caplog.records) == len(linked) - len(set(expected.values())), "one message a link"
