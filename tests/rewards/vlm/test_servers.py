"""Servers as they are: other dialects, redirects, wrong addresses, refused keys, floods; one sentence for each."""

import gzip
import json
import math
import time
import zlib

import pytest
from PIL import Image
from tenacity import wait_none

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.rewards.pairwise import Failure
from visalign.rewards.vlm.asking import both_orders, contents_of, stored
from visalign.rewards.vlm.generic import SCORE
from visalign.rewards.vlm.questions import Question, Reply
from visalign.rewards.vlm.replies import chances_of
from visalign.rewards.web.address import clean_url, key_in
from visalign.rewards.web.replies import Unreadable, seconds_of, unpacked

from .server import ChatServer, completion

RED = Image.new("RGB", (8, 8), "red")
NOISE = Image.effect_noise((256, 256), 80).convert("RGB")


def judge(server, kind="vlm", **settings):
    settings = {"url": server.url, "cache": None, "retries": 0, "timeout": 5} | settings
    if kind == "vlm":
        settings.setdefault("principles", {"quality": "Is it good?"})
    reward = load_reward({"kind": kind, "name": "judge", **settings})
    reward.asker.wait = wait_none()
    return reward


def asked(reply, image=RED, **settings):
    """(value or None, remark, server) of one image judged by a server that replies so."""
    with ChatServer(reply) as server:
        answer = judge(server, **settings).score([Sample("x", image)])
    value = answer.values.item()
    return None if math.isnan(value) else value, answer.remarks.get(0, ""), server


def said(message, **more):
    return {"choices": [{"message": {"role": "assistant", **message}, **more}]}


def refuses(status, message):
    return status, {}, json.dumps({"error": {"message": message}}).encode()


# -- the dialect of a server ------------------------------------------------------------------------------------------


def test_a_schema_is_asked_for_and_where_it_is_refused_a_marked_line_once_for_all():
    def reply(text, images, count):
        if "response_format" in server.requests[-1]["body"]:
            return refuses(400, "response_format json_schema is not supported")
        return "Looks fine.\nScore: 4" if "last line of your answer" in text else "?"

    with ChatServer(reply) as server:
        answer = judge(server, concurrency=1).score([Sample(f"p{n}", RED) for n in range(4)])
    assert answer.values.flatten().tolist() == [4.0] * 4 and len(server.requests) == 5
    first = server.requests[0]["body"]
    assert first["response_format"]["json_schema"]["schema"]["properties"]["score"]["enum"] == [1, 2, 3, 4, 5]
    assert 'JSON and nothing else: {"score": N}' in first["messages"][0]["content"][-1]["text"]


def test_servers_that_rename_the_token_limit_or_allow_few_log_probabilities_are_obliged():
    def reply(text, images, count):
        body = server.requests[-1]["body"]
        if "max_tokens" in body:
            return refuses(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if body["top_logprobs"] > 5:
            return refuses(422, "top_logprobs must be between 0 and 5")
        return '{"score": 4}'

    with ChatServer(reply) as server:
        reward = judge(server)
        assert reward.score([Sample("x", RED)]).values.item() == 4.0
        assert reward.score([Sample("y", RED)]).values.item() == 4.0
    last = server.requests[-1]["body"]
    assert len(server.requests) == 4 and "response_format" in last  # what was learnt is remembered, the rest is kept
    assert last["max_completion_tokens"] == 1024 and last["top_logprobs"] == 5


@pytest.mark.parametrize(
    "message, remedy",
    [
        ("logprobs are not supported", "set logprobs: false"),
        ("This model's maximum context length is 4096 tokens", "lower frames or max_tokens"),
        ("At most 1 image(s) may be provided", "lower frames"),
        ("'temperature' does not support 0", "set temperature"),
    ],
)
def test_a_refusal_names_the_setting_that_helps(message, remedy):
    value, remark, _ = asked(lambda *_: refuses(400, message))
    assert value is None and message in remark and remedy in remark


def test_images_too_large_for_the_server_travel_as_smaller_jpeg_and_that_is_said():
    def reply(text, images, count):
        return (413, {}, b"<html>Too Large</html>") if len(images[0]) > 100_000 else "4"

    value, remark, server = asked(reply, NOISE)
    assert value == 4.0 and "413" in remark and "JPEG" in remark
    kinds = [request["body"]["messages"][0]["content"][0]["image_url"]["url"][:16] for request in server.requests]
    assert kinds[0] == "data:image/png;b" and kinds[-1] == "data:image/jpeg;"
    value, remark, server = asked(lambda *_: (413, {}, b""), RED)
    assert value is None and "too large" in remark and "client_max_body_size" in remark and len(server.requests) == 5


# -- what is said -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, value, word",
    [
        (said({"content": [{"type": "text", "text": "Score"}, {"type": "text", "text": ": 4"}]}), 4.0, ""),
        (said({"content": [{"type": "thinking", "thinking": "3?"}, {"type": "text", "text": "4"}]}), 4.0, ""),
        (said({"content": "Score: 4"}, finish_reason="length"), None, "cut off at max_tokens (1024)"),
        (said({"content": "4"}, finish_reason="content_filter"), None, "filter"),
        (said({"content": None, "reasoning_content": "well"}, finish_reason="length"), None, "raise max_tokens"),
        (said({"content": "", "reasoning": "well 3"}, finish_reason="stop"), None, "whole answer is reasoning"),
        (said({"content": "I see 4 apples"}), None, "I see 4 apples"),
        (said({"content": "\ud800 4 apples"}), None, "4 apples"),
        (said({"content": 4}), None, "no chat completion"),
        (said({"content": [4]}), None, "no chat completion"),
        ({"choices": []}, None, "no chat completion"),
        ({"error": {"message": "the GPU is on fire"}}, None, "the GPU is on fire"),
        ([1], None, "no chat completion"),
    ],
)
def test_messages_of_every_shape(body, value, word):
    found, remark, _ = asked(lambda *_: (200, {}, json.dumps(body).encode()))
    assert found == value and word in remark


