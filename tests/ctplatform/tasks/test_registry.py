"""The tasks by name."""

import pytest
import yaml

from ctplatform.config.loader import validate
from ctplatform.config.tasks import TaskConfig
from ctplatform.errors import ConfigError
from ctplatform.metrics.overlap import SCORES
from ctplatform.tasks.registry import DEFINITIONS, NAMES, get_task


@pytest.mark.parametrize("name", NAMES)
def test_every_task_stands_in_its_own_file(name):
    task = get_task(name)
    assert task.name == name
    assert task.definition == ""
    assert [metric.name for metric in task.scores] == list(task.metrics)
    assert all(metric in SCORES for metric in task.metrics)


def test_definitions_are_those_of_a_recipe():
    assert {path.stem for path in DEFINITIONS.glob("*.yaml")} == set(NAMES)
    for name in NAMES:
        values = yaml.safe_load((DEFINITIONS / f"{name}.yaml").read_text(encoding="utf-8"))
        own = get_task("mine", {"mine": TaskConfig(**values)})
        platform = get_task(name)
        assert own.definition
        for field in ("title", "kind", "columns", "metrics", "valid", "minimum", "at_least"):
            assert getattr(own, field) == getattr(platform, field), (name, field)


def test_an_unknown_task_names_the_known_ones():
    with pytest.raises(ConfigError, match="survival"):
        get_task("mortality")
    own = validate({"tasks": {"walk": {"kind": "regression", "column": "walk_m"}}}).tasks
    with pytest.raises(ConfigError, match="Did you mean 'walk'"):
        get_task("walks", own)


def test_a_name_that_is_taken_is_refused():
    own = validate({"tasks": {"survival": {"kind": "regression", "column": "days"}}}).tasks
    with pytest.raises(ConfigError, match="name already"):
        get_task("survival", own)
