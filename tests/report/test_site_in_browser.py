"""The site in a browser: sorting, filters, links, widths, dark and light; no page says an error."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from made_up_site import MODELS

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    errors: list[str] = []
    opened.on("console", lambda message: errors.append(message.text))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("requestfailed", lambda request: errors.append(request.url))
    yield opened
    opened.close()
    assert errors == []


def shown(page: Page) -> list[list[str]]:
    """Cells of the rows that are visible."""
    rows = page.locator("#results tbody tr:visible")
    return rows.evaluate_all("rows => rows.map(row => [...row.cells].map(cell => cell.textContent.trim()))")


def test_sorting(site: Path, page: Page) -> None:
    page.goto((site / "index.html").as_uri())
    head = page.locator("#results thead th", has_text="score")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    scores = [float(row[5]) for row in shown(page)]
    assert scores == sorted(scores, reverse=True)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(row[5]) for row in shown(page)] == sorted(scores)
    rank = page.locator("#results thead th", has_text="rank")
    rank.locator("button").click()
    rank.locator("button").click()
    ranks = [row[0] for row in shown(page)]
    known = [one for one in ranks if one]
    assert ranks == sorted(known, key=int) + [""] * (len(ranks) - len(known))  # no rank is no small rank
    assert head.get_attribute("aria-sort") == "none"


def test_filters(site: Path, page: Page) -> None:
    page.goto((site / "index.html").as_uri())
    every = shown(page)
    assert len(every) == len(MODELS) * 6  # published ones are there on demand
    page.get_by_label("Domain").select_option("speech")
    assert {row[2] for row in shown(page)} == {"cremad"}
    page.get_by_label("Protocol").select_option("knn")
    page.get_by_label("Rows").select_option("random")
    assert [row[1] for row in shown(page)] == ["untrained"]
    assert re.match(r"1 of \d+ rows", page.locator(".filters output").inner_text())
    page.get_by_role("button", name="Clear").click()
    page.wait_for_function("count => document.querySelectorAll('#results tbody tr:not([hidden])').length === count",
                           arg=len(every))  # fmt: skip
    page.get_by_label("Model").fill("GOOD")
    assert {row[1] for row in shown(page)} == {"good"}
    page.get_by_label("Model").fill("")
    page.get_by_role("checkbox").check()
    assert len(shown(page)) > len(every)
    page.get_by_label("Rows").select_option("clean")
    assert all(row[0] for row in shown(page))


def test_pages_in_the_browser(site: Path, page: Page) -> None:
    """Every page opens without an error, and on a phone nothing but tables is wider than the screen."""
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        for path in sorted(site.rglob("*.html")):
            page.goto(path.as_uri())
            assert page.locator("h1").count() == 1
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{path.name} at {width}"


def test_links_lead_on(site: Path, page: Page) -> None:
    page.goto((site / "index.html").as_uri())
    page.locator("#results").get_by_role("link", name="good", exact=True).first.click()
    assert page.locator("h1").inner_text() == "good"
    page.get_by_role("link", name="esc50").first.click()
    assert page.locator("h1").inner_text() == "esc50"
    page.get_by_role("link", name="aape-bench").click()
    assert page.locator("h1").inner_text() == "Leaderboard"


def test_dark_and_light(site: Path, page: Page) -> None:
    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    page.emulate_media(color_scheme="dark")
    page.goto((site / "index.html").as_uri())
    assert ground() == "rgb(20, 23, 27)"
    page.get_by_role("button", name="Light").click()
    assert ground() == "rgb(255, 255, 255)"
    page.reload()
    assert ground() == "rgb(255, 255, 255)"
    page.emulate_media(media="print")
    assert not page.locator(".filters").is_visible()