@pytest.mark.parametrize(
    "told, value",
    [
        ([{"token": "4", "logprob": -0.01, "top_logprobs": None}], 4.0),
        ([{"token": "4", "logprob": math.log(0.8), "top_logprobs": [{"token": "5", "logprob": math.log(0.2)}]}], 4.2),
        ([{"token": "4", "logprob": 1e9, "top_logprobs": []}], 4.0),
        ([{"token": "4", "logprob": float("nan"), "top_logprobs": []}], 4.0),
        ([{"token": "4", "logprob": "-0.1", "top_logprobs": [3]}], 4.0),
        ([{"token": "4", "logprob": 0.0, "top_logprobs": [{"token": "5", "logprob": 0.0}]}], 4.0),
        ([{"token": "4"}], 4.0),
        ([7], 4.0),
        ([], 4.0),
        (None, 4.0),
        ("yes", 4.0),
    ],
)
def test_log_probabilities_of_every_shape(told, value):
    found, _, _ = asked(lambda *_: said({"content": "4"}, logprobs={"content": told}))
    assert found == pytest.approx(value, abs=1e-6)


def test_log_probabilities_count_only_where_the_token_is_the_answer():
    ten = [{"token": "1", "logprob": -0.03, "top_logprobs": []}, {"token": "0", "logprob": -0.01, "top_logprobs": []}]
    assert asked(lambda *_: said({"content": "10"}, logprobs={"content": ten}))[0] is None
    half = [{"token": "4", "logprob": -0.1, "top_logprobs": [{"token": "3", "logprob": -3.0}]},
            {"token": ".", "logprob": 0.0}, {"token": "5", "logprob": 0.0}]  # fmt: skip
    assert asked(lambda *_: said({"content": "4.5"}, logprobs={"content": half}))[0] == 4.5
    chances, note = chances_of({"content": [{"token": "4", "logprob": float("inf")}]}, "4", SCORE)
    assert chances is None and "not usable" in note


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_a_reply_that_drips_is_left_at_the_deadline():
    def drops():
        while True:
            time.sleep(0.05)
            yield b" "

    with ChatServer(lambda *_: (200, {"Content-Length": "100000"}, drops())) as server:
        started = time.monotonic()
        answer = judge(server, timeout=0.5).score([Sample("x", RED)])
    assert time.monotonic() - started < 5 and "within 0.5 s" in answer.remarks[0]


@pytest.mark.parametrize("packing, bits", [("deflate", -15), ("deflate", 15), ("gzip", 31)])
def test_a_packed_flood_is_not_unpacked(packing, bits):
    packer = zlib.compressobj(9, zlib.DEFLATED, bits)
    flood = packer.compress(b" " * (64 << 20)) + packer.flush()
    with pytest.raises(Unreadable, match="more than 1000 bytes"):
        unpacked(flood, packing, 1000)
    value, remark, _ = asked(lambda *_: (200, {"Content-Encoding": packing}, flood))
    assert value is None and "unpacks to more than" in remark


