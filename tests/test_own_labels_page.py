"""The page on own labels: its recipe loads, its join reports what it says, its Python task is found and fitted."""

from __future__ import annotations

import re
import sys

import numpy as np
import pandas as pd
import pytest

from ctplatform.cohort.label_table import join_label_table
from ctplatform.config.loader import load_recipe
from ctplatform.evaluation.requirements import check_requirements
from ctplatform.tasks.registry import get_task
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "how-to" / "own-labels.md").read_text(encoding="utf-8")


def snippet(language: str) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    return code


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "mine.yaml").write_text(snippet("yaml"))
    return load_recipe(str(tmp_path / "mine.yaml"))


def test_recipe_and_join(recipe, tmp_path):
    pytest.importorskip("openpyxl")
    subjects = [f"S{i:03d}" for i in range(1, 49)]
    cohort = pd.DataFrame({"scan_id": subjects, "subject_id": subjects, "path": "", "series_uid": ""})
    named = [s for s in subjects if s not in ("S017", "S031")] + ["S099"]
    rng = np.random.default_rng(0)
    count = len(named)
    clinical = pd.DataFrame(
        {
            "PatientID": named,
            "walk_m": rng.integers(100, 700, count),
            "smoker": rng.choice(["never", "former", "current"], count),
            "admissions": rng.poisson(1, count),
            "days_to_relapse": rng.integers(10, 900, count),
            "relapsed": rng.integers(0, 2, count),
        }
    )
    clinical.to_excel(tmp_path / "clinical.xlsx", index=False)
    joined = join_label_table(cohort, tmp_path / "clinical.xlsx", key="subject_id=PatientID")
    assert list(joined.lines) == snippet("text").splitlines()
    check_requirements(recipe, joined.table)
    for name in recipe.sweep.tasks:
        labels = get_task(name, recipe.tasks).labels(joined.table)
        assert len(labels.subjects) == 46
        head = get_task(name, recipe.tasks).probe()
        features = rng.normal(size=(46, 3))
        assert np.isfinite(head.fit(features, labels.targets, seed=0).predict(features)).all()
    smoking = get_task("smoking", recipe.tasks).labels(joined.table).targets.value_N
    assert set(smoking) == {0.0, 1.0, 2.0}


def test_the_python_task_is_found_by_its_entry_point(tmp_path, monkeypatch):
    package, found = tmp_path / "my_package", tmp_path / "my_package-1.dist-info"
    package.mkdir()
    found.mkdir()
    (package / "__init__.py").touch()
    (package / "tasks.py").write_text(snippet("python"))
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1\n")
    section, entry = re.search(r'entry-points."(.*?)"\]\n(.*)', snippet("toml")).groups()
    (found / "entry_points.txt").write_text(f"[{section}]\n{entry.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert get_task("log_volume").title == "Logarithm of the nodule volume"
    finally:
        for name in [name for name in sys.modules if name.startswith("my_package")]:
            del sys.modules[name]
