"""Eight phantom subjects, and four of them written to a folder, made once."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ctplatform.phantom import PhantomSubject, generate, make_subject
from tests.ctplatform.phantom.reading import CONFIG


@pytest.fixture(scope="session")
def subjects() -> list[PhantomSubject]:
    return [make_subject(i, config=CONFIG) for i in range(CONFIG.subjects)]


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("phantom")
    return folder, generate(folder, CONFIG, indices=range(4))
