"""Rewards: what is named, what their files hold, and what servers answer."""

import functools
import json
import zlib

from PIL import Image

from tests.hostile.case import Case
from tests.rewards.vlm.server import ChatServer

ANSWERS = {
    "words": "On a scale of 1 to 5 this is a 4, I think.",
    "minus": "-3",
    "comma": "4,5",
    "ten": "10",
    "open-thoughts": "<think>Score: 4",
    "cut": {"choices": [{"finish_reason": "length", "message": {"content": "Score: 4"}}]},
    "all-thoughts": {"choices": [{"message": {"content": None, "reasoning_content": "A 4?"}}]},
    "refusal": {"choices": [{"message": {"content": None, "refusal": "I do not look at images."}}]},
    "page": (200, {}, b"<html><title>It works!</title></html>"),
    "deep": (200, {}, b"[" * 200_000),
    "flood": (200, {"Content-Encoding": "deflate"}, zlib.compress(b" " * (32 << 20))),
    "401": (401, {}, b'{"error": {"message": "no such key"}}'),
    "404": (404, {}, b'{"error": {"message": "The model `m` does not exist"}}'),
    "413": (413, {}, b""),
    "429": (429, {"Retry-After": "0"}, b'{"error": {"message": "slow down"}}'),
    "500": (500, {}, b"Internal Server Error"),
    "moved": (308, {"Location": "https://elsewhere.example/v1/chat/completions"}, b""),
    "thoughts-then": "<think>It is a 3.</think> Score: 5",
    "json": '```json\n{"score": 4}\n```',
    "parts": {"choices": [{"message": {"content": [{"type": "text", "text": "4"}]}}]},
    "null-logprobs": {"choices": [{"message": {"content": "4"}, "logprobs": {"content": [
        {"token": "4", "logprob": -0.1, "top_logprobs": None}]}}]},
}


class Offering(ChatServer):
    """Answers as the path says that a judge was sent to: /NAME/v1."""

    models = {"data": [{"id": "llava"}, {"id": "qwen-vl"}]}

    def __init__(self):
        super().__init__(lambda *_: ANSWERS[self.requests[-1]["path"].split("/")[1]])


@functools.cache
def server() -> Offering:
    return Offering().__enter__()  # in a daemon thread, until the tests end


def asked(name: str, **settings):
    """Writes an image and a judge that asks the server for the answer of that name."""
    def lay_out(folder):
        Image.new("RGB", (8, 8), "red").save(folder / "a.png")
        (folder / "a.txt").write_text("red square")
        url = server().url.replace("/v1", f"/{name}/v1")
        spec = {"kind": "vlm", "url": url, "model": "m", "retries": 0, "cache": None, "principles": {"look": "Good?"}}
        (folder / "judge.yaml").write_text(json.dumps(spec | settings))

    return lay_out


def fails(name: str, *says: str, **settings) -> Case:
    """One image that such an answer leaves unscored: the run ends, and says why."""
    return Case(f"answer-{name}", "score . -r judge.yaml --no-gallery", ("could not score 1 of 1", *says),
                given=asked(name, **settings))


def scores(name: str, mean: str) -> Case:
    return Case(f"answer-{name}", "score . -r judge.yaml --no-gallery", (f"mean    {mean}",), succeeds=True,
                given=asked(name))


def named(name: str, reward: str, *says: str, **files: str) -> Case:
    """A reward that cannot be: found before an image is read."""
    return Case(f"reward-{name}", f"score . -r {reward} --no-gallery", says,
                given={"a.png": b"", **{file.replace("_", "."): text for file, text in files.items()}})


