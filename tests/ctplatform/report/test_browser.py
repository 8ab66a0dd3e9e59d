"""The page in a headless Chromium: laid out, free of requests and errors, in both schemes, on screen and paper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


def opened(browser, file: str, *, width: int, height: int = 844, scheme: str = "light"):
    """The page, and the list of everything that went wrong or was asked of a network."""
    tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    troubles: list[str] = []
    tab.on("console", lambda message: troubles.append(f"console {message.type}: {message.text}"))
    tab.on("pageerror", lambda error: troubles.append(f"error: {error}"))
    tab.on("dialog", lambda dialog: (troubles.append("dialog"), dialog.dismiss()))
    tab.on(
        "request",
        lambda request: (
            troubles.append(f"request {request.url[:80]}")
            if not request.url.startswith(("data:", Path(file).as_uri()))
            else None
        ),
    )
    tab.goto(Path(file).as_uri())
    return tab, troubles


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1366, 390])
def test_the_page_in_a_browser(browser, report, width, scheme):
    tab, troubles = opened(browser, report.html, width=width, scheme=scheme)
    try:
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        tab.evaluate("document.querySelectorAll('.panel').forEach(p => p.hidden = false)")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
        assert tab.evaluate("document.images.length") == 5 + 3 + 2 * 3  # gallery, neighbours, label maps
        assert tab.evaluate(broken) == 0
        # Words inside the charts stay readable, and no chart is empty or sticks out.
        smallest = """Math.min(...[...document.querySelectorAll('.panel svg')].flatMap(svg => {
            const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
            return [...svg.querySelectorAll('text')].map(t => parseFloat(getComputedStyle(t).fontSize) * scale);
        }))"""
        assert tab.evaluate(smallest) >= 8
        outside = """[...document.querySelectorAll('.panel svg text')].filter(t => {
            const a = t.getBoundingClientRect(), b = t.closest('svg').getBoundingClientRect();
            return a.left < b.left - 6 || a.right > b.right + 6 || a.bottom > b.bottom + 3 || a.top < b.top - 3;
        }).map(t => t.textContent)"""
        assert tab.evaluate(outside) == []
        beside = tab.evaluate(
            "document.querySelector('nav').getBoundingClientRect().right"
            " <= document.querySelector('main').getBoundingClientRect().left"
        )
        assert beside == (width > 1000)
        background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 384) == (scheme == "dark")
        assert troubles == []
    finally:
        tab.close()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1366, 1280])
def test_the_table_of_results_is_seen_whole(browser, report, width):
    tab, _ = opened(browser, report.html, width=width)
    try:
        tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        table = tab.locator("table", has_text="Results with the largest share of labels").first
        assert table.evaluate("t => t.parentElement.scrollWidth <= t.parentElement.clientWidth")
        cut = "t => [...t.querySelectorAll('td.num span')].filter(s => s.getClientRects().length > 1).length"
        assert table.evaluate(cut) == 0  # a range is never broken within
    finally:
        tab.close()


@pytest.mark.browser
def test_contents_and_gallery_answer_to_clicks(browser, report):
    from playwright import sync_api

    tab, troubles = opened(browser, report.html, width=1366)
    try:
        tab.click("nav a[href='#survival']")
        sync_api.expect(tab.locator("#survival-title")).to_be_in_viewport()
        button = tab.locator("button.zoom").first
        before = button.bounding_box()["width"]
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        assert button.bounding_box()["width"] > 1.5 * before
        assert troubles == []
    finally:
        tab.close()


@pytest.mark.browser
def test_the_map_is_coloured_by_the_selected_column(browser, report):
    tab, troubles = opened(browser, report.html, width=1366)
    try:
        shown = """[...document.querySelectorAll('#figure-map .panel')].filter(p => p.offsetHeight > 0)
            .map(p => p.getAttribute('aria-label'))"""
        select = tab.locator("#figure-map select")
        titles = select.locator("option").all_text_contents()
        assert len(titles) == tab.locator("#figure-map .panel").count() > 5
        for title in (titles[0], titles[-1], "Lung volume"):
            select.select_option(label=title)
            (label,) = tab.evaluate(shown)
            assert f"coloured by {title}." in label
        assert troubles == []
    finally:
        tab.close()


@pytest.mark.browser
def test_hostile_data_does_nothing_in_a_browser(browser, hostile):
    tab, troubles = opened(browser, hostile, width=390)
    try:
        assert tab.evaluate("window.hacked") is None
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert troubles == []
    finally:
        tab.close()


@pytest.mark.browser
def test_it_prints(browser, report, tmp_path):
    tab, _ = opened(browser, report.html, width=1366)
    try:
        data = tab.pdf(path=str(tmp_path / "report.pdf"), format="A4")
        assert data.startswith(b"%PDF")
        tab.emulate_media(media="print")
        assert tab.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    finally:
        tab.close()
