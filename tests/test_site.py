"""The site that `make docs` builds: what its files say, and what headless Chromium shows, served on this machine."""

from __future__ import annotations

import http.server
import os
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest

from bench import gallery
from bench.harness import read
from tests import browser

ROOT = Path(__file__).parents[1]
SITE = ROOT / "site"
AT = "/fastssm/"  # the path of `site_url`
FORMULAS = {  # pages that are opened, and the least number of formulas on each
    "": 0,
    "quickstart/": 3,
    "gallery/": 0,
    "notebooks/quickstart/": 0,
    "experiments/": 0,
    "losses/": 2,
    "losses/domains/": 30,
    "diffusion/": 20,
    "api/losses/": 0,
    "mathematics/": 60,
    "benchmarks/cpu/": 0,
    "changelog/": 0,
    "404.html": 0,
}
WIDER = """
[...document.querySelectorAll(".md-content *")]
  .filter(e => !e.closest(".katex-display, .katex-mathml, svg *, .md-typeset__scrollwrap, pre, details:not([open]) *"))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 0.5)
  .map(e => e.outerHTML.slice(0, 120) + " " + e.getBoundingClientRect().right)
"""
UNDRAWN = """
[...document.querySelectorAll(".katex-error, .katex [style*='rgb(204, 0, 0)'], .arithmatex:not(:has(.katex))")]
  .map(e => e.textContent)
"""
BACKGROUND = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
FOUND = """
[...document.querySelectorAll("*")].filter(e => e.shadowRoot)
  .flatMap(e => [...e.shadowRoot.querySelectorAll("[role=option]")].map(a => a.href))
"""


class Page(HTMLParser):
    """What a page refers to, and what may be referred to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.url = urljoin(f"http://site{AT}", path.relative_to(SITE).as_posix().removesuffix("index.html"))
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.parts: list[str] = []  # what the browser loads
        self.undescribed: list[str] = []
        self.properties: dict[str, str] = {}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Keep what a tag refers to."""
        found = {name: value or "" for name, value in attributes}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(urljoin(self.url, found["href"]))
        loaded = found.get("src") or (found.get("href") if tag == "link" and found.get("rel") != "canonical" else None)
        if loaded:
            self.parts.append(urljoin(self.url, loaded))
        if tag == "img" and len(found.get("alt", "")) < 10:
            self.undescribed.append(found.get("src", ""))
        if tag == "meta" and "property" in found:
            self.properties[found["property"]] = found["content"]


@pytest.fixture(scope="module")
def pages() -> dict[str, Page]:
    """Return every page of the site, by its address."""
    if not (SITE / "index.html").exists():
        pytest.skip("the site is not built: run `make docs`")
    sources = [ROOT / "mkdocs.yml", *(path for path in (ROOT / "docs").rglob("*") if path.is_file())]
    if max(path.stat().st_mtime for path in sources) > (SITE / "sitemap.xml").stat().st_mtime:
        pytest.skip("the site is older than docs/: run `make docs`")
    found = [Page(path) for path in SITE.rglob("*.html")]
    return {page.url: page for page in found}


def test_links_and_anchors_are_whole(pages: dict[str, Page]) -> None:
    broken = []
    for page in pages.values():
        for address in {*page.links, *page.parts}:
            url, anchor = urldefrag(address)
            if urlparse(url).netloc != "site":
                continue
            file = SITE / unquote(urlparse(url).path).removeprefix(AT)
            aim = pages.get(url)
            if (not aim and not file.is_file()) or (anchor and aim and unquote(anchor) not in aim.anchors):
                broken.append((page.url, address))
    assert len(pages) > 40
    assert sum(len(page.links) for page in pages.values()) > 2000
    assert broken == []


def test_no_part_of_a_page_is_elsewhere(pages: dict[str, Page]) -> None:
    parts = {part for page in pages.values() for part in page.parts}
    assert {urlparse(part).netloc for part in parts} == {"site"}
    style = (SITE / "assets" / "katex" / "katex.min.css").read_text()
    fonts = set(re.findall(r"url\((fonts/[\w-]+\.woff2)\)", style))
    assert len(fonts) == 20
    assert [font for font in fonts if not (SITE / "assets" / "katex" / font).exists()] == []


