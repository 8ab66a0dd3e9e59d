"""A template of analytic lungs, made once."""

from __future__ import annotations

import pytest

from ctplatform.registration.template import DEFAULTS, Template
from tests.ctplatform.chest import lung_image


@pytest.fixture(scope="session")
def template() -> Template:
    return Template.from_image(lung_image(spacing=2.0), config=DEFAULTS)
