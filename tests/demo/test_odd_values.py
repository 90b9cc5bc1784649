"""Whatever is sent to whatever endpoint: one sentence back, and no traceback in the server's log."""

import itertools
import json
import re

import pytest
from starlette.testclient import TestClient

from tests.demo.conftest import PROMPTS, write_folder
from visalign.errors import UserError
from visalign.votes import Vote, VoteDatabase
from visalign_demo import compare_tab
from visalign_demo.compare_tab import CompareRequest, stream
from visalign_demo.context import CALLS_A_MINUTE, Demo, DemoSettings, RequestLimits, number_within, whole_in
from visalign_demo.server import app_of
from visalign_demo.vote_tab import Booth, seconds_since, voter_of

ODD = [None, "", "x", "\x00", "-1", "1e999", 0, -1, 0.5, 2**70, -2**70, 1e308, True, [], [[]], [None], ["x"],
       ["x"] * 99, "<script>alert(2)</script>", "=1+1", "../../etc/passwd", "a" * 5000, "\u202eabc", "😀" * 70,
       [1, "x"], 10**18]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    models = {"plain": str(write_folder(folder / "plain", 60)), "tuned": str(write_folder(folder / "tuned", 220))}
    made = Demo(DemoSettings(models, (), folder / "book", folder / "runs", rewards=("saturation",), pairs=2,
                         allow_train=True))
    made.pool.start()
    made.pool.join(60)
    return made


@pytest.fixture(scope="module")
def client(demo):
    with TestClient(app_of(demo), base_url="http://127.0.0.1:7860", raise_server_exceptions=False) as client:
        yield client


