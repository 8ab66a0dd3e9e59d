"""The report: complete, self-contained, escaped, free of paths, true to its tables, and sound in a real browser."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from ctplatform.cli.main import parser
from ctplatform.config.loader import load_recipe
from ctplatform.errors import StageError
from ctplatform.report import ReportPaths, build_report, style, words
from ctplatform.report import page as signs
from ctplatform.report.commands import command
from ctplatform.report.document import Key
from ctplatform.report.inputs import read_inputs
from ctplatform.report.page import VARIABLES
from ctplatform.report.sections import (
    ablations,
    cohort,
    gallery,
    maps,
    pretraining,
    provenance,
    savings,
    summary,
    survival,
)
from ctplatform.storage.workspace import Workspace
from tests.ctplatform.report_workspace import write_workspace

RUN = "demo-1a2b"
SECTIONS = (
    *("summary", "cohort", "quality", "gallery", "pretraining"),
    *("efficiency", "comparisons", "ablations", "scatter", "maps", "calibration", "survival"),
    *("nearest", "provenance"),
)
BROWSER_ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
EVIL = '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">&"\''


class Elements(HTMLParser):
    """Tags with their attributes, and the text of each heading's section."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._silent = 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag):
        self._silent -= tag in ("script", "style")

    def handle_data(self, data):
        if not self._silent:
            self.text.append(data)

    def of(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in wanted.items())]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    write_workspace(workspace, run=RUN, subjects=40)
    return workspace


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("demo", ["report.gallery=5", "sweep.seeds=4"])


@pytest.fixture(scope="module")
def report(world, recipe) -> ReportPaths:
    return build_report(world, recipe, run=RUN)


@pytest.fixture(scope="module")
def html(report) -> str:
    return Path(report.html).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Elements:
    return Elements(html)


def copied(world: Workspace, folder: Path, *parts: str) -> Workspace:
    """A new workspace with some of the files."""
    for part in parts:
        source, target = Path(world.path(part)), folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    return Workspace(folder)


def replaced(workspace: Workspace, table: pd.DataFrame, *parts: str) -> None:
    workspace.write_table(pa.Table.from_pandas(table, preserve_index=False), *parts)


# --- the page


def test_every_section_is_there(page):
    assert [a["id"] for a in page.of("section")] == list(SECTIONS)


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


def test_every_figure_tells_n_interval_command_and_has_its_table(html):
    figures = re.findall(r"<figure id=.*?</figure>", html, flags=re.DOTALL)
    assert len(figures) >= len(SECTIONS)
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


def test_charts_and_tables_are_files_too(report, page, world):
    files = {path.name: path for path in Path(report.figures).iterdir()}
    assert {path.suffix for path in files.values()} == {".svg", ".csv"}
    table = pd.read_csv(files["efficiency-emphysema-extent.csv"])
    rows = world.read_table("evaluation", RUN, "summary.parquet").to_pandas()
    rows = rows[rows["task"] == "emphysema_extent"]
    shown = [float(text.replace("\N{MINUS SIGN}", "-")) for text in table["Value"].astype(str)]
    np.testing.assert_allclose(sorted(shown), sorted(rows["value"]), atol=0.006)


def test_the_same_workspace_gives_the_same_page(world, recipe, html, tmp_path):
    again = copied(
        world, tmp_path, "scans", "splits.json", "atlas", "pretrain", "evaluation", "embeddings", "patches"
    )
    other = Path(build_report(again, recipe, run=RUN).html).read_text(encoding="utf-8")

    def without_time(text: str) -> str:
        return re.sub(r"Generated [\d: -]+ UTC", "", text)

    assert without_time(other) == without_time(html)


# --- what is absent, broken or hostile


def test_absent_inputs_are_named_not_invented(world, recipe, tmp_path):
    workspace = copied(world, tmp_path, "scans")
    page = Elements(Path(build_report(workspace, recipe, run="other").html).read_text(encoding="utf-8"))
    assert [a["id"] for a in page.of("section")] == [
        "summary",
        "cohort",
        "quality",
        "gallery",
        "provenance",
        "omitted",
    ]
    text = "".join(page.text)
    assert "Nothing has been evaluated yet" in text
    for line in ("no pretraining log", "no evaluation summary", "no predictions", "no paired comparisons"):
        assert line in text


