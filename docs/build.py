"""Build the documentation site into build/site and check it: `python docs/build.py`.

The API pages are written from the source tree: one for each module of `drasclr` and for each room of `ctplatform`.
Zensical's strict mode refuses links to pages and headings that do not exist. It does not check images, nor whether a
page loads something from another host; both are checked here, in the HTML.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "site"
API = ROOT / "docs" / "reference" / "api"
PACKAGES = {"drasclr": ROOT / "drasclr", "ctplatform": ROOT / "platform" / "ctplatform"}


def members(folder: Path) -> list[str]:
    """Names of the public modules and subpackages directly inside a package."""
    found = [path.stem for path in folder.glob("*.py")] + [
        path.parent.name for path in folder.glob("*/__init__.py")
    ]
    return sorted(name for name in found if not name.startswith("_"))


def summary(folder: Path, name: str) -> str:
    """First line of a member's docstring."""
    path = folder / name / "__init__.py" if (folder / name).is_dir() else folder / f"{name}.py"
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def write_api_pages() -> None:
    """Write `docs/reference/api/` anew: a page for each member of a package, and an index of them."""
    shutil.rmtree(API, ignore_errors=True)
    API.mkdir(parents=True)
    index = "# API\n\nFrom the docstrings of the sources.\n"
    for package, folder in PACKAGES.items():
        index += f"\n## `{package}`\n\n"
        for name in members(folder):
            page = f"{package}.{name}.md"
            (API / page).write_text(f"# `{package}.{name}`\n\n::: {package}.{name}\n", encoding="utf-8")
            index += f"- [`{package}.{name}`]({page}): {summary(folder, name)}\n"
    (API / "index.md").write_text(index, encoding="utf-8")


class Loaded(HTMLParser):
    """What a browser fetches to show a page: scripts, styles, images, frames."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        name = "href" if tag == "link" else "src"
        if tag != "link" or values.get("rel") not in ("canonical", "next", "prev"):
            self.targets += [target for target in [values.get(name)] if target]


def problems(site: Path) -> list[str]:
    """Targets that a page loads and that are missing from the site, or lie on another host."""
    found = []
    for page in sorted(site.rglob("*.html")):
        reader = Loaded()
        reader.feed(page.read_text(encoding="utf-8"))
        for target in reader.targets:
            url = urlsplit(target)
            if url.scheme == "data":
                continue
            base = site if url.path.startswith("/") else page.parent
            if url.netloc:
                found.append(f"{page.relative_to(site)}: loads {target} from another host")
            elif url.path and not (base / unquote(url.path).lstrip("/")).exists():
                found.append(f"{page.relative_to(site)}: {target} is missing")
    return found


def main() -> int:
    write_api_pages()
    shutil.rmtree(SITE, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "zensical",
        "build",
        "--strict",
        "--clean",
        "--config-file",
        str(ROOT / "mkdocs.yml"),
    ]
    done = subprocess.run(command, cwd=ROOT)
    found = problems(SITE) if done.returncode == 0 else []
    print(
        "\n".join(found) or f"{SITE.relative_to(ROOT)}/index.html", file=sys.stderr if found else sys.stdout
    )
    return done.returncode or bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