GONE = "http://127.0.0.1:9/v1"
SERVER, UNIFIED = f"kind: vlm\nurl: {GONE}\n", f"kind: unifiedreward\nurl: {GONE}\n"
CASES = [
    fails("words", "holds no score from 1 to 5", "this is a 4, i think"),
    fails("minus", "'-3'"),
    fails("comma", "'4,5'"),
    fails("ten", "it says 10"),
    fails("open-thoughts", "still reasoning"),
    fails("cut", "cut off at max_tokens"),
    fails("all-thoughts", "raise max_tokens"),
    fails("refusal", "refused: I do not look at images"),
    fails("page", "no chat completion", "It works!"),
    fails("deep", "no chat completion"),
    fails("flood", "unpacks to more than"),
    fails("401", "/401/v1 wants a key", "NO_SUCH_KEY", key_env="NO_SUCH_KEY"),
    fails("404", "the server offers llava, qwen-vl"),
    fails("413", "too large", "client_max_body_size"),
    fails("429", "status 429: slow down"),
    fails("500", "status 500: Internal Server Error"),
    fails("moved", "redirects to https://elsewhere.example/v1/chat/completions", "set url to it"),
    scores("thoughts-then", "5.0000"),
    scores("json", "4.0000"),
    scores("parts", "4.0000"),
    scores("null-logprobs", "4.0000"),
    Case("names-with-blanks", "score . -r 'sharpness, contrast ,' --no-gallery", ("sharpness.score", "contrast.score"),
         succeeds=True, given=asked("json")),
    named("typo", "sharpnes", "did you mean 'sharpness'"),
    named("no-source", "clip:", "after the colon comes its source"),
    named("gone", "judge.yaml", "cannot be reached", "start the server", judge_yaml=SERVER),
    named("gone-by-name", f"vlm:{GONE}", f"{GONE} cannot be reached"),
    named("gone-inside", "judge.yaml", "cannot be reached", judge_yaml=f"kind: ensemble\nof: [contrast, vlm:{GONE}]\n"),
    named("unknown-key", "judge.yaml", "unknown key temprature", "did you mean 'temperature'",
          judge_yaml=f"{SERVER}temprature: 1\n"),
    named("unknown-kind", "judge.yaml", "kind is 'vlms'", "did you mean 'vlm'", judge_yaml="kind: vlms\n"),
    named("kind-is-a-list", "judge.yaml", "kind is ['vlm']", judge_yaml="kind: [vlm]\n"),
    named("empty-file", "judge.yaml", "judge.yaml: expected a reward's name", judge_yaml=""),
    named("names-itself", "judge.yaml", "does a file name itself", judge_yaml="judge.yaml\n"),
    named("stands-in-itself", "judge.yaml", "does a file name itself", judge_yaml="kind: ensemble\nof: [judge.yaml]\n"),
    named("no-file", "nowhere.yaml", "nowhere.yaml: there is no such file"),
    named("no-scheme", "judge.yaml", "expected http", judge_yaml="kind: vlm\nurl: localhost:8000/v1\n"),
    named("password-in-url", "judge.yaml", "must not hold a password", judge_yaml="kind: vlm\nurl: http://me:pw@h/v1\n"),
    named("key-as-variable", "judge.yaml", "name of an environment variable", judge_yaml=f"{SERVER}key_env: sk-1\n"),
    named("not-a-number", "judge.yaml", "finite number", judge_yaml=f"{SERVER}timeout: .nan\n"),
    named("too-patient", "judge.yaml", "retries", "at most 100", judge_yaml=f"{SERVER}retries: 100000\n"),
    named("no-template", "judge.yaml", "no template file", judge_yaml=f"{UNIFIED}template: t\n"),
    named("template-without-prompt", "judge.yaml", "the template has no {prompt}", t_txt="Rate this.",
          judge_yaml=f"{UNIFIED}template: t.txt\n"),
    named("cache-is-no-cache", "judge.yaml", "t.txt", "cache of answers", t_txt="x" * 2000,
          judge_yaml=f"{SERVER}cache: t.txt\n"),
    named("all-weights-nothing", "judge.yaml", "weights are all 0",
          judge_yaml="{kind: weighted_sum, standardised: false, of: [contrast], weights: {contrast: 0}}\n"),
    named("no-such-device", "judge.yaml", "device is 'gpu'", judge_yaml="{kind: contrast, device: gpu}\n"),
    named("no-bias-model", "judge.yaml", "set model to the file", judge_yaml="{kind: debiased, of: contrast}\n"),
    named("no-correction", "judge.yaml", "set correction to the file",
          judge_yaml="{kind: directional, of: tiny-clip}\n"),
    named("correction-is-text", "judge.yaml", "b.safetensors", "cannot be read as .safetensors", b_safetensors="x" * 99,
          judge_yaml="{kind: directional, of: tiny-clip, correction: b.safetensors}\n"),
    named("no-words", "judge.yaml", "good is missing", judge_yaml="{kind: relative, of: tiny-clip}\n"),
    named("no-features", "judge.yaml", "contrast has no features", judge_yaml="{kind: relative, of: contrast, good: a, "
                                                                             "bad: b}\n"),
    Case("training-with-a-dead-judge", "train r.yaml", ("cannot be reached", "start the server"),
         given={"r.yaml": "model: {source: tiny-sd3}\nobjective: {name: grpo}\nrollout: {prompts: 'emoji:train'}\n"
                          f"reward: {{models: [{{reward: {{kind: vlm, url: '{GONE}'}}}}]}}\n"}),
]