def test_an_empty_workspace_is_an_error_that_says_what_to_do(tmp_path, recipe):
    with pytest.raises(StageError, match="drasclr prepare") as caught:
        build_report(Workspace(tmp_path), recipe, run=RUN)
    assert caught.value.code == "nothing-to-report"


def test_a_table_without_a_needed_column_is_named(world, recipe, tmp_path):
    workspace = copied(world, tmp_path, f"evaluation/{RUN}/summary.parquet")
    table = workspace.read_table("evaluation", RUN, "summary.parquet").drop_columns(["low"])
    workspace.write_table(table, "evaluation", RUN, "summary.parquet")
    with pytest.raises(StageError, match=r"summary\.parquet lacks the column\(s\) low"):
        build_report(workspace, recipe, run=RUN)


@pytest.fixture(scope="module")
def hostile(world, tmp_path_factory) -> str:
    """A report whose every text from the data is an attack or a path."""
    folder = tmp_path_factory.mktemp("hostile")
    workspace = copied(world, folder, "scans", "splits.json", "pretrain", "evaluation")
    name = workspace.files("scans", suffix=".parquet")[4]
    rows = workspace.read_table("scans", name).to_pandas()
    rows["scan_id"], rows["state"] = f"{EVIL}scan", "failed"
    rows["reason"] = f"{EVIL} cannot read /data/Doe^Jane/ct.nii.gz"
    rows["remedy"] = "Look into C:\\scans\\Doe_Jane\\1.dcm"
    replaced(workspace, rows, "scans", name)
    for table in ("summary", "results", "predictions", "comparisons"):
        rows = workspace.read_table("evaluation", RUN, f"{table}.parquet").to_pandas()
        rows["task"] = rows["task"].replace("gold_stage", f"{EVIL}task")
        for column in ("initialisation", "a", "b"):
            if column in rows:
                rows[column] = rows[column].replace("random", f"{EVIL}$\\frac{{$")
        if "subject_id" in rows:
            rows["subject_id"] = rows["subject_id"] + EVIL
        replaced(workspace, rows, "evaluation", RUN, f"{table}.parquet")
    workspace.write_json(
        [f"{EVIL} task skipped: s3://bucket/Doe/labels.csv"], "evaluation", RUN, "notes.json"
    )
    card = {EVIL: EVIL, "trained_on": "/home/doe/cohort.csv"}
    workspace.write_json(card, "pretrain", RUN, "card.json")
    recipe = load_recipe(
        "demo", [f"report.title={json.dumps(EVIL)}", "atlas.source=/home/doe/atlas", "report.gallery=2"]
    )
    return build_report(workspace, recipe, run=RUN).html


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


@pytest.mark.parametrize(
    "text",
    [
        "cannot read /data/Doe^Jane/ct.nii.gz",
        "see ~/scans/Doe/1",
        "see ../Doe/scan",
        "C:\\hospital\\Doe\\1.dcm is short",
        "\\\\server\\share\\Doe",
        "s3://bucket/Doe/x",
        "file:///Doe",
        "Doe_Jane.nii.gz ends early",
        "the file 'Doe.dcm'",
        "(/mnt/Doe)",
    ],
)
def test_paths_are_removed(text):
    assert "Doe" not in words.without_paths(text)
    assert "[path]" in words.without_paths(text)


@pytest.mark.parametrize(
    "text", ["FEV1/FVC", "31 cm2/slice", "right / left 0.7", "volume 1.2 l, 3/4 inside", "n. 3"]
)
def test_other_words_stay(text):
    assert words.without_paths(text) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.0, 0.0, 0.0), "0.00 (0.00 to 0.00)"),
        ((0.0, 0.0, 2e-16), "0.00 (0.00 to 0.00)"),
        ((0.512, 0.3, 0.7), "0.51 (0.30 to 0.70)"),
        ((-0.5123, -0.5131, -0.5102), "\u22120.5123 (\u22120.5131 to \u22120.5102)"),
    ],
)
def test_estimates_have_the_decimals_that_their_interval_deserves(numbers, text):
    assert words.estimate(*numbers) == text


# --- the words follow the tables


