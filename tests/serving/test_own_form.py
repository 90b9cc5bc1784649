"""visalign's own form: served scores are local ones, a bad sample is alone in its misfortune, limits hold."""

import base64
import io
import json
import shutil
import threading
import time
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from tests.serving.served import served
from visalign.errors import UserError
from visalign.media.answers import Answer
from visalign.media.samples import Sample, Video, to_bytes
from visalign.media.video_files import to_video_bytes
from visalign.rewards import build_reward, load_reward
from visalign.rewards.base import RewardModel, Scores
from visalign.rewards.pairwise import matches, win_rates
from visalign.serving.panel import version_of
from visalign.serving.settings import ServeSettings, read_token
from visalign.storage.open_clip_models import CLIP_ASSETS


def noise(seed: int, size: int = 24) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(values)


def text_of(image: Image.Image) -> str:
    return base64.b64encode(to_bytes(image)).decode()


def post(url: str, samples: list[dict], **more):
    return httpx.post(f"{url}/v1/score", json={"samples": samples} | more, timeout=30)


@dataclass
class Brightness(RewardModel):
    """Mean value in [0, 255] and the number of pixels; fails as a whole where one sample is entirely black."""

    dimensions = ("mean", "pixels")
    pause: float = 0.0

    def score_batch(self, samples):
        time.sleep(self.pause)
        arrays = [np.asarray(sample.image, np.float32) for sample in samples]
        if any(array.max() == 0 for array in arrays):
            raise ZeroDivisionError("black")
        return torch.tensor([[array.mean(), array[..., 0].size] for array in arrays])


@dataclass
class Brightest(RewardModel):
    """Win rate by brightness among the samples of its group."""

    needs_group = True
    pause: float = 0.0

    def score_batch(self, samples):
        means = [np.asarray(sample.image).mean() for sample in samples]
        met = matches(samples, 7)
        return win_rates(len(samples), met, [float(means[i] > means[j]) for i, j in met])


@pytest.fixture(scope="module")
def url():
    with served("tiny-clip", "sharpness", Brightness(name="brightness"), Brightest(name="brightest"), max_mb=0.2,
                max_samples=8) as address:
        yield address


def test_served_scores_are_the_local_ones(url):
    samples = [Sample(f"a red fruit {i}", noise(i, 64), seed=i) for i in range(11)]
    video = [Sample("a bus", Video([noise(i), noise(i + 1), noise(i + 2)], 8.0)) for i in range(2)]
    for name in ("tiny-clip", "sharpness"):
        there, here = load_reward({"kind": "http", "url": url, "reward": name, "per_request": 4}), load_reward(name)
        assert there.dimensions == here.dimensions and there.score_range == here.score_range
        torch.testing.assert_close(there.score(samples).values, here.score(samples).values, atol=1e-6, rtol=0)
    frames = load_reward({"kind": "frames", "of": "sharpness"}).score(video).values
    torch.testing.assert_close(load_reward({"kind": "http", "url": url, "reward": "sharpness"}).score(video).values,
                               frames, atol=1e-6, rtol=0)


def test_a_bad_sample_fails_alone_and_a_reward_that_raises_fails_that_sample(url):
    samples = [{"image": text_of(noise(1))}, {"image": "no base64!"}, {"image": text_of(Image.new("RGB", (4, 4)))},
               {"video": text_of(noise(1))}, {"image": base64.b64encode(b"GIF89a").decode()}, {"prompt": "nothing"}]
    told = post(url, samples, rewards=["brightness"]).json()
    values = [row["brightness"]["mean"] for row in told["scores"]]
    assert values[0] == pytest.approx(np.asarray(noise(1)).mean(), abs=1e-3) and values[1:] == [None] * 5
    remarks = [row.get("brightness", "") for row in told["remarks"]]
    for remark, said in zip(remarks, ("", "not base64", "ZeroDivisionError: black", "still image", "not a readable",
                                      "an image, a video or an answer"), strict=True):
        assert said in remark
    for _ in range(3):
        assert httpx.get(f"{url}/v1/health").status_code == 200
        post(url, samples[2:3], rewards=["brightness"])
    assert httpx.get(f"{url}/v1/health").json()["problem"].startswith("brightness failed with ZeroDivisionError")
    post(url, samples[:1], rewards=["brightness"])
    assert httpx.get(f"{url}/v1/health").json()["status"] == "ok"


def test_multipart_parts_are_what_base64_is(url):
    image, frames = noise(3), [noise(4), noise(5)]
    form = {"samples": [{"image": {"part": "a"}}, {"video": {"frames": [{"part": "b"}, {"part": "c"}], "fps": 8}},
                        {"image": {"part": "missing"}}], "rewards": ["sharpness"]}
    parts = {name: (name, to_bytes(each), "image/png") for name, each in zip("abc", [image, *frames], strict=True)}
    told = httpx.post(f"{url}/v1/score", data={"request": json.dumps(form)}, files=parts).json()
    again = post(url, [{"image": text_of(image)}, {"video": {"frames": [text_of(each) for each in frames]}}],
                 rewards=["sharpness"]).json()
    assert told["scores"][:2] == again["scores"] and "no part 'missing'" in told["remarks"][2]["sharpness"]


