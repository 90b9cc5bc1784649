"""The app in a real browser: generate, compare, vote by keyboard, kill the server, go on, export, train; two widths."""

import json
import os
import shutil

import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.demo.conftest import PROMPTS, free_port, server, write_folder
from tests.trainers.commands import run
from visalign.votes import VoteDatabase

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt install chromium)")
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
REWARDS = ("-r", "saturation")
PATIENCE = 180_000
"""Milliseconds; a loaded machine is slow, and that is no failure."""
SERVER_GONE = ("ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET",
               "ERR_EMPTY_RESPONSE", "Connection errored out")

FAINT = """() => {
  const light = c => { const a = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                       return .2126 * a[0] + .7152 * a[1] + .0722 * a[2] };
  const parse = s => (s.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const ground = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
                        if (c.length < 4 || c[3] > .5) return c.slice(0, 3) } return [255, 255, 255] };
  return [...document.querySelectorAll('button, p, label, span, dt, dd, td, th, figcaption, a, summary, h1, h3')]
    .filter(e => e.offsetParent && e.innerText.trim() && !e.closest('[disabled]')
                 && getComputedStyle(e).color.startsWith('rgb')
                 && ![...e.children].some(c => c.innerText && c.innerText.trim() === e.innerText.trim()))
    .map(e => { const [a, b] = [light(parse(getComputedStyle(e).color).slice(0, 3)), light(ground(e))];
                return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.tagName, e.innerText.slice(0, 40)] })
    .filter(found => found[0] < 4.5) }"""