def finding(world: Workspace, recipe, tmp_path: Path, **values: tuple[float, float, float]) -> str:
    """The summary's sentence when the initialisations have these values (value, low, high) with all labels."""
    workspace = copied(world, tmp_path, f"evaluation/{RUN}")
    for name, keys in (("summary", ["initialisation"]), ("comparisons", ["b"])):
        rows = workspace.read_table("evaluation", RUN, f"{name}.parquet").to_pandas()
        chosen = (rows["task"] == "emphysema_extent") & (rows["metric"] == "r2") & (rows["fraction"] == 1.0)
        for initialisation, (value, low, high) in values.items():
            hit = chosen & (rows[keys[0]] == initialisation)
            if name == "summary":
                rows.loc[hit, ["value", "low", "high"]] = value, low, high
            else:
                difference = values["drasclr"][0] - value
                rows.loc[hit, ["difference", "low", "high"]] = difference, difference - 0.1, difference + 0.1
        replaced(workspace, rows, "evaluation", RUN, f"{name}.parquet")
    inputs = read_inputs(workspace, recipe, run=RUN)
    ((_, text),) = summary.findings(inputs, "emphysema_extent")
    return text


def test_what_beats_us_is_said(world, recipe, tmp_path):
    text = finding(
        world,
        recipe,
        tmp_path,
        drasclr=(0.4, 0.1, 0.6),
        density=(0.8, 0.6, 0.9),
        scratch=(0.45, 0.2, 0.6),
        random=(0.1, -0.2, 0.3),
    )
    assert "R² 0.40 (95% interval 0.10 to 0.60), better than chance (0.00)" in text
    assert "density baseline has 0.80" in text
    assert "\N{MINUS SIGN}0.40 (\N{MINUS SIGN}0.50 to \N{MINUS SIGN}0.30): the interval excludes zero" in text
    assert "from scratch has 0.45" in text
    assert "\N{MINUS SIGN}0.05 (\N{MINUS SIGN}0.15 to 0.05): the interval includes zero" in text
    assert "random encoder has" not in text


def test_an_interval_across_chance_is_no_success(world, recipe, tmp_path):
    low = (-0.5, -0.9, -0.1)
    others = dict.fromkeys(("density", "scratch", "random", "local", "none"), low)
    text = finding(world, recipe, tmp_path, drasclr=(0.1, -0.2, 0.3), **others)
    assert "not distinguishable from chance" in text
    assert "Nothing that was tried has a better value" in text


def test_facts_count_what_is_in_the_ledger(world, recipe):
    inputs = read_inputs(world, recipe, run=RUN)
    facts = {label: value for value, label in summary.section(inputs).facts}
    states = inputs.ledger["state"]
    assert facts["scans used / found"] == f"{states.isin(['accepted', 'flagged']).sum()} / {len(states)}"
    assert (
        facts["subjects in training / held out"]
        == f"{len(inputs.splits['train'])} / {len(inputs.splits['test'])}"
    )


@pytest.mark.parametrize(
    "overrides", [[], ["sweep.seeds=4", "pretrain.lr=0.5"], ["sweep.fractions=[0.1, 1.0]"]]
)
@pytest.mark.parametrize("stage", ["prepare", "pretrain", "sweep", "report", "run"])
def test_the_printed_command_means_this_recipe(stage, overrides):
    recipe = load_recipe("demo", overrides)
    args = parser().parse_args(shlex.split(command(stage, recipe))[1:])
    assert load_recipe(args.recipe, args.overrides) == recipe


# --- the parts


def test_leaks_are_said_aloud(world, recipe, tmp_path):
    workspace = copied(world, tmp_path, "scans", "splits.json")
    splits = workspace.read_json("splits.json")
    splits["train"].append(splits["test"][0])
    workspace.write_json(splits, "splits.json")
    notices = cohort.section(read_inputs(workspace, recipe, run=RUN)).notices
    assert any("1 subject on both sides" in notice for notice in notices)


def test_the_gallery_shows_the_worst_and_does_not_depend_on_order(world, recipe):
    rows = read_inputs(world, recipe, run=RUN).ledger.dropna(subset=["dice"])
    worst, sample = gallery.choose(rows, 10)
    ranks = rows["state"].map({"rejected": 0, "flagged": 1, "accepted": 2})
    order = sorted(zip(ranks, rows["dice"], rows["scan_id"], strict=True))
    assert list(worst["scan_id"]) == [scan for _, _, scan in order[:5]]
    assert not set(worst["scan_id"]) & set(sample["scan_id"])
    shuffled = gallery.choose(rows.sample(frac=1, random_state=3), 10)
    assert list(shuffled[1]["scan_id"]) == list(sample["scan_id"])
    assert list(shuffled[0]["scan_id"]) == list(worst["scan_id"])