def test_groups_are_compared_within_themselves_whatever_else_is_scored(url):
    pale, dark = text_of(Image.new("RGB", (4, 4), "white")), text_of(Image.new("RGB", (4, 4), "#111111"))
    told = post(url, [{"prompt": "x", "image": image, "group": group} for image, group in
                      ((pale, "1"), (dark, "1"), (dark, 2), (dark, None))], rewards=["brightest", "sharpness"]).json()
    assert [row["brightest"]["score"] for row in told["scores"]] == [1.0, 0.0, None, None]
    assert "only sample of its prompt" in told["remarks"][2]["brightest"]
    assert "say of which group" in told["remarks"][3]["brightest"] and told["scores"][3]["sharpness"]["score"] == 0.0
    there = load_reward({"kind": "http", "url": url, "reward": "brightest", "per_request": 2})
    samples = [Sample(prompt, Image.new("RGB", (4, 4), (value,) * 3)) for prompt in "abc" for value in (200, 100, 150)]
    assert there.needs_group and there.score(samples).values.flatten().tolist() == [1.0, 0.0, 0.5] * 3


@pytest.mark.parametrize("content, headers, status, says", [
    (b"x" * 300_000, {"content-type": "application/json"}, 413, "larger than 0.2 MB (--max-mb)"),
    (json.dumps({"samples": [{}] * 9}).encode(), {"content-type": "application/json"}, 413, "9 samples, 8 are allowed"),
    (b"{", {"content-type": "application/json"}, 422, "the body"),
    (b"[" * 100_000, {"content-type": "application/json"}, 422, "the body"),
    (b'{"samples": [{"prompt": 3}]}', {"content-type": "application/json"}, 422, "samples.0.prompt"),
    (b'{"samples": [{"promt": "x"}]}', {"content-type": "application/json"}, 422, "samples.0.promt"),
    (b'{"samples": [], "rewards": ["sharpnes"]}', {"content-type": "application/json"}, 400, "mean 'sharpness'"),
    (b'{"samples": [], "protocol": 2}', {"content-type": "application/json"}, 422, "protocol"),
    (b"{}", {"content-type": "text/plain"}, 415, "send application/json or multipart"),
    (b"--x\r\nnonsense", {"content-type": "multipart/form-data; boundary=y"}, 422, "no multipart form"),
    (b"--x", {"content-type": "multipart/form-data"}, 422, "no multipart form"),
    (b"\x80\x04\x95\x0c\0\0\0\0\0\0\0}\x94.", {"content-type": "application/json"}, 415, "pickle"),
])  # fmt: skip
def test_requests_that_are_none_end_in_one_sentence(url, content, headers, status, says):
    answer = httpx.post(f"{url}/v1/score", content=content, headers=headers)
    assert answer.status_code == status and says in answer.json()["error"]


def test_bombs_are_refused_before_they_are_decoded():
    bomb = io.BytesIO()
    Image.new("1", (11_000, 10_000)).save(bomb, "PNG")
    small = {"image": text_of(noise(1))}
    with served("sharpness", max_megapixels=30.0) as url:
        told = post(url, [{"image": base64.b64encode(bomb.getvalue()).decode()}, small])
        assert told.status_code == 413 and "110 megapixels, 30 are allowed" in told.json()["error"]
        assert post(url, [small]).status_code == 200
    with served("sharpness") as url:
        told = post(url, [{"image": base64.b64encode(bomb.getvalue()).decode()}, small]).json()
        assert "decompression bomb" in told["remarks"][0]["sharpness"] and told["scores"][1]["sharpness"]["score"] > 0


