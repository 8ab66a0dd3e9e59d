"""Charts are reproducible, and their ids cannot collide on a page."""

from __future__ import annotations

import re

from ctplatform.report import style


def test_equal_input_gives_equal_text_and_ids_carry_the_name():
    def draw(axes):
        axes.plot([0, 1], [1, 0])
        axes.fill_between([0, 1], [1, 0], alpha=0.2, hatch="/")

    one, again, other = (style.chart(name, draw) for name in ("one", "one", "other"))
    assert one == again
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (one, other)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for text, found in zip((one, other), ids, strict=True):
        assert {*re.findall(r"url\(#([^)]+)\)", text), *re.findall(r'href="#([^"]+)"', text)} <= found
