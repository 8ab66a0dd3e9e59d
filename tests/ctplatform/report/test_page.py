"""The page is self-contained, escaped, free of paths, and readable without its pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ctplatform.report import page, style, words
from ctplatform.report.document import Key
from tests.ctplatform.report.elements import Elements
from tests.ctplatform.report.workspace import EVIL


def test_nothing_is_loaded_from_anywhere(page, html):
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), (name, value)
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert page.of("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"].startswith(
        "default-src 'none'"
    )


def test_every_figure_states_n_interval_command_and_has_its_table(html):
    figures = re.findall(r"<figure id=.*?</figure>", html, flags=re.DOTALL)
    assert len(figures) >= 14
    for figure in figures:
        meta = re.search(r'<p class="meta"><span>(.*?)</span> <span>(.*?)</span>', figure)
        assert re.search(r"\d", meta[1])
        assert "interval" in meta[2] or "bootstrap" in meta[2]
        assert "<code>drasclr " in figure
        assert "<details>" in figure
        assert '<th scope="col"' in figure
        assert '<th scope="row"' in figure


def test_every_picture_has_words(page):
    panels = [a for a in page.of("div") if a.get("role") == "img"]
    assert len(panels) > 20
    assert all(len(a["aria-label"]) > 30 for a in panels)
    assert all(len(a["alt"]) > 20 for a in page.of("img"))


def test_ids_are_unique(page):
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    links = {a["href"][1:] for a in page.of("a") if a["href"].startswith("#")}
    assert links <= set(ids)


def test_data_cannot_become_markup(hostile):
    page = Elements(Path(hostile).read_text(encoding="utf-8"))
    assert len(page.of("script")) == 1
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    assert EVIL in "".join(page.text)


def test_no_path_reaches_the_page_or_the_figures(hostile):
    files = [Path(hostile), *(Path(hostile).parent / "figures").iterdir()]
    for file in files:
        # Encoded pictures hold any three letters by chance.
        text = re.sub(r"base64,[\w+/=]+", "", file.read_text(encoding="utf-8"))
        for secret in ("Doe", "doe", str(Path(hostile).parents[2])):
            assert secret not in text, (file.name, secret)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_words_stand_out(html, scheme):
    block = re.findall(r":root \{(.*?)\}", html, flags=re.DOTALL)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    for text in ("ink", "muted", "accent"):
        for ground in ("page", "card", "soft"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert _contrast(colours["ink"], colours["notice"]) >= 4.5
    for line in ("blue", "green", "vermilion", "grey"):  # the four initialisations: WCAG 1.4.11
        assert _contrast(colours[line], colours["card"]) >= 3.0, line


def test_each_of_many_initialisations_has_its_own_sign():
    """All that a sweep can compare, and more: colours and markers of the charts are those of the legend."""
    names = [*words.INITIALISATIONS, "mine", "yours"]
    looks = style.styles(names)
    assert len({looks[name] for name in words.INITIALISATIONS}) == len(words.INITIALISATIONS)
    for name in names:
        colour, marker = looks[name]
        sign = page.legend_sign(Key(name, colour, marker))
        assert page.SHAPES[marker] in sign
        assert page.VARIABLES[colour] in sign