def say(client, function, data, session="odd"):
    """What a page would be told, queued or not."""
    body = {"data": data, "fn_index": function._id, "session_hash": session}
    if not function.queue:
        return client.post("/gradio_api/run/predict", json=body).text
    joined = client.post("/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return joined.text
    return client.get(f"/gradio_api/queue/data?session_hash={session}").text


def test_no_value_of_any_input_ends_in_a_traceback(client, demo, capfd, caplog, monkeypatch):
    monkeypatch.setattr(demo.limits, "check", lambda *a, **k: None)
    monkeypatch.setattr(compare_tab, "make", lambda *a: None)  # what is drawn is tested elsewhere
    odd, heard = itertools.cycle(ODD), []
    for function in demo.page.fns.values():
        right = [block.value if not callable(block.value) else None for block in function.inputs]
        for place in range(len(right)):
            for value in itertools.islice(odd, 3 if function.queue else 5):
                heard.append(say(client, function, [value if i == place else each for i, each in enumerate(right)]))
        heard += [say(client, function, data) for data in ([], right[:-1], [None] * len(right))]
    log = "".join(capfd.readouterr()) + caplog.text
    assert "Traceback" not in log and "unexpected" not in log, log[-3000:]
    for said in heard:
        assert "unexpected" not in said and "Internal Server Error" not in said, said
        assert "<script>" not in said or "va-" not in said and '"error":"' not in said, said


@pytest.mark.parametrize("seed", ["", None, 2**70, -1, 0.5, "7", True, float("nan"), float("inf"), [1]])
def test_a_seed_that_is_none_is_a_sentence(demo, seed):
    request = CompareRequest(PROMPTS[0], ["plain"], seed, 1, 1, 1.0, 1.0, [])
    said = [item for pair in stream(demo, request, "s", f"c{seed}") for item in pair if isinstance(item, str)]
    assert "The first seed must be a whole number from 0 to 9007199254740991" in said[-1] and 'role="alert"' in said[-1]


def test_the_largest_seed_is_taken_as_a_number(demo):
    request = CompareRequest(PROMPTS[0], ["plain"], float(2**53 - 1), 1.0, 4.0, 1, 1, []).checked(demo.sources)
    assert (request.first_seed, request.seeds, request.steps) == (2**53 - 1, 1, 4) and isinstance(request.seeds, int)


def test_seeds_are_words_to_the_page_too(client, demo):
    [generate] = [function for function in demo.page.fns.values() if function.api_name == "generate"]
    right = [block.value for block in generate.inputs]
    for seed in ("", 2**70, -1):
        said = say(client, generate, [*right[:2], seed, *right[3:]], f"seed {seed}")
        assert "seed" in said.lower() and "Traceback" not in said


@pytest.mark.parametrize("value", [None, "1", True, float("nan"), -0.1, 1.1, [0]])
def test_numbers_are_numbers_of_their_range(value):
    with pytest.raises(UserError, match="Scale must be a number from 0 to 1, not"):
        number_within(value, "Scale", 0, 1)
    with pytest.raises(UserError, match="Steps must be a whole number from 2 to 9"):
        whole_in(value, "Steps", 2, 9)
    assert number_within(1, "Scale", 0, 1) == 1.0 and whole_in(3.0, "Steps", 2, 9) == 3


@pytest.mark.parametrize("name", ["a\x00b", "a\u202eb", "\u200b", "a\u2028b", "\ud800", "a\tb", 5 * "\u2066"])
def test_names_have_letters_that_can_be_seen(name):
    with pytest.raises(UserError, match="1 to 60 characters that can be seen"):
        voter_of(name)


def test_two_forms_of_one_name_are_one_voter():
    assert voter_of("Zoe\u0308") == voter_of(" Zo\u00eb ") and voter_of("'; DROP TABLE votes --") and voter_of("李 😀")


@pytest.mark.parametrize("begun", [None, "x", True, 1e300, -1e300, float("nan"), [], 0])
def test_a_time_that_cannot_be_is_no_time(begun):
    assert seconds_since(begun) is None


def test_undo_is_for_the_page_that_voted_whatever_name_another_gives(client, demo):
    def call(who, api, *data):
        answer = who.post(f"/gradio_api/run/{api}", json={"data": list(data), "session_hash": str(id(who))})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    strangers = [TestClient(client.app, base_url="http://127.0.0.1:7860") for _ in range(2)]
    strangers[1].get("/")
    client.get("/")
    held = call(client, "ballot", "ann", "")[1]
    held = call(client, "vote_left", "ann", held, 0, None, None, None)[1]
    mine = [vote for vote in demo.book.votes() if vote.voter == "ann"]
    assert len(mine) == 1
    for stranger in strangers:
        assert "no vote of yours on this page" in call(stranger, "vote_undo", "ann", "")[0]
        assert "no vote of yours on this page" in call(stranger, "vote_undo", "ann", held)[0]
    assert [vote for vote in demo.book.votes() if vote.voter == "ann"] == mine
    assert "The last vote was taken back" in call(client, "vote_undo", "ann", held)[0]
    assert not [vote for vote in demo.book.votes() if vote.voter == "ann"]


def test_asking_for_pairs_again_and_again_fills_no_disk(demo):
    booth = Booth(demo)
    ids = {booth.deal("greedy", "", mark="ab").held for _ in range(20)}
    assert len({each for held in ids for each in held.split(",")}) == 2
    assert booth.deal("greedy", "", mark="cd").held not in ids


def test_a_book_undoes_by_mark(tmp_path):
    from visalign.votes import Matchup, MatchupSide

    book = VoteDatabase(tmp_path)
    book.add(Matchup("p", MatchupSide("m", 0, "a.png"), MatchupSide("m", 1, "b.png"), {}, "c"))
    ballot = book.show(book.matchup("c"), "ann", "feed")
    assert ballot.id.endswith("feed") and book.shown("c", "ann", "feed") == ballot and book.shown("c", "ann") is None
    book.vote(Vote("c", "ann", "a", "a", ballot=ballot.id))
    assert book.shown("c", "ann", "feed") is None
    assert book.undo("ann", "beef") is None and book.undo("ann", "") is None and book.undo("ann", "feed").matchup == "c"


def test_every_endpoint_is_limited_by_address(client, demo, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(demo, "limits", RequestLimits(lambda: now[0]))
    limits = []
    monkeypatch.setattr(demo.limits, "check", lambda address, what, most, seconds=60: limits.append((what, most)))
    for function in demo.page.fns.values():
        limits.clear()
        client.post("/gradio_api/run/predict", json={"data": [], "fn_index": function._id, "session_hash": "odd"})
        assert limits and limits[0][0] == f"call {function.api_name}" and limits[0][1] <= 6000


def test_too_many_calls_are_told_so(client, demo, monkeypatch):
    monkeypatch.setattr(demo, "limits", RequestLimits(lambda: 0.0))
    body = {"data": ["x"], "session_hash": "odd"}
    for _ in range(CALLS_A_MINUTE):
        demo.admit("testclient", "remember")
    answer = client.post("/gradio_api/run/remember", json=body)
    assert answer.status_code == 429 and "600 in 60 seconds are allowed" in answer.json()["detail"]


def test_plans_and_trainings_are_limited(client, demo, monkeypatch):
    monkeypatch.setattr(demo, "limits", RequestLimits(lambda: 0.0))
    for api, most in (("train_plan", 20), ("train_start", 5), ("board", 120)):
        data = ["overall"] if api == "board" else []
        said = [client.post(f"/gradio_api/run/{api}", json={"data": data, "session_hash": "odd"}).text
                for _ in range(most + 1)]
        assert "too many requests" not in said[most - 1] and f"too many requests ({most} in 60" in said[most], api


def test_limits_forget_clients_that_are_gone(monkeypatch):
    from visalign_demo import context

    now, monkey = [0.0], monkeypatch
    monkey.setattr(context, "MOST_CLIENTS", 10)
    limits = RequestLimits(lambda: now[0])
    for i in range(11):
        limits.check(f"client {i}", "x", 5)
    now[0] = 2 * context.LONGEST_LIMIT
    limits.check("new", "x", 5)
    assert len(limits._seen) == 1


def test_an_endpoint_that_is_none_is_told_so(client):
    for body in ({"data": [], "fn_index": 9999}, {"data": [], "fn_index": -1}):
        assert client.post("/gradio_api/run/predict", json=body).json()["detail"] == "There is no such endpoint."
    assert client.post("/gradio_api/call/nothing", json={"data": []}).status_code == 404
    assert client.post("/gradio_api/queue/join", json={"data": [], "session_hash": "x"}).status_code == 404
    answer = client.post("/gradio_api/run/ballot", json={"data": ["ann", "", "more"]})
    assert answer.status_code == 400 and "takes 2 values, not 3" in answer.json()["detail"]


def test_an_upload_s_length_and_kind_are_checked(client, demo):
    def upload(headers, content=b"x"):
        return client.post("/gradio_api/upload", content=content, headers=headers)

    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    assert upload(multipart | {"Content-Length": str(10**12)}).status_code == 413
    assert upload(multipart, iter([b"x"])).status_code == 411
    for kind in ("text/plain", "multipart/form-data", ""):
        assert 400 <= upload({"Content-Type": kind}).status_code < 500
    assert not re.search("Traceback", json.dumps([str(path) for path in demo.claims.uploads.iterdir()]))
