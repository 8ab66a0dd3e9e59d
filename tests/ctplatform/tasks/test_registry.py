"""The tasks by name."""

import pytest

from ctplatform.errors import ConfigError
from ctplatform.metrics.overlap import SCORES
from ctplatform.tasks.registry import NAMES, get_task


@pytest.mark.parametrize("name", NAMES)
def test_every_task_stands_in_its_own_file(name):
    task = get_task(name)
    assert task.name == name
    assert all(metric in SCORES for metric in task.metrics)


def test_an_unknown_task_names_the_known_ones():
    with pytest.raises(ConfigError, match="survival"):
        get_task("mortality")
