"""The client of a reward server under faults: every wait is bounded, every fault is a sentence, nothing becomes 0."""

import contextlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler

import httpx
import pytest
from PIL import Image
from tenacity import wait_none

from tests.rewards.vlm.server import Quiet
from tests.serving.served import served
from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards import build_reward, load_reward
from visalign.rewards.web.wire import ServedReward

RED = Image.new("RGB", (8, 8), "red")
SERVED = ServedReward("taste", "abc", frozenset({"image"}), ("charm", "wit"), False, False, False, False, (0.0, 1.0))


class Pretender:
    """Answers /v1/health with `health`, and /v1/score as `reply(samples, count)` says: a status and a body.

    None drops the connection; seconds instead of a status are slept before it.
    """

    def __init__(self, reply, health=None):
        self.reply, self.count = reply, 0
        self.health = {"protocol": 1, "rewards": [SERVED.told()]} if health is None else health
        outer, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def answer(self, status, body, headers=()):
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in (*headers, ("Content-Length", str(len(data)))):
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                self.answer(200, outer.health)

            def do_POST(self):
                samples = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["samples"]
                with lock:
                    outer.count += 1
                    count = outer.count
                told = outer.reply(samples, count)
                with contextlib.suppress(OSError):
                    if told is None:
                        self.close_connection = True
                        self.connection.close()
                    else:
                        self.answer(*told)

        self.server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()


def right(samples, **changes):
    rows = [{"taste": {"charm": 0.25, "wit": 0.5}} for _ in samples]
    return 200, {"protocol": 1, "versions": {"taste": "abc"}, "scores": rows, "remarks": [{} for _ in rows]} | changes


def asked(reply, count=3, **settings):
    """(scores, seconds, the pretender) of red squares."""
    with Pretender(reply) as server:
        reward = load_reward({"kind": "http", "url": server.url, "retries": 1, "timeout": 5, **settings})
        reward.caller.wait = wait_none()
        started = time.monotonic()
        return reward.score([Sample(f"p{i}", RED) for i in range(count)]), time.monotonic() - started, server


def test_what_the_server_says_of_a_reward_is_what_it_is():
    with Pretender(lambda samples, count: right(samples)) as server:
        reward = load_reward(f"http:{server.url}/v1/score")
        assert (reward.url, reward.dimensions, reward.higher_is_better) == (server.url, ("charm", "wit"), False)
        assert reward.modalities == {"image"} and reward.score_range == (0.0, 1.0)
        assert load_reward({"kind": "http", "url": server.url, "dimension": "wit"}).score(
            [Sample("x", RED)]).values.tolist() == [[0.5]]
        both = build_reward({"kind": "direction", "weights": {"wit": 1.0}, "of": [{"kind": "http", "url": server.url}]})
        assert both.score([Sample("x", RED)]).values.item() == -0.5  # lower is better


@pytest.mark.parametrize("health, settings, says", [
    ({"hello": 1}, {}, "as no reward server of visalign does"),
    ({"protocol": 2, "rewards": []}, {}, "speaks protocol 2 .* this visalign speaks 1"),
    ({"protocol": 1, "rewards": [{"name": "x"}]}, {}, "does not read"),
    (None, {"reward": "tase"}, "serves no reward tase .did you mean 'taste'"),
    (None, {"dimension": "charms"}, "gives taste no dimension charms .did you mean 'charm'"),
    (None, {"version": "abd"}, "version is abd, but .* serves taste of version abc"),
    (None, {"url": "localhost:8000"}, "expected http"),
    (None, {"url": "http://me:secret@h"}, "must not hold a password"),
    (None, {"token_env": "not a name"}, "token_env must be the name of an environment variable"),
])  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_scored(health, settings, says):
    with Pretender(lambda samples, count: right(samples), health) as server, pytest.raises(UserError, match=says):
        load_reward({"kind": "http", "url": server.url} | settings)


def test_a_server_that_is_not_there_or_of_another_modality_is_found_before_a_model_is_loaded():
    with pytest.raises(UserError, match="reward http: http://127.0.0.1:9 cannot be reached .*refused"):
        load_reward("http:http://127.0.0.1:9")
    from visalign.rewards import for_modality

    with served("motion") as url, pytest.raises(UserError, match="scores videos only, and this model makes images"):
        for_modality(load_reward(f"http:{url}"), "image")


