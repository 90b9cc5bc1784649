"""Who may see what: media by name alone, reports in a sandbox, names and hosts checked, text escaped."""

import base64
import os
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from tests.demo.conftest import PROMPTS, write_folder
from visalign.errors import UserError
from visalign_demo import compare_tab, score_tab
from visalign_demo.board_tab import board_html
from visalign_demo.compare_tab import CompareRequest, CompareView, make, stream
from visalign_demo.context import Demo, RequestLimits, sentence_of
from visalign_demo.model_worker import Step
from visalign_demo.server import app_of, serve
from visalign_demo.vote_tab import Booth


@pytest.fixture
def client(demo):
    return TestClient(app_of(demo), base_url="http://127.0.0.1:7860")


def test_media_are_served_by_their_names_and_nothing_else_is(client, demo, tmp_path):
    name = demo.book.matchups()[0].a.file
    answer = client.get(f"/media/{name}")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"secret")
    link = demo.book.media / f"{'0' * 32}.png"
    os.symlink(secret, link)
    (demo.book.media / "plain.png").write_bytes(b"secret")
    for path in (link.name, "plain.png", "votes.sqlite", "../votes.sqlite", "..%2fvotes.sqlite", "%2e%2e/votes.sqlite",
                 f"{'a' * 32}.png", "%2fetc%2fpasswd", f"{name}%00.png"):
        answer = client.get(f"/media/{path}")
        assert answer.status_code == 404 and b"secret" not in answer.content and b"SQLite" not in answer.content, path


def test_gradio_s_own_file_route_gives_nothing_from_here_away(client, demo, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    for target in (demo.book.file, demo.book.media / demo.book.matchups()[0].a.file, tmp_path / "secret.txt",
                   "/etc/passwd", "pyproject.toml"):
        answer = client.get(f"/gradio_api/file={target}")
        assert answer.status_code in (403, 404), target


def test_reports_are_shown_in_a_sandbox_and_only_those_of_runs(client, demo, tmp_path):
    run = tmp_path / "runs" / "mine"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("{}")
    (run / "report.html").write_text("<h1>report</h1>")
    answer = client.get("/report/mine")
    assert answer.status_code == 200 and "sandbox" in answer.headers["content-security-policy"]
    outside = tmp_path / "outside"
    (outside / "checkpoints").mkdir(parents=True)
    (outside / "config.yaml").write_text("{}")
    (outside / "report.html").write_text("secret")
    os.symlink(outside, tmp_path / "runs" / "linked")
    for path in ("linked", "../outside", "..%2foutside", "%2e%2e/outside", "mine/../../outside", "none"):
        answer = client.get(f"/report/{path}")
        assert answer.status_code == 404 and "secret" not in answer.text, path
    (run / "report.html").unlink()
    os.symlink(outside / "report.html", run / "report.html")
    assert client.get("/report/mine").status_code == 404


def test_another_host_s_name_is_refused_on_loopback(demo):
    app = app_of(demo)
    assert TestClient(app, base_url="http://evil.example").get("/").status_code == 400
    assert TestClient(app, base_url="http://localhost:7860").get("/").status_code == 200


def test_with_a_user_nothing_is_answered_without_the_password(settings):
    demo = Demo(replace(settings, user="ann", password="s3cret:with colon"))
    client = TestClient(app_of(demo), base_url="http://127.0.0.1:7860")
    right = base64.b64encode(b"ann:s3cret:with colon").decode()
    wrong = base64.b64encode(b"ann:s3cret").decode()
    for path in ("/", "/media/x", "/report/x", "/gradio_api/info", "/config"):
        for header in ({}, {"Authorization": f"Basic {wrong}"}, {"Authorization": f"Bearer {right}"},
                       {"Authorization": "Basic"}):
            assert client.get(path, headers=header).status_code == 401, path
    assert client.get("/", headers={"Authorization": f"Basic {right}"}).status_code == 200


def test_a_user_without_a_password_does_not_start(settings):
    with pytest.raises(UserError, match="--user needs a password"):
        serve(replace(settings, user="ann"))


def test_a_taken_port_is_named(settings):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="cannot be served"):
            serve(replace(settings, port=taken.getsockname()[1]))


