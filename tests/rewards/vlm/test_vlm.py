"""Remote judges against a real server: good answers, bad ones, none; order, retries, cache, keys."""

import base64
import json
import math
import multiprocessing
import sqlite3
import time

import pytest
from PIL import Image
from tenacity import wait_none

from visalign.errors import UserError
from visalign.media.samples import Sample, Video, to_bytes
from visalign.rewards import load_reward
from visalign.rewards.pairwise import Failure
from visalign.rewards.vlm.forms import without_thoughts
from visalign.rewards.vlm.questions import Reply
from visalign.rewards.vlm.unified import labelled_score, read_flex
from visalign.storage.sqlite_cache import SqliteCache

from ..tiny_vlm import build_tiny_vlm
from .server import ChatServer, slowly

RED, BLUE = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")


def judge(server, kind="vlm", **settings):
    settings = {"cache": None, "retries": 2, "timeout": 5} | settings
    if kind == "vlm":
        settings.setdefault("principles", {"alignment": "Does it fit?"})
    reward = load_reward({"kind": kind, "url": server.url, **settings})
    reward.asker.wait = wait_none()
    return reward


def test_each_answer_goes_to_its_own_sample_though_they_arrive_in_another_order():
    def reply(text, images, count):
        number = int(text.split("number ")[1].split("\n")[0])
        return slowly(0.02 * (5 - number), str(number))

    with ChatServer(reply) as server:
        answer = judge(server, concurrency=5).score([Sample(f"number {n}", RED) for n in (1, 2, 3, 4, 5)])
    assert answer.values.flatten().tolist() == [1.0, 2.0, 3.0, 4.0, 5.0] and not answer.remarks
    assert server.requests[0]["path"] == "/v1/chat/completions" and server.most_in_flight > 1


def test_concurrency_is_bounded():
    with ChatServer(lambda text, images, count: slowly(0.03, "3")) as server:
        judge(server, concurrency=2).score([Sample(f"p{n}", RED) for n in range(8)])
    assert server.most_in_flight <= 2


def test_score_is_the_mean_under_the_digits_probabilities_where_the_server_tells():
    tops = [
        {"token": "4", "logprob": math.log(0.6)},
        {"token": "5", "logprob": math.log(0.2)},
        {"token": " 2", "logprob": math.log(0.2)},
    ]
    body = {
        "choices": [
            {
                "message": {"content": "4"},
                "logprobs": {"content": [{"token": "4", "logprob": math.log(0.6), "top_logprobs": tops}]},
            }
        ]
    }
    with ChatServer(lambda *_: body) as server:
        answer = judge(server).score([Sample("x", RED)])
    assert answer.values.item() == pytest.approx(0.6 * 4 + 0.2 * 5 + 0.2 * 2, abs=1e-5)


@pytest.mark.parametrize(
    "reply, reason",
    [
        (lambda *_: "I would rather not.", "no score from 1 to 5"),
        (
            lambda *_: {"choices": [{"message": {"content": None, "refusal": "I cannot judge this"}}]},
            "refused: I cannot",
        ),
        (lambda *_: "", "empty"),
        (lambda *_: (200, {}, b"{not json"), "no chat completion"),
        (lambda *_: {"x": 1}, "no chat completion"),
        (lambda *_: (401, {}, b"{}"), "status 401"),
        (lambda *_: (500, {}, b"oops"), "status 500"),
        (lambda *_: None, "did not answer in 3 tries"),
        (lambda *_: "7", "no score from 1 to 5"),
    ],
)
def test_what_is_no_annotation_is_nan_with_its_reason(reply, reason):
    with ChatServer(reply) as server:
        answer = judge(server).score([Sample("x", RED)])
    assert answer.values.isnan().all() and reason in answer.remarks[0]


@pytest.mark.parametrize("trouble", [(429, {"Retry-After": "0"}, b""), (503, {}, b""), None, (200, {}, b"<html>")])
def test_passing_trouble_is_retried(trouble):
    with ChatServer(lambda text, images, count: trouble if count < 3 else "5") as server:
        answer = judge(server).score([Sample("x", RED)])
    assert answer.values.item() == 5.0 and len(server.requests) == 3


def test_a_client_error_is_not_retried_but_once_without_a_schema():
    with ChatServer(lambda *_: (400, {}, b"{}")) as server:
        judge(server).score([Sample("x", RED)])
    assert ["response_format" in request["body"] for request in server.requests] == [True, False]


def test_a_slow_server_times_out():
    with ChatServer(lambda *_: slowly(1.0, "3")) as server:
        answer = judge(server, timeout=0.1, retries=0).score([Sample("x", RED)])
    assert "no whole answer within 0.1 s" in answer.remarks[0]


def test_a_dead_server_is_given_up_and_the_rest_is_not_asked(monkeypatch):
    with ChatServer(lambda *_: "3") as server:
        reward = judge(server, retries=0, concurrency=1)
    started = time.time()
    answer = reward.score([Sample(f"p{n}", RED) for n in range(40)])
    assert answer.values.isnan().all() and time.time() - started < 10
    assert "did not answer" in answer.remarks[0] and "stopped answering, not asked" in answer.remarks[39]