"""Texts whose contrast is less than 4.5 to 1 (WCAG 2, AA)."""


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu",
                                                                        "--disable-quic"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Opens a page whose console errors fail the test, but for those that a server's end causes.

    outlives: the page lives through a killed server, and what it then says of that is its business.
    """
    opened = []

    def open_at(address, width="desktop", outlives=False):
        context = browser.new_context(viewport=dict(zip(("width", "height"), WIDTHS[width], strict=True)))
        page, problems = context.new_page(), []
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#generate", timeout=PATIENCE)
        opened.append((context, [] if outlives else problems))
        return page

    yield open_at
    for context, problems in opened:
        context.close()
        left = [text for text in problems if not any(name in text for name in SERVER_GONE)]
        assert not left, left


def go_to(page, tab):
    page.get_by_role("tab", name=tab).click()


def ballot(page):
    page.wait_for_selector(".va-ballot", timeout=PATIENCE)
    return page.get_attribute(".va-ballot", "data-ballot")


def press(page, key):
    """Press a key and wait for another ballot, or for none."""
    old = ballot(page)
    page.keyboard.press(key)
    page.wait_for_function("old => { const b = document.querySelector('.va-ballot'); return !b || "
                           "b.dataset.ballot !== old }", arg=old, timeout=PATIENCE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def many(folder):
    prompts = [f"prompt {i}" for i in range(13)]
    return [f"{name}={write_folder(folder / name, shade, 2, prompts)}" for name, shade in (("plain", 60),
                                                                                         ("tuned", 220))]


@pytest.fixture(scope="module")
def address(many, folder):
    """Of a server for tests that leave nothing behind for the next one."""
    with server(*many, *REWARDS, "--folder", folder / "book", "--pairs", 4, "--upload-megabytes", 1,
                "--runs", folder / "runs") as (at, _):
        yield at


def test_votes_by_keyboard_survive_a_killed_server(many, open_page, tmp_path):
    options = (*many, *REWARDS, "--folder", tmp_path / "book", "--pairs", 26, "--runs", tmp_path / "runs")
    port, keys = free_port(), ["ArrowLeft", "ArrowRight", "ArrowDown", " "]
    with server(*options, port=port) as (address, program):
        page = open_page(address, outlives=True)
        go_to(page, "Blind vote")
        for i in range(20):
            press(page, keys[i % 4])
        program.kill()
        held = ballot(page)
        assert len(VoteDatabase(tmp_path / "book").votes()) == 20
    with server(*options, port=port) as (address, _):
        assert ballot(page) == held  # the old page goes on where it was
        press(page, "ArrowLeft")
        assert page.inner_text(".va-status").startswith("21 of 26")
        page.keyboard.press("u")
        page.wait_for_function("document.querySelector('.va-status')?.innerText.includes('taken back')")
        fresh = open_page(address)
        go_to(fresh, "Leaderboard")
        fresh.wait_for_selector(".va-matrix")
        assert "15 votes by 1 voter" in fresh.inner_text("#board")
        go_to(fresh, "Train on my votes")
        fresh.wait_for_selector(".va-problem")
        assert "there is no model to train" in fresh.inner_text(".va-problem")
    choices = [vote.choice for vote in VoteDatabase(tmp_path / "book").votes()]
    assert len(choices) == 20 and choices.count("tie") == 5 and choices.count("skip") == 5


def test_generate_compare_vote_export_and_train(pipelines, open_page, tmp_path):
    """The whole loop on a tiny random pipeline, as a user clicks it."""
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    model, other = pipelines("sd3"), tmp_path / "other"
    shutil.copytree(model, other)
    file = other / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: 1.2 * tensor for name, tensor in load_file(file).items()}, file)
    with server(f"base={model}", f"other={other}", *REWARDS, "--prompts", tmp_path / "prompts.txt", "--steps", 2,
                "--guidance-scale", 1, "--folder", tmp_path / "book", "--pairs", 3, "--device", "cpu", "--runs",
                tmp_path / "runs") as (address, _):
        page = open_page(address)
        page.click("#random-prompt")
        page.wait_for_function("was => document.querySelector('#prompt textarea').value !== was", arg=PROMPTS[0])
        prompt = page.input_value("#prompt textarea")
        page.click("#generate")
        page.wait_for_function("document.querySelectorAll('.va-results .va-scores').length === 4", timeout=PATIENCE)
        assert page.locator(".va-results figure").count() == 4
        assert page.inner_text(".va-results .va-prompt") == prompt
        evil = '<img src=x onerror="window.hacked=1">${window.hacked=1}{{this}}<script>window.hacked=1</script>'
        page.fill("#prompt textarea", evil)
        page.click("#generate")
        page.wait_for_function("""evil => document.querySelector('.va-results .va-prompt')?.innerText === evil
            && document.querySelectorAll('.va-results .va-scores').length === 4""", arg=evil, timeout=PATIENCE)
        assert page.evaluate("window.hacked") is None
        page.click(".va-overlay summary >> nth=0")
        page.focus(".va-overlay input >> nth=0")
        page.keyboard.press("ArrowLeft")
        assert page.eval_on_selector(".va-stack", "stack => stack.style.getPropertyValue('--cut')") == "49%"
        page.click("#wall")
        page.wait_for_selector(".va-wall-side:nth-child(2) .va-chip", timeout=PATIENCE)
        go_to(page, "Blind vote")
        for key in ("ArrowLeft", "ArrowRight", "ArrowLeft"):
            press(page, key)
        go_to(page, "Train on my votes")
        page.wait_for_selector(".va-command")
        command = page.inner_text(".va-command")
        assert page.locator("#train-start").count() == 0
    recipe = tmp_path / "book" / "train_on_votes.yaml"
    assert command == f"visalign train {recipe}"
    settings = yaml.safe_load(recipe.read_text())
    assert settings["data"]["path"] == str(tmp_path / "book" / "export" / "comparisons.csv")
    done = run(*command.split()[2:], "train.steps=2", "train.device=cpu", "eval.max_prompts=1", "model.precision=fp32",
               f"data.cache={tmp_path / 'cache'}")
    assert done.exit_code == 0, done.output
    trained = tmp_path / "runs" / "votes-1"
    assert (trained / "report.html").exists()
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert sum(row["kind"] == "train" for row in rows) == 2


@pytest.mark.parametrize("width", WIDTHS)
def test_every_tab_fits_its_width_has_labels_and_can_be_read(address, open_page, width):
    page = open_page(address, width)
    for tab in ("Blind vote", "Leaderboard", "Score", "Runs", "Train on my votes", "Compare"):
        if not page.get_by_role("tab", name=tab).is_visible():  # a narrow page folds its tabs into a menu
            page.locator(".overflow-menu button").first.click()
            page.locator(".overflow-dropdown button", has_text=tab).click()
        else:
            go_to(page, tab)
        page.wait_for_timeout(800)
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert overflow <= 1, (tab, overflow)
        assert not page.evaluate(FAINT), (tab, page.evaluate(FAINT))
        bare = page.evaluate("""() => [...document.querySelectorAll('input, textarea, button, img, video')]
            .filter(e => e.offsetParent !== null && !(e.labels && e.labels.length) && !e.getAttribute('aria-label')
                    && !e.getAttribute('aria-labelledby') && !e.getAttribute('alt') && !e.title
                    && !e.innerText.trim() && !e.getAttribute('placeholder') && e.type !== 'file')
            .map(e => e.outerHTML.slice(0, 160))""")
        assert not bare, (tab, bare)


def test_images_are_scored_from_the_page(address, folder, open_page, tmp_path):
    page = open_page(address)
    go_to(page, "Score")
    files = sorted((folder / "tuned").glob("*.png"))[:3]
    page.set_input_files("#score-files input[type=file]", [str(file) for file in files])
    page.wait_for_function("document.querySelectorAll('#score-files .file').length >= 3", timeout=PATIENCE)
    page.click("#score")
    page.wait_for_selector("#scores figure >> nth=2", timeout=PATIENCE)
    with page.expect_download() as saved:
        page.click("#score-csv")
    assert saved.value.path().read_text(encoding="utf-8-sig").startswith("file,prompt,saturation score,remarks")
    large = tmp_path / "large.png"
    large.write_bytes(os.urandom(2 * 2**20))
    upload = page.request.post(f"{address}/gradio_api/upload", multipart={
        "files": {"name": "large.png", "mimeType": "image/png", "buffer": large.read_bytes()}})
    assert 400 <= upload.status < 500