def test_packed_replies_are_read_and_unknown_packings_named():
    packed = gzip.compress(completion("Score: 4"))
    assert asked(lambda *_: (200, {"Content-Encoding": "gzip"}, packed))[0] == 4.0
    assert "packed as br" in asked(lambda *_: (200, {"Content-Encoding": "br"}, packed))[1]
    assert "not packed as gzip" in asked(lambda *_: (200, {"Content-Encoding": "gzip"}, b"{}"))[1]


@pytest.mark.parametrize(
    "body, word",
    [
        (b" " * (16 << 20), "longer than"),
        (b"[" * 200_000, "no chat completion"),
        (b'{"choices": [{"message": {"content": ' + b"9" * 10_000 + b"}}]}", "no chat completion"),
        (b"<html><head><title>Welcome to nginx!</title></head></html>", "Welcome to nginx!"),
        (b"\xff\xfe\x00\x80", "no chat completion"),
    ],
)
def test_bodies_that_are_no_completion_are_nan_with_their_words(body, word):
    value, remark, _ = asked(lambda *_: (200, {}, body))
    assert value is None and word in remark and len(remark) < 400


# -- keys and addresses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        lambda *_: "your key is sk-very-secret-key",
        lambda *_: said({"content": None, "refusal": "not for sk-very-secret-key"}),
        lambda *_: (200, {}, b"x" * 70 + b" sk-very-secret-key"),
        lambda *_: refuses(500, "y" * 110 + " sk-very-secret-key"),
        lambda *_: refuses(401, "sk-very-secret-key is wrong"),
        lambda *_: (307, {"Location": "http://elsewhere.example/?key=sk-very-secret-key"}, b""),
        lambda *_: said({"content": "y" * 60 + " sk-very-secret-key"}, finish_reason="length"),
    ],
)
def test_a_key_that_is_echoed_is_nowhere_printed(reply, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
    value, remark, server = asked(reply)
    assert value is None and remark and "sk-v" not in remark
    assert server.requests[0]["headers"]["Authorization"] == "Bearer sk-very-secret-key"


def test_a_key_that_is_echoed_is_not_stored(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
    cache = tmp_path / "answers.sqlite"
    value, _, _ = asked(lambda *_: "The key sk-very-secret-key is fine.\nScore: 4", cache=str(cache))
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert value == 4.0 and b"The key *** is fine" in kept and b"sk-very" not in kept


@pytest.mark.parametrize(
    "key, name",
    [("\u201csk-good\u201d", "left double quotation mark (U+201C)"), ("sk-good\n", "a line break (U+000A)"),
     ("sk good", "space (U+0020)"), ('"sk-good"', "quotation mark (U+0022)"), ("sk-g\u00f6\u00f6d", "U+00F6")],
)  # fmt: skip
def test_a_key_that_is_none_is_one_sentence_without_it(key, name, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with ChatServer(lambda *_: "4") as server, pytest.raises(UserError) as error:
        judge(server)
    assert "reward judge: the environment variable OPENAI_API_KEY" in str(error.value) and name in str(error.value)
    assert "sk-g" not in str(error.value)


def test_no_key_is_no_mistake(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert key_in("OPENAI_API_KEY") is None
    _, remark, server = asked(lambda *_: refuses(401, "no key"))
    assert "put it into the environment variable OPENAI_API_KEY" in remark
    assert "Authorization" not in server.requests[0]["headers"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_server_gets_neither_key_nor_images(status, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
    with ChatServer(lambda *_: "4") as other:
        place = f"{other.url}/chat/completions"
        value, remark, _ = asked(lambda *_: (status, {"Location": place}, b""))
    assert value is None and f"redirects to {place}" in remark and not other.requests


def test_a_redirect_on_the_same_server_is_followed_a_few_times():
    def reply(*_):
        last = server.requests[-1]["path"]
        return "4" if last.startswith("/moved") else (307, {"Location": "/moved/v1/chat/completions"}, b"")

    with ChatServer(reply) as server:
        assert judge(server).score([Sample("x", RED)]).values.item() == 4.0
    assert "redirects more than 3 times" in asked(lambda *_: (308, {"Location": "/v1/chat/completions"}, b""))[1]


def test_addresses_are_mended_or_named():
    for given in ("http://h:1/v1", "http://h:1/v1/", " http://h:1/v1/chat/completions ", "http://h:1/v1/models"):
        assert clean_url(given) == "http://h:1/v1"
    for given in ("localhost:8000/v1", "ftp://h/v1", "http://", "http://h:x/v1", "http://[::1", "http://h h/v1", "h"):
        with pytest.raises(ValueError, match="expected http"):
            clean_url(given)
    for given in ("http://me:secret@h/v1", "http://h/v1?key=secret", "ftp://me:secret@h", "http://h:x/?secret"):
        with pytest.raises(ValueError, match="must not hold a password") as error:
            clean_url(given)
        assert "secret" not in str(error.value)


def test_a_url_without_v1_is_hinted_at():
    with ChatServer(lambda *_: (404, {}, b'{"detail": "Not Found"}')) as server:
        bare = server.url.removesuffix("/v1")
        answer = judge(server, url=bare).score([Sample("x", RED)])
        assert f"status 404: Not Found; most servers want a url that ends in /v1, try {bare}/v1" in answer.remarks[0]
        assert "/v1, try" not in judge(server).score([Sample("x", RED)]).remarks[0]


def test_a_wrong_model_is_told_what_the_server_offers():
    class Listing(ChatServer):
        models = {"data": [{"id": "qwen-vl"}, {"id": "llava"}]}

    with Listing(lambda *_: refuses(404, "The model `m` does not exist.")) as server:
        answer = judge(server, model="m").score([Sample(f"p{n}", RED) for n in range(3)])
    assert answer.remarks[2].endswith("does not exist; model is 'm', the server offers qwen-vl, llava")


def test_a_server_that_is_not_there_or_refuses_the_key_is_found_before_anything_is_judged(monkeypatch):
    with ChatServer(lambda *_: "4") as server:
        url = server.url
    for kind in ("vlm", "vlm_pairs", "unifiedreward_flex"):
        with pytest.raises(UserError, match=f"reward judge: {url} cannot be reached .*refused.*; start the server"):
            judge(server, kind)
    with pytest.raises(UserError, match="cannot be reached"):
        load_reward({"kind": "weighted_sum", "standardised": False, "of": [{"kind": "vlm", "url": url}]})

    class Locked(ChatServer):
        models = 401

    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    with Locked(lambda *_: "4") as server, pytest.raises(UserError, match="refused the key .* OPENAI_API_KEY"):
        judge(server)


@pytest.mark.parametrize(
    "header, wait",
    [("2", 2.0), ("0.5", 0.5), ("-1", 0.0), ("nan", None), ("soon", None), ("", None), (None, None),
     ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("Wed, 99 Oct 2015", None)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(header, wait):
    assert seconds_of(header) == wait


def test_the_wait_that_a_server_asks_for_is_honoured_up_to_a_bound():
    from visalign.rewards.web.calling import LONGEST_WAIT, Busy, Caller

    class State:
        class outcome:
            exception = staticmethod(lambda: Busy("x", 1e9))

    caller = Caller(url="http://h/v1", key_env="K", timeout=1, retries=1, concurrency=1, wait=lambda state: 0.1)
    assert caller._pause(State) == LONGEST_WAIT


# -- both orders, and what is remembered ------------------------------------------------------------------------------


@pytest.mark.parametrize("there, back, expected", [(0.9, 0.2, 0.85), (0.9, 0.6, 0.5), (0.9, 0.9, 0.5), (0.2, 0.9, 0.15),
                                                   (0.5, 0.1, 0.5), (1.0, 0.0, 1.0)])  # fmt: skip
def test_a_change_of_mind_is_a_tie_however_sure(there, back, expected):
    assert both_orders(there, back) == pytest.approx(expected)
    assert both_orders(there, Failure("x")) == Failure("x")


def test_the_store_tells_questions_forms_and_broken_entries_apart():
    assert Question("a", ()).key({"model": "m"}) != Question("a", (), SCORE).key({"model": "m"})
    assert Question("a", ()).key({"model": "m"}) != Question("a", ()).key({"model": "n"})
    assert stored(None) is stored("{") is stored('{"text": "4", "digits": null}') is None
    assert stored('{"text": "4"}') == Reply("4")


def test_another_local_model_in_the_same_folder_is_another_judge(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = contents_of(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"another")
    assert contents_of(str(tmp_path)) != before and contents_of("org/name") == ["org/name"]
    monkeypatch.chdir(tmp_path.parent)
    assert contents_of(tmp_path.name) == contents_of(str(tmp_path))


def test_servers_and_models_do_not_share_answers(tmp_path):
    cache = str(tmp_path / "answers.sqlite")
    with ChatServer(lambda *_: "4") as one, ChatServer(lambda *_: "2") as two:
        for server, model, value in ((one, "a", 4.0), (two, "a", 2.0), (one, "b", 4.0), (two, "a", 2.0)):
            answer = judge(server, model=model, cache=cache).score([Sample("x", RED)])
            assert answer.values.item() == value
    assert len(one.requests) == 2 and len(two.requests) == 1
