"""The site: it builds without a warning, its links lead somewhere, it opens from disk, and nothing leaves it."""

from __future__ import annotations

import html.parser
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from helpers import REPOSITORY
from helpers.browser import browsing, expect, settle

pytestmark = pytest.mark.slow


class Page(html.parser.HTMLParser):
    """The anchors of a page, what it links to, and what a browser loads for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := found.get(name))}
        if tag == "a" and found.get("href"):
            self.links.append(found["href"] or "")
        if tag in ("img", "script", "source", "iframe") and found.get("src"):
            self.loaded.append(found["src"] or "")
        if tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(found.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    run = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "WARNING" not in run.stderr
    return folder


def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_link_leads_somewhere(site: Path) -> None:
    found = pages(site)
    assert len(found) > 25
    broken = []
    for path, page in found.items():
        for link in [*page.links, *page.loaded]:
            target, anchor = urldefrag(link)
            if target.startswith(("https://", "http://", "mailto:", "data:")):
                continue
            file = (path.parent / unquote(target)).resolve() if target else path
            there = file in found and (not anchor or unquote(anchor) in found[file].anchors)
            if not (there or (file.exists() and not anchor)):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    outside = {link for page in pages(site).values() for link in page.loaded if "//" in link}
    assert outside == set()


def test_every_page_of_docs_is_on_the_site(site: Path) -> None:
    made = {str(path.relative_to(site).with_suffix("")) for path in pages(site)}
    docs = REPOSITORY / "docs"
    assert {str(path.relative_to(docs).with_suffix("")) for path in docs.rglob("*.md")} <= made


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_open_from_disk(site: Path, width: int) -> None:
    with browsing(width, 800) as b:
        for name in ("index.html", "rules.html", "api/explainer.html", "api/evaluate.html"):
            b.page.goto((site / name).as_uri())
            settle(b.page)
            assert b.page.evaluate("document.documentElement.scrollWidth") <= width, name
        expect(b.page.locator("h1")).to_have_text(re.compile(r"^\s*lrp_tf\.evaluate"))
        expect(b.page.locator(".doc-signature").first).to_contain_text("perturb")
        expect(b.page.locator("article")).to_contain_text("Raises")
        assert b.elsewhere == []
        assert b.errors == []


def test_search_finds_from_disk(site: Path) -> None:
    with browsing() as b:
        b.page.goto((site / "api" / "explainer.html").as_uri())
        b.page.click(".md-search__input")
        b.page.keyboard.type("lattice")
        b.page.wait_for_selector(".md-search-result__item >> text=Heatmaps")
        assert b.elsewhere == []
        assert b.errors == []


def test_dark_pages_are_dark(site: Path) -> None:
    def background(scheme: str) -> int:
        with browsing(color_scheme=scheme) as b:
            b.page.goto((site / "index.html").as_uri())
            colour = b.page.evaluate("getComputedStyle(document.body).backgroundColor")
            return int(colour.split("(")[1].split(",")[0])

    assert background("dark") < 60 < 200 < background("light")