def test_prompts_names_and_messages_are_escaped_everywhere(demo):
    evil = PROMPTS[1]
    booth, pages = Booth(demo), []
    table = booth.deal(evil, "")
    while table.current:
        pages.append(booth.html(table))
        table = booth.vote(evil, table.held, "left", {}, 1.0)
    assert any("&lt;script&gt;" in page for page in pages)
    pages.append(board_html(demo.book, "overall"))
    request = CompareRequest(evil, ["plain", "tuned"], 0, 2, 1, 1.0, 1.0, ["saturation"])
    pages += [item for pair in stream(demo, request, "s", "c") for item in pair if isinstance(item, str)]
    pages += [item for pair in stream(demo, replace(request, models=[evil]), "s", "c") for item in pair
              if isinstance(item, str)]
    pages.append(score_tab.gallery_html([score_tab.Scored(evil, None, {evil: 1.0}, evil)], evil))
    assert len(pages) > 8 and not any("<script" in page or 'quotes"' in page for page in pages)


def test_a_comparison_shows_every_model_s_rewards_and_marks_the_best(demo):
    shown = []
    job = demo.model_worker.submit(lambda job: make(demo, CompareRequest(PROMPTS[0], ["plain", "tuned"], 0, 2, 1, 1.0,
                                                                         1.0,
                                                         ["saturation"]), job))
    for news in job:
        if isinstance(news, CompareView):
            shown.append(news)
    last = shown[-1]
    assert list(last.columns) == ["plain", "tuned"] and len(last.columns["plain"]) == 2
    scores = {name: card.scores for name, (card, _) in last.columns.items()}
    assert all("saturation score" in each for each in scores.values())
    page = last.html()
    assert page.count("<figure>") == 4 and page.count('type="range"') == 2 and 'aria-label="Results' in page


def test_a_wall_shows_diversity(demo):
    request = CompareRequest(PROMPTS[0], ["plain"], 0, 2, 1, 1.0, 1.0, [], wall=True)
    views = [news for news in demo.model_worker.submit(lambda job: make(demo, request, job)) if isinstance(news,
                                                                                                        CompareView)]
    assert 1 < views[-1].measured["plain"]["Vendi score"] <= 2 and "Vendi score" in views[-1].html()


@pytest.mark.parametrize("change, words", [
    ({"prompt": "  "}, "Write a prompt"), ({"prompt": "x" * 2001}, "2001 characters"),
    ({"models": []}, "Choose at least one model"), ({"models": ["gone"]}, "no model &#39;gone&#39;"),
    ({"seeds": 99}, "1 to 16 seeds"), ({"steps": 0}, "1 to 200 steps"), ({"strength": 2.0}, "from 0 to 1.5"),
    ({"prompt": "unknown to the folder"}, "use a random prompt")])
def test_requests_that_cannot_be_met_are_one_sentence(demo, change, words):
    request = replace(CompareRequest(PROMPTS[0], ["plain"], 0, 1, 1, 1.0, 1.0, []), **change)
    said = [item for pair in stream(demo, request, "s", "c") for item in pair if isinstance(item, str)]
    assert words in said[-1] and 'role="alert"' in said[-1]


def test_too_many_requests_of_one_client_are_refused(demo, monkeypatch):
    monkeypatch.setattr(compare_tab, "CLIENT_REQUESTS", 2)
    request = CompareRequest(PROMPTS[0], ["plain"], 0, 1, 1, 1.0, 1.0, [])

    def said(client):
        return "".join(item for pair in stream(demo, request, "s", client) for item in pair if isinstance(item, str))

    assert "too many" not in said("one") + said("one") + said("two") and "too many requests" in said("one")


def test_limits_forget_after_their_time():
    now = [0.0]
    limits = RequestLimits(lambda: now[0])
    for _ in range(2):
        limits.check("c", "vote", 2)
    with pytest.raises(UserError, match="2 in 60 seconds"):
        limits.check("c", "vote", 2)
    now[0] = 61
    limits.check("c", "vote", 2)