@pytest.mark.parametrize("reply, says", [
    (lambda samples, count: right(samples[1:]), "answered for 2 of 3 samples"),
    (lambda samples, count: right(samples, scores=[{"taste": {"charm": "1", "wit": 1}}] * 3), "no list of scores"),
    (lambda samples, count: right(samples, scores=[{"taste": {"charm": 1}}] * 3), "no list of scores"),
    (lambda samples, count: right(samples, versions={"taste": "new"}), "another one now .version new, it was abc"),
    (lambda samples, count: (200, b'{"versions": {"taste": "abc"}, "remarks": [{}, {}, {}], "scores": '
                                  b'[{"taste": {"charm": NaN, "wit": 1}}, {}, {}]}'), "no list of scores"),
    (lambda samples, count: (200, b"<html>It works!</html>"), "It works!"),
    (lambda samples, count: (200, b"[" * 100_000), "no list of scores"),
    (lambda samples, count: (200, b" " * (4 << 20)), "longer than"),
    (lambda samples, count: (500, {"error": "on fire"}), "status 500: on fire"),
    (lambda samples, count: (422, {"error": "samples: no"}), "status 422: samples: no"),
    (lambda samples, count: (302, b"", [("Location", "http://elsewhere.example/")]), "redirects to http://elsewhere"),
    (lambda samples, count: None, "did not answer in 2 tries"),
])  # fmt: skip
def test_garbage_and_failures_are_nan_with_their_reason(reply, says):
    answer, _, _ = asked(reply)
    assert answer.values.isnan().all() and set(answer.remarks) == {0, 1, 2}
    assert all(re.search(says, text) for text in answer.remarks.values()), answer.remarks


def test_null_is_nan_with_its_remark_and_neighbours_keep_their_scores():
    rows = [{"taste": {"charm": None, "wit": None}}, {"taste": {"charm": 0.0, "wit": 1.0}}, {}]
    answer, _, _ = asked(lambda samples, count: right(samples, scores=rows, remarks=[{"taste": "too dull"}, {}, {}]))
    assert answer.values[1].tolist() == [0.0, 1.0] and answer.values[[0, 2]].isnan().all()
    assert answer.remarks == {0: "too dull", 2: "the server gave no score and no reason"}


def test_a_full_server_is_waited_for_until_the_deadline_and_costs_no_try():
    def full(samples, count, until=7):
        return (503, {"error": "full"}, [("Retry-After", "0")]) if count < until else right(samples)

    answer, _, server = asked(full, retries=0)
    assert answer.values.tolist() == [[0.25, 0.5]] * 3 and server.count == 7 and not answer.remarks
    answer, seconds, _ = asked(lambda samples, count: full(samples, count, 10**9), retries=0, deadline=0.5)
    assert answer.values.isnan().all() and seconds < 5
    assert "did not answer all in the 0.5 s of deadline, lastly with status 503: full" in answer.remarks[0]
    answer, _, server = asked(lambda samples, count: (503, {"error": "restarting"}))
    assert "in 2 tries (status 503: restarting)" in answer.remarks[0] and server.count == 2


def test_a_request_that_is_too_large_is_halved_down_to_the_sample_that_is():
    def reply(samples, count):
        return (413, {"error": "too large"}) if len(samples) > 1 or samples[0]["prompt"] == "p2" else right(samples)

    answer, _, _ = asked(reply, count=4)
    assert answer.values[:, 0].nan_to_num(-1).tolist() == [0.25, 0.25, -1.0, 0.25]
    assert "status 413: too large" in answer.remarks[2] and set(answer.remarks) == {2}


@pytest.mark.parametrize("retries, settings, says", [
    (0, {"timeout": 0.3}, "no whole answer within 0.3 s; raise timeout, or lower per_request"),
    (100, {"timeout": 0.3, "deadline": 1.0}, "did not answer all in the 1 s of deadline"),
])  # fmt: skip
def test_a_server_that_hangs_is_left_at_the_timeout_and_at_the_deadline(retries, settings, says):
    ends = threading.Event()
    answer, seconds, _ = asked(lambda samples, count: ends.wait(20) and None, count=6, per_request=1, concurrency=2,
                               retries=retries, **settings)
    ends.set()
    assert answer.values.isnan().all() and says in answer.remarks[0] and seconds < 5


def test_a_server_that_dies_midway_leaves_what_it_gave():
    def reply(samples, count):
        return right(samples) if count == 1 else None

    answer, _, _ = asked(reply, count=4, per_request=2, concurrency=1)
    assert answer.values[:2].tolist() == [[0.25, 0.5]] * 2 and answer.values[2:].isnan().all()
    assert "the connection was closed early" in answer.remarks[3]


def test_a_run_trains_and_a_folder_is_scored_on_a_served_reward(online_recipe, tmp_path):
    from click.testing import CliRunner

    from visalign.cli import main

    with served("contrast", "sharpness") as url:
        (tmp_path / "served.yaml").write_text(f"{{kind: http, url: '{url}', reward: contrast, name: there}}")
        RED.save(tmp_path / "a.png")
        scored = CliRunner().invoke(main, ["score", str(tmp_path), "-r", f"contrast,{tmp_path / 'served.yaml'}", "-o",
                                           str(tmp_path / "s.jsonl"), "--no-gallery"])
        assert scored.exit_code == 0, scored.output
        row = json.loads((tmp_path / "s.jsonl").read_text().splitlines()[0])
        assert row["there.score"] == pytest.approx(row["contrast.score"], abs=1e-6)
        recipe = online_recipe("sd3", "grpo", reward={"models": [{"reward": str(tmp_path / "served.yaml")}]})
        done = CliRunner().invoke(main, ["--debug", "train", str(recipe)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        text = httpx.get(f"{url}/metrics").text
        assert 'visalign_samples_total{outcome="scored",reward="contrast"}' in text
