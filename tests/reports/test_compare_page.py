"""The page of a comparison in a real browser: readable, quiet, complete, wide or narrow, light or dark."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from visalign.cli import main
from visalign.evaluators.statistics import Estimate
from visalign.reports import charts

from ..jobs.generations import write_folder

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))),
                None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium browser")


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Three models, one collapsed and one whose prompts hold markup."""
    root = tmp_path_factory.mktemp("page")
    folders = {"base": write_folder(root / "base", 8, 6), "varied": write_folder(root / "varied", 8, 6, brightness=0.9),
               "flat": write_folder(root / "flat", 8, 6, kinds=1)}
    for folder in folders.values():
        file = folder / "samples.jsonl"
        file.write_text(file.read_text().replace("disc number 3", "<script>alert(1)</script> disc"))
    done = CliRunner().invoke(main, ["compare", *(f"{name}={folder}" for name, folder in folders.items()), "-r",
                                     "contrast,saturation", "--cache", str(root / "cache.sqlite"), "-o",
                                     str(root / "out")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return root / "out" / "report.html"


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    os.environ.setdefault("PLAYWRIGHT_SKIP_VALIDATE_HOST_REQUIREMENTS", "1")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=[
            "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"])
        yield opened
        opened.close()


def opened(browser, report, **context):
    """The page, and what it complained about or asked the network for."""
    page = browser.new_context(**context).new_page()
    trouble: list[str] = []
    page.on("console", lambda message: trouble.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else trouble.append(asked.url))
    page.goto(report.as_uri())
    return page, trouble


@needs_browser
@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_quiet_and_fits(browser, report, width, scheme):
    page, trouble = opened(browser, report, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert trouble == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, ink)]
    assert (light[0] > light[1]) == (scheme == "light")
    page.evaluate("[...document.images].forEach(image => image.loading = 'eager')")
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


@needs_browser
def test_the_verdict_comes_first_and_everything_has_its_place(browser, report):
    page, _ = opened(browser, report, viewport={"width": 1200, "height": 900})
    assert page.locator("section.verdict").first.evaluate("e => e.getBoundingClientRect().top") < 300
    assert page.locator("section.verdict.collapsed b").inner_text() == "collapsed"
    headings = page.locator("h2").all_inner_texts()
    assert headings == ["Same prompt, same seeds", "Diversity: every seed of a prompt", "Reward, diversity, style",
                        "Every number", "How this was measured"]
    assert page.locator("svg[role=img][aria-label]").count() == page.locator("svg").count() >= 3
    assert page.locator("img:not([alt])").count() == 0
    assert page.locator(".wall").first.locator("img").count() == 6
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


@needs_browser
def test_markup_in_prompts_is_text(browser, report):
    page, _ = opened(browser, report)
    assert page.locator("script").count() == 0 and "<script>alert(1)</script> disc" in page.locator("body").inner_text()


@needs_browser
def test_every_number_can_be_downloaded(browser, report):
    page, _ = opened(browser, report, accept_downloads=True)
    found = {}
    for name in ("results.csv", "results.json"):
        with page.expect_download() as waiting:
            page.get_by_role("link", name=name).click()
        assert waiting.value.suggested_filename == name
        found[name] = Path(waiting.value.path()).read_text()
    rows = list(csv.DictReader(io.StringIO(found["results.csv"])))
    written = json.loads((report.parent / "results.json").read_text())
    assert json.loads(found["results.json"]) == written
    vendi = next(row for row in rows if (row["model"], row["metric"], row["prompt"]) == ("flat", "diversity/vendi", ""))
    assert float(vendi["value"]) == written["figures"]["flat"]["diversity/vendi"]["value"]


def test_the_page_needs_nothing_from_elsewhere(report):
    text = report.read_text()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
    assert not re.search(r'(?:src|href)="https?:', text) and "@import" not in text


def test_charts_take_their_colours_from_the_page():
    estimates = {"base": Estimate(1000, 990, 1010), "new": Estimate(1100, 1050, float("inf"))}
    first, second = (charts.ladder_chart(estimates, "base", "taste & <b>") for _ in range(2))
    assert "var(--ink)" in first and "#010203" not in first
    assert 'aria-label="Elo of base, new by taste &amp; &lt;b&gt;"' in first
    ids = [set(re.findall(r'id="([^"]+)"', each)) for each in (first, second)]
    assert ids[0].isdisjoint(ids[1])
    assert "DOCTYPE" not in first