def test_paths_are_read_in_allowed_folders_alone(url, tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for folder in (inside / "deep", outside):
        folder.mkdir(parents=True)
        noise(1).save(folder / "a.png")
    (inside / "link.png").symlink_to(outside / "a.png")
    (inside / "folder").symlink_to(outside)
    (inside / "v.mp4").write_bytes(to_video_bytes(Video([noise(i, 32) for i in range(4)], 8.0)))
    refused = post(url, [{"image": {"path": str(outside / "a.png")}}], rewards=["sharpness"]).json()
    assert "reads no files" in refused["remarks"][0]["sharpness"]
    paths = ["deep/a.png", str(inside / "deep" / "a.png"), "link.png", "folder/a.png", "../out/a.png",
             str(outside / "a.png"), "nowhere.png", "/dev/zero", "deep", "a\0b", "x" * 5000]
    with served("sharpness", folders=(inside,)) as allowed:
        samples = [{"image": {"path": path}} for path in paths] + [{"video": {"path": "v.mp4"}}]
        told = post(allowed, samples).json()
    values = [row["sharpness"]["score"] for row in told["scores"]]
    assert values[0] == values[1] is not None and values[-1] is not None and values[2:-1] == [None] * 9
    assert all("no such file in an allowed folder" in row["sharpness"] for row in told["remarks"][2:-1])


def test_requests_are_batched_together_and_a_full_queue_asks_for_patience():
    slow = Brightness(name="slow", pause=0.15)
    with served(slow, batch=8, queue=16) as url:
        answers: list[httpx.Response] = []
        one = [{"image": text_of(noise(i))} for i in range(3)]
        threads = [threading.Thread(target=lambda: answers.append(post(url, one))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        metrics = httpx.get(f"{url}/metrics").text
    by_status = {status: [each for each in answers if each.status_code == status] for status in (200, 503)}
    assert by_status[200] and by_status[503] and len(answers) == 8
    assert by_status[503][0].headers["retry-after"] == "1" and "as many samples" in by_status[503][0].json()["error"]
    assert all(row["slow"]["mean"] for each in by_status[200] for row in each.json()["scores"])
    batches = float(metrics.split("visalign_batch_samples_count ")[1].split()[0])
    assert batches < len(by_status[200]) and 'visalign_samples_total{outcome="scored",reward="slow"}' in metrics


def test_a_token_is_needed_everywhere_and_by_all_but_this_machine(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"--host 0.0.0.0: others could reach this server, so it needs a token"):
        ServeSettings(host="0.0.0.0").check()
    file = tmp_path / "token"
    file.write_text("short\n")
    with pytest.raises(UserError, match="at least 16"):
        read_token(file)
    file.write_text("a-token-of-some-length\n")
    with served("sharpness", token=read_token(file)) as url:
        for path in ("/v1/health", "/metrics", "/health"):
            assert httpx.get(url + path).status_code == 401
        assert httpx.post(f"{url}/v1/score", json={"samples": []}).status_code == 401
        with pytest.raises(UserError, match="wants a key .* variable VISALIGN_TOKEN .token_env"):
            load_reward({"kind": "http", "url": url})
        monkeypatch.setenv("VISALIGN_TOKEN", "wrong-token")
        with pytest.raises(UserError, match="refused the key in the environment variable VISALIGN_TOKEN"):
            load_reward({"kind": "http", "url": url})
        monkeypatch.setenv("VISALIGN_TOKEN", "a-token-of-some-length")
        there = load_reward({"kind": "http", "url": url})
        assert there.score([Sample("half a character \ud800", noise(1))]).values.item() > 0


def test_a_version_changes_with_what_may_change_scores_and_with_nothing_else(tmp_path):
    def version(**changes):
        return version_of(build_reward({"kind": "vlm", "url": "http://h/v1", "cache": None} | changes))

    (tmp_path / "cache").write_text("x")
    assert version() == version(retries=9, timeout=3.0, cache=str(tmp_path / "cache"), name="other")
    assert len({version(), version(model="m"), version(url="http://g/v1"), version(rubric="1 bad, 5 good")}) == 4
    model = shutil.copytree(CLIP_ASSETS / "tiny-clip", tmp_path / "model")
    before = version_of(build_reward(f"clip:{model}"))
    (model / "open_clip_config.json").write_text((model / "open_clip_config.json").read_text() + " ")
    assert version_of(build_reward(f"clip:{model}")) != before


def test_edits_travel_with_their_sources_notes_and_mask(tmp_path):
    source, mask = noise(1, 32), Image.new("RGB", (32, 32), "white")
    mask.paste("black", (0, 0, 16, 32))
    mask.save(tmp_path / "mask.png")
    samples = [Sample("make it blue", noise(2, 32), sources=(source,), known={"mask": str(tmp_path / "mask.png")}),
               Sample("make it red", noise(3, 32), sources=(source,)), Sample("no source", noise(3, 32))]
    with served("background_kept") as url:
        there = load_reward({"kind": "http", "url": url})
        answer, local = there.score(samples), load_reward("background_kept").score(samples)
    assert there.needs_sources and torch.equal(answer.values.nan_to_num(-1), local.values.nan_to_num(-1))
    assert answer.remarks == local.remarks and isinstance(answer, Scores)


def test_texts_are_served_as_images_are():
    texts = [Sample("p", Answer("one two")), Sample("p", Answer(""))]
    with served("brevity", "sharpness") as url:
        client = load_reward({"kind": "http", "url": url, "reward": "brevity"})
        assert client.modalities == {"text"}
        assert client.score(texts).values.tolist() == load_reward("brevity").score(texts).values.tolist()
        assert client.score([Sample("p", noise(0))]).remarks == {0: "scores texts only, this is an image"}
        told = post(url, [{"answer": "one"}, {"answer": "one", "image": text_of(noise(0))},
                          {"answer": "x" * 1_000_001}, {"image": text_of(noise(0))}], rewards=["brevity"]).json()
        refused = post(url, [{"answer": "one"}], rewards=["sharpness"]).json()
    assert told["scores"][0]["brevity"]["score"] == pytest.approx(-0.1)
    assert "an image, a video or an answer" in told["remarks"][1]["brevity"]
    assert "1,000,001 characters" in told["remarks"][2]["brevity"]
    assert "scores texts only" in told["remarks"][3]["brevity"]
    assert "this is a text" in refused["remarks"][0]["sharpness"]
