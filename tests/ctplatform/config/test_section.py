"""Sections refuse unknown keys; nested values have dotted keys."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ctplatform.config.section import Section, flatten


class Inner(Section):
    size: int = 1


class Outer(Section):
    inner: Inner = Inner()


def test_unknown_keys_are_errors_at_every_depth():
    with pytest.raises(ValidationError):
        Outer.model_validate({"inner": {"sise": 2}})


def test_dotted_keys_lead_to_every_value():
    assert flatten("a", 1) == {"a": 1}
    assert flatten("a", {"b": {"c": [1, 2]}, "d": None}) == {"a.b.c": [1, 2], "a.d": None}
    assert flatten("outer", Outer().model_dump()) == {"outer.inner.size": 1}
