"""Many draws of hypothesis in one go, the same ones each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st


def draw(strategy: st.SearchStrategy[Any], check: Callable[[Any], object], count: int) -> int:
    """Check so many draws; returns how many were made. Raises what the first wrong one raised."""
    made = 0

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(value: Any) -> None:
        nonlocal made
        made += 1
        check(value)

    run()
    return made