def test_what_nobody_expected_tells_no_details():
    assert (sentence_of(ValueError("/secret/path"))
            == "Something unexpected went wrong (ValueError); see the server's log.")
    assert sentence_of(UserError("say this")) == "say this"


def test_images_and_videos_are_not_compared(folders, settings, video_pairs_file, tmp_path):
    videos = tmp_path / "videos"
    write_folder(videos, 10)
    for number, file in enumerate(videos_of(video_pairs_file)):
        (videos / f"{number}.mp4").write_bytes(file.read_bytes())
    rows = "".join(f'{{"prompt": "p", "file": "{n}.mp4"}}\n' for n in range(len(videos_of(video_pairs_file))))
    (videos / "samples.jsonl").write_text(rows)
    with pytest.raises(UserError, match="images and videos cannot be compared"):
        Demo(replace(settings, models={"plain": folders["plain"], "videos": str(videos)}))


def videos_of(pairs_file):
    return sorted(pairs_file.parent.rglob("*.mp4"))[:2]


@pytest.mark.parametrize("change, words", [
    ({"rewards": ("brightnes",)}, "reward brightnes"), ({"models": {"a": "tiny-sd4"}}, "tiny-sd4"),
    ({"features": "tiny-clap"}, "tiny-clap"), ({"prompts": "nowhere.txt"}, "nowhere.txt")])
def test_what_is_wrong_is_said_before_the_server_starts(settings, change, words):
    with pytest.raises(UserError, match=words):
        Demo(replace(settings, **change))


def test_scores_are_sorted_and_safe_in_a_spreadsheet(demo, folders):
    from pathlib import Path

    files = sorted(Path(folders["tuned"]).glob("*.png"))[:3]
    broken = files[0].with_name("=cmd.png")
    broken.write_bytes(b"no image")
    rows = []
    list(demo.model_worker.submit(lambda job: rows.extend(score_tab.score_files([*files, broken], "p", demo.rewards,
                                                                                job))))
    assert rows[3].uri is None and "=cmd.png" in rows[3].remark and not rows[3].values
    page = score_tab.gallery_html(rows, "saturation score")
    order = [page.index(f"<b>{row.name}</b>") for row in sorted(rows[:3], key=lambda r: -r.values["saturation score"])]
    assert order == sorted(order) and "cannot be read" in page
    table = score_tab.scores_csv(rows, "p").splitlines()
    assert table[0].startswith("file,prompt,saturation score") and table[4].startswith("'=cmd.png,p,,")


def test_a_cancelled_comparison_says_so_and_ends(demo, monkeypatch):
    ended = []

    def endless(demo, request, job):
        try:
            while True:
                job.tell(Step("plain", 1, 9))
        finally:
            ended.append(True)

    monkeypatch.setattr(compare_tab, "make", endless)
    news = stream(demo, CompareRequest(PROMPTS[0], ["plain"], 0, 1, 1, 1.0, 1.0, []), "mine", "c")
    assert "Waiting for a free worker" in next(news)[0] and "plain: 1 of 9" in next(news)[0]
    demo.running["mine"].cancel()
    assert "Cancelled." in [pair[0] for pair in news][-1]
    list(demo.model_worker.submit(lambda job: None))  # the worker is free again
    assert ended == [True]


def test_a_closed_page_ends_what_it_waited_for(demo, monkeypatch):
    monkeypatch.setattr(compare_tab, "make",
                        lambda demo, request, job: [job.tell(Step("x", 0, 1)) for _ in range(10**9)])
    news = stream(demo, CompareRequest(PROMPTS[0], ["plain"], 0, 1, 1, 1.0, 1.0, []), "mine", "c")
    next(news)
    demo.forget("mine")
    list(demo.model_worker.submit(lambda job: None))
    assert demo.running == {}


def test_the_app_uses_nothing_that_visalign_keeps_to_itself():
    import ast
    from pathlib import Path

    import visalign_demo

    files = sorted(Path(visalign_demo.__file__).parent.glob("*.py"))
    names = [alias.name for file in files for node in ast.walk(ast.parse(file.read_text()))
             if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("visalign")
             for alias in node.names]
    assert len(names) > 40 and not [name for name in names if name.startswith("_")]