def test_big_overlays_are_shrunk_into_the_budget(monkeypatch):
    rng = np.random.default_rng(0)
    from tests.ctplatform.report_workspace import overlay

    originals = [gallery._load(overlay(str(i), rng, size=(1600, 600))) for i in range(4)]
    monkeypatch.setattr(gallery, "BUDGET", 120_000)
    pictures = gallery._compressed(originals)
    assert sum(len(data) for data, _, _ in pictures) <= 120_000
    assert all(abs(width / height - 1600 / 600) < 0.02 for _, width, height in pictures)


def test_a_torn_overlay_is_named_and_the_others_stay(world, recipe, tmp_path):
    workspace = copied(world, tmp_path, "scans")
    ledger = read_inputs(workspace, recipe, run=RUN).ledger.dropna(subset=["dice"])
    torn = str(gallery.choose(ledger, recipe.report.gallery)[0]["scan_id"].iloc[0])
    png = workspace.read_bytes("scans", "qc", f"{torn}.png")
    workspace.write_bytes(png[: len(png) // 2], "scans", "qc", f"{torn}.png")
    section = gallery.section(read_inputs(workspace, recipe, run=RUN))
    assert [torn in notice for notice in section.notices] == [True]
    shown = [image.name for figure in section.figures for image in figure.images]
    assert len(shown) == recipe.report.gallery - 1
    assert torn not in shown


def test_the_report_says_how_many_labels_are_saved(world, recipe, tmp_path):
    workspace = copied(world, tmp_path, f"evaluation/{RUN}")
    table = (
        workspace.read_table("evaluation", RUN, "savings.parquet").to_pandas().query("task == 'emphysema'")
    )
    row = table.iloc[0].to_dict() | {"metric": "auroc", "target": 0.8, "target_low": 0.7, "target_high": 0.9}
    row |= {"chance": 0.5, "n_baseline": 200, "n_least": 2, "high": 40.0, "low": 11.0}
    rows = [
        row | {"initialisation": "drasclr", "labels": 20.0},
        row | {"initialisation": "finetune", "labels": np.inf, "high": np.inf},
    ]
    replaced(workspace, pd.DataFrame(rows), "evaluation", RUN, "savings.parquet")
    ((_, text),) = savings.sentences(read_inputs(workspace, recipe, run=RUN), ["emphysema"])
    assert "from scratch on all 200 labels, the network reaches AUROC 0.80 (0.70 to 0.90)" in text
    assert "DrasCLR needs 20 for that, 10% of them (95% interval 11 to 40)" in text
    assert "DrasCLR, fine-tuned does not reach that" in text
    assert "chance" not in text
    replaced(workspace, pd.DataFrame([rows[0] | {"target_low": 0.4}]), "evaluation", RUN, "savings.parquet")
    ((_, text),) = savings.sentences(read_inputs(workspace, recipe, run=RUN), ["emphysema"])
    assert "not distinguishable from chance (0.50)" in text


def test_the_ablation_table_says_what_each_lacks_and_by_how_much(world, recipe):
    inputs = read_inputs(world, recipe, run=RUN)
    (table,) = ablations.section(inputs).figures[0].tables
    rows = {cells[1]: cells for cells in table.rows if cells[0] == "Emphysema extent"}
    assert list(rows) == ["DrasCLR", "Local loss only", "No conditioning", "Random encoder"]
    assert rows["Local loss only"][2:6] == ("yes", "no", "yes", "yes")
    assert rows["No conditioning"][2:6] == ("yes", "yes", "no", "yes")
    expected = inputs.comparisons.query(
        "task == 'emphysema_extent' and metric == 'r2' and fraction == 1.0 and b == 'local'"
    )["difference"].item()
    shown = float(rows["Local loss only"][8].split()[0].replace("\N{MINUS SIGN}", "-"))
    assert shown == pytest.approx(expected, abs=0.006)
    assert rows["DrasCLR"][8] == words.DASH


def test_what_was_searched_is_counted(world, recipe):
    inputs = read_inputs(world, recipe, run=RUN)
    (row,) = savings.search_table(inputs).rows
    assert row[1:6] == ("From scratch", "100%", "3", "18", "12")
    assert "1.5 min" in row[-1]
    cost = {cells[0]: cells[1] for cells in provenance._cost(inputs).rows}
    assert cost["Search of hyper-parameters"] == "18 configurations"


def test_numbers_at_risk_are_counted_from_the_times(world, recipe):
    inputs = read_inputs(world, recipe, run=RUN)
    rows = inputs.predictions.query("task == 'survival' and initialisation == 'drasclr' and fraction == 1.0")
    table = survival._at_risk("drasclr", survival.group(rows))
    times = rows.groupby("subject_id")["time"].first()
    marks = {cells[1] for cells in table.rows}
    assert len(marks) > 2
    for mark in marks:
        at_risk = sum(int(cells[2]) for cells in table.rows if cells[1] == mark)
        assert at_risk == int((times >= float(mark) * 365.25).sum())


def test_a_resumed_log_is_one_log(recipe, tmp_path):
    lines = [(10, 1.0), (20, 2.0), (30, 3.0), (20, 1.0), (30, 2.0), (40, 3.0)]
    text = "\n".join(json.dumps({"step": s, "loss": i, "seconds": t}) for i, (s, t) in enumerate(lines))
    workspace = Workspace(tmp_path)
    workspace.write_bytes((text + '\n{"step": 5').encode(), "pretrain", RUN, "metrics.jsonl")
    metrics = read_inputs(workspace, recipe, run=RUN).metrics
    assert list(metrics["step"]) == [10, 20, 30, 40]
    assert list(metrics["loss"]) == [0, 3, 4, 5]


def test_the_probe_is_drawn_beside_what_it_is_compared_with(recipe, world):
    inputs = read_inputs(world, recipe, run=RUN)
    (figure,) = pretraining.section(inputs).figures
    (panel,) = [panel for panel in figure.panels if panel.name == "pretraining-probe"]
    assert "at the end probe 0.6" in panel.alt
    assert "36 training subjects x 12 locations" in figure.caption
    # No density was known for this run, so no line claims to be it.
    assert pretraining.levels("probe", inputs) == [(0.31, "before training")]
    assert pretraining.levels("loss", inputs) == []


# --- colours


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
        sign = signs._key(Key(name, colour, marker))
        assert signs._SHAPES[marker] in sign
        assert signs.VARIABLES[colour] in sign


# --- a real browser


@pytest.fixture(scope="module")
def browser():
    executable = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if executable is None:
        pytest.skip("no chromium on this machine; `apt-get install chromium` brings it")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=executable, args=list(BROWSER_ARGUMENTS))
        yield opened
        opened.close()


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


def test_maps_show_truth_and_every_initialisation_in_their_colours(world):
    inputs = read_inputs(world, load_recipe("demo"), run=RUN)
    section = maps.section(inputs)
    subtypes, nodules = section.figures
    assert [key.label for key in subtypes.keys] == ["Centrilobular", "Panlobular", "Paraseptal"]
    assert [key.label for key in nodules.keys] == ["Nodule"]
    assert len(subtypes.images) == 3
    picture = Image.open(io.BytesIO(subtypes.images[0].data))
    assert picture.width == 4 * 120 + 3 * maps.GAP  # CT, truth, DrasCLR, density
    pixels = np.asarray(picture.convert("RGB")).astype(int)[maps.HEAD :]
    grey = pixels[:, :120]
    assert np.abs(grey[..., 0] - grey[..., 2]).mean() < 8
    truth = pixels[:, 120 + maps.GAP : 240 + maps.GAP]
    assert (truth[..., 0] - truth[..., 2] > 60).any()  # orange
    assert (truth[..., 2] - truth[..., 0] > 60).any()  # sky
    (table,) = subtypes.tables
    assert len(table.rows) == 3 * 4
    assert table.header[:3] == ("Subject", "Class", "True")
    assert {key.colour for figure in section.figures for key in figure.keys} <= set(VARIABLES)


def test_a_page_without_label_maps_says_so(world, tmp_path):
    inputs = read_inputs(world, load_recipe("demo"), run="another-run")
    assert "no task on label maps" in maps.section(inputs).reason