def test_the_key_comes_from_the_environment_and_is_in_no_message(monkeypatch):
    monkeypatch.setenv("MY_JUDGE_KEY", "very-secret")
    with ChatServer(lambda *_: (403, {}, b"very-secret is wrong")) as server:
        answer = judge(server, key_env="MY_JUDGE_KEY").score([Sample("x", RED)])
    assert server.requests[0]["headers"]["Authorization"] == "Bearer very-secret"
    assert "very-secret" not in json.dumps(answer.remarks) and "*** is wrong" in answer.remarks[0]
    assert "MY_JUDGE_KEY (status 403)" in answer.remarks[0]
    assert server.requests[0]["body"]["logprobs"] is True


def test_probabilities_are_not_asked_for_when_turned_off():
    with ChatServer(lambda *_: "3") as server:
        judge(server, logprobs=False).score([Sample("x", RED)])
    assert "logprobs" not in server.requests[0]["body"]


def test_videos_are_sent_as_frames_and_principles_as_dimensions():
    with ChatServer(lambda text, images, count: "5" if "smoothly" in text else "2") as server:
        reward = judge(server, principles={"motion": "smoothly?", "look": "nice?"}, frames=3)
        answer = reward.score([Sample("a cat", Video([RED, BLUE] * 4, 4.0))])
    assert reward.dimensions == ("motion", "look") and answer.values.tolist() == [[5.0, 2.0]]
    pictures = [p for p in server.requests[0]["body"]["messages"][0]["content"] if p["type"] == "image_url"]
    assert len(pictures) == 3 and pictures[0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_answers_are_kept_across_judges_and_useless_ones_are_not(tmp_path):
    cache = str(tmp_path / "answers.sqlite")
    with ChatServer(lambda text, images, count: "hm" if count == 2 else "4") as server:
        samples = [Sample("one", RED), Sample("two", RED)]
        first = judge(server, cache=cache, concurrency=1).score(samples)
        second = judge(server, cache=cache, concurrency=1).score(samples)
        third = judge(server, cache=cache, concurrency=1).score([Sample("one", BLUE)])  # another image
        last = judge(server, cache=cache)
    assert first.values[1].isnan() and second.values.flatten().tolist() == [4.0, 4.0] and third.values.item() == 4.0
    assert len(server.requests) == 4
    last.score(samples)  # the server is gone, the answers are not


def _fill(file, start):
    cache = SqliteCache(file)
    for i in range(start, start + 50):
        cache.put(f"k{i}", "x" * 100)


def test_processes_share_the_cache(tmp_path):
    file = str(tmp_path / "answers.sqlite")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_fill, args=(file, 50 * n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(SqliteCache(file).get([f"k{i}" for i in range(150)])) == 150


def test_a_file_that_is_no_cache_is_named(tmp_path):
    (tmp_path / "answers.sqlite").write_bytes(b"not a database at all, but long enough to be one" * 10)
    with pytest.raises(UserError, match="answers.sqlite"):
        SqliteCache(tmp_path / "answers.sqlite")


def test_a_value_is_on_disk_when_put_returns(tmp_path):
    cache = SqliteCache(tmp_path / "a.sqlite")
    cache.put("k", "v")
    assert sqlite3.connect(tmp_path / "a.sqlite").execute("SELECT answer FROM answers").fetchone() == ("v",)


# -- pairwise ---------------------------------------------------------------------------------------------------------


def red_wins(text, images, count):

    red = "data:image/png;base64," + base64.b64encode(to_bytes(RED)).decode()
    return "1" if images[0] == red else "2"


def test_pairs_are_asked_in_both_orders_and_give_win_rates():
    with ChatServer(red_wins) as server:
        answer = judge(server, "vlm_pairs").score([Sample("a", RED), Sample("a", BLUE), Sample("b", RED)])
    assert answer.values[:2].flatten().tolist() == [1.0, 0.0] and len(server.requests) == 2
    assert answer.values[2].isnan() and "only sample of its prompt" in answer.remarks[2]


def test_a_judge_that_always_says_the_first_only_finds_ties():
    with ChatServer(lambda *_: "1") as server:
        answer = judge(server, "vlm_pairs").score([Sample("a", RED), Sample("a", BLUE)])
    assert answer.values.flatten().tolist() == [0.5, 0.5]


def test_unified_reward_pairs_and_flex_read_their_own_answers():
    flex = {
        "categories": [
            {"name": "Fit", "dimensions": [{"name": "Object", "score_1": 7, "score_2": 3}], "cat_winner": "Image 1"}
        ],
        "winner": "Image 1",
    }

    def flex_reply(text, images, count):
        first = red_wins(text, images, count) == "1"
        body = json.dumps(flex | {"winner": "Image 1" if first else "Image 2"})
        return f"<think>long {{thoughts}}</think>```json\n{body}\n```"

    samples = [Sample("a", RED), Sample("a", BLUE)]
    with ChatServer(flex_reply) as server:
        assert judge(server, "unifiedreward_flex").score(samples).values.flatten().tolist() == [1.0, 0.0]

    def pair_reply(*request):
        winner = red_wins(*request)
        return f"Well. Image {winner} is better than Image {3 - int(winner)}."

    with ChatServer(pair_reply) as server:
        assert judge(server, "unifiedreward_pairs").score(samples).values.flatten().tolist() == [1.0, 0.0]


def test_unified_reward_pointwise_versions():
    with ChatServer(lambda *_: "Alignment Score (1-5): 4.5\nCoherence Score (1-5): 3\nStyle Score (1-5): 2") as server:
        reward = judge(server, "unifiedreward")
        assert reward.dimensions == ("alignment", "coherence", "style")
        assert reward.score([Sample("a", RED)]).values.tolist() == [[4.5, 3.0, 2.0]]
    with ChatServer(lambda *_: "It fits.\nFinal Score: 3.5") as server:
        assert judge(server, "unifiedreward", version=1).score([Sample("a", RED)]).values.item() == 3.5


@pytest.mark.parametrize(
    "text, word",
    [
        ("no json", "not JSON"),
        ('{"categories": []}', "no winner"),
        ('{"winner": "both"}', "neither"),
        ('{"d": {"score_1": 7, "score_2": 7}, "winner": "Image 1"}', "add to 14"),
        ("<think>still", "cut off"),
    ],
)
def test_flex_answers_that_break_the_form_are_refused(text, word):
    with pytest.raises(ValueError, match=word):
        read_flex(text)


def test_scores_outside_the_scale_and_unfinished_reasoning_are_refused():
    with pytest.raises(ValueError, match="outside 1 to 5"):
        labelled_score("Final Score: 9", "Final Score")
    assert without_thoughts("<think>a</think> <answer>b</answer>") == "b"


def test_a_local_model_answers_with_digit_probabilities(tmp_path):
    folder = build_tiny_vlm(tmp_path)
    reward = load_reward(
        {
            "kind": "vlm",
            "source": str(folder),
            "cache": None,
            "max_tokens": 8,
            "frames": 1,
            "principles": {"alignment": "fit?"},
        }
    )
    outcome = reward.ask([reward.question(Sample("a cat", RED.resize((56, 56))), "fit?")], lambda answer: None)[0]
    assert isinstance(outcome, Reply | Failure)
    answer = reward.score([Sample("a cat", RED.resize((56, 56)))])  # random weights rarely answer in the form
    assert answer.values.isfinite().all() or "no score" in answer.remarks[0] or "cut off" in answer.remarks[0]


def test_templates_are_read_and_checked(tmp_path):
    (tmp_path / "t.txt").write_text("Compare for {prompt}.")
    with ChatServer(lambda *_: "Final Score: 2") as server:
        judge(server, "unifiedreward", version=1, template=str(tmp_path / "t.txt")).score([Sample("a {cat}", RED)])
        text = [p["text"] for p in server.requests[0]["body"]["messages"][0]["content"] if p["type"] == "text"]
        assert text == ["Compare for a {cat}."]
        (tmp_path / "t.txt").write_text("nothing")
        with pytest.raises(UserError, match="{prompt}"):
            judge(server, "unifiedreward", template=str(tmp_path / "t.txt"))


def edit(colour, requirement=None, source=RED):
    known = {"requirement": requirement} if requirement else {}
    return Sample("make it blue", Image.new("RGB", (8, 8), colour), known=known, sources=(source,))


def test_an_edit_s_mark_is_the_mean_of_0_to_5_under_the_answer_s_chances_over_5():
    tops = [{"token": token, "logprob": math.log(chance)} for token, chance in (("5", 0.5), ("2", 0.25), ("0", 0.25))]
    token = {"token": "5", "logprob": math.log(0.5), "top_logprobs": tops}
    body = {"choices": [{"message": {"content": "5"}, "logprobs": {"content": [token]}}]}
    seen = []

    def reply(text, images, count):
        seen.append((text, images))
        return body

    with ChatServer(reply) as server:
        answer = judge(server, "vlm_edit", principles={"instruction": "Is it done?"}).score([edit("blue", "all of it")])
    assert answer.values.item() == pytest.approx((0.5 * 5 + 0.25 * 2) / 5, abs=1e-6)
    [(text, images)] = seen
    assert "make it blue" in text and "What to look for:\nall of it" in text and len(images) == 2
    assert images[0] != images[1]


def test_edits_of_one_source_are_compared_and_those_of_another_are_not():
    seen = []

    def reply(text, images, count):
        seen.append(images)
        return "1"

    first, second, other = edit("blue"), edit("green"), edit("blue", source=BLUE)
    other.known["source_prompt"] = "make it blue@@other.png"
    with ChatServer(reply) as server:  # who comes first always wins
        answer = judge(server, "vlm_edit_pairs").score([first, second, other])
    assert answer.values[:2].flatten().tolist() == [0.5, 0.5] and answer.values[2].isnan()
    assert [len(images) for images in seen] == [3, 3] and seen[0] != seen[1]
