"""The workspace of the tests of searches."""

from __future__ import annotations

import pytest

from ctplatform.evaluation.assembly import assemble
from tests.ctplatform.evaluation.search_world import searching
from tests.ctplatform.evaluation_world import RUN, build


@pytest.fixture(scope="session")
def search_world(tmp_path_factory):
    workspace, cohort = build(tmp_path_factory.mktemp("search"))
    context, _ = assemble(workspace, cohort, searching(), run=RUN)
    return workspace, cohort, context