def test_every_picture_has_a_description_and_every_page_a_card(pages: dict[str, Page]) -> None:
    assert [(page.url, page.undescribed) for page in pages.values() if page.undescribed] == []
    for page in pages.values():
        assert {"og:title", "og:description", "og:image"} <= set(page.properties), page.url
        image = page.properties["og:image"]
        assert (SITE / urlparse(image).path.removeprefix(AT)).is_file(), image
    titles = [page.properties["og:title"] for page in pages.values()]
    assert len(set(titles)) > 0.9 * len(titles)


def test_the_gallery_has_every_example() -> None:
    examples = {
        path.relative_to(ROOT / "examples").with_suffix("").as_posix() for path in (ROOT / "examples").rglob("*.py")
    }
    assert set(gallery.NAMES) == examples
    assert {row["example"] for row in read(gallery.OUT)} == examples
    drawn = {name for name in examples if "savefig" in (ROOT / gallery.source(name)).read_text()}
    assert {name for name in examples if gallery.figure(name)} == drawn


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves the site at its path, without a log."""

    def translate_path(self, path: str) -> str:
        """Return the file of an address."""
        return super().translate_path("/" + path.removeprefix(AT))

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address(pages: dict[str, Page]) -> Iterator[str]:
    """Serve the site on this machine, and yield its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}{AT}"
        server.shutdown()


@pytest.fixture(scope="module")
def shown(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    """Start Chromium."""
    with browser.page(tmp_path_factory.mktemp("chromium")) as page:
        yield page


def keep(page: browser.Page, name: str) -> None:
    """Save a screenshot, if a folder for them is named."""
    if where := os.environ.get("FASTSSM_SCREENSHOTS"):
        (Path(where) / f"{name}.png").write_bytes(page.picture())


def faults(page: browser.Page, address: str, width: int) -> list[object]:
    """Return what is wrong with the page that is open, at the width that it has."""
    return [
        *page.complaints,
        *(url for url in page.requests if not url.startswith((address, "data:", "blob:"))),
        *([f"{wide} px"] if (wide := page.value("document.documentElement.scrollWidth")) > width else []),
        *page.value(WIDER),
        *page.value(UNDRAWN),
        *page.value("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"),
    ]


def test_pages_in_a_browser(shown: browser.Page, address: str, subtests) -> None:
    """On a telephone in the dark, then on a desk: no complaint, no request elsewhere, nothing wider than the page."""
    for name, formulas in FORMULAS.items():
        with subtests.test(name):
            shown.requests.clear()
            shown.complaints.clear()
            shown.prefer("dark")
            shown.open(address + name, 400)
            assert faults(shown, address, 400) == []
            assert shown.value("document.querySelectorAll('.arithmatex .katex').length") >= formulas
            assert max(shown.value(BACKGROUND)) < 80
            keep(shown, f"{name.strip('/').replace('/', '-') or 'home'}-400-dark")
            shown.prefer("light")
            shown.resize(1280)
            assert faults(shown, address, 1280) == []
            assert min(shown.value(BACKGROUND)) > 200
            keep(shown, f"{name.strip('/').replace('/', '-') or 'home'}-1280-light")


def wait(page: browser.Page, expression: str) -> Any:
    """Return the value of an expression, as soon as there is one."""
    end = time.monotonic() + 20
    while not (found := page.value(expression)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def test_the_search_finds_a_word(shown: browser.Page, address: str) -> None:
    shown.requests.clear()
    shown.open(address, 1280)
    shown.value("document.querySelector('.md-search__button').click()")
    wait(shown, "document.activeElement.shadowRoot?.activeElement?.tagName == 'INPUT'")
    shown.ask("Input.insertText", text="preconditioned")
    found = wait(shown, FOUND)
    assert any("losses/preconditioned/" in link for link in found[:3])
    assert any("api/losses/" in link for link in found[:3])
    assert faults(shown, address, 1280) == []


def test_a_fault_is_noticed(shown: browser.Page, address: str) -> None:
    shown.open(address, 400)
    shown.complaints.clear()
    assert faults(shown, address, 400) == []
    shown.value("console.error('seen'); document.querySelector('.md-content p').style.width = '500px'")
    shown.value("document.querySelectorAll('.md-content p')[1].innerHTML = '<i></i><i></i>'")
    for place, formula in enumerate((r"\\frac{", r"\\nothing")):  # one that cannot be read, and an unknown command
        shown.value(f"katex.render('{formula}', document.querySelectorAll('p > i')[{place}], {{throwOnError: false}})")
    shown.value("new Image().src = 'https://example.com/x.png'")
    found = "\n".join(map(str, faults(shown, address, 400)))
    for fault in ("seen", "500", "frac", "nothing", "example.com"):
        assert fault in found
