"""The request forms of other programs' reward services, as their sources send them; pickles are never read."""

import base64
import io
import json
import pickle
import re
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.serving.served import served
from tests.serving.test_own_form import Brightness, noise, text_of
from visalign.media.samples import Sample, Video, to_bytes
from visalign.media.video_files import to_video_bytes
from visalign.rewards import load_reward

IMAGES = [noise(1), noise(2)]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reward-server.md"


@pytest.fixture(scope="module")
def url():
    with served("sharpness", "motion", Brightness(name="brightness")) as address:
        yield address


def local(reward: str, media: list) -> list[float]:
    return load_reward(reward).score([Sample("", each) for each in media]).values.flatten().tolist()


def test_flow_factory_gets_one_number_a_sample(url):
    body = {"prompt": ["a", "b"], "image": [text_of(each) for each in IMAGES], "video": None, "condition_images": None}
    assert httpx.get(f"{url}/sharpness/health").json()["status"] == "ok"
    told = httpx.post(f"{url}/sharpness/compute", json=body).json()
    assert told["rewards"] == pytest.approx(local("sharpness", IMAGES), abs=1e-6)
    video = Video([noise(i) for i in range(3)], 8.0)
    told = httpx.post(f"{url}/motion/compute", json={"prompt": ["a"], "video": [[text_of(f) for f in video.frames]]})
    assert told.json()["rewards"] == pytest.approx(local("motion", [video]), abs=1e-6)
    for path, more, status, says in (("/compute", {}, 400, "end server_url with one of sharpness, motion"),
                                     ("/sharp/compute", {}, 400, "did you mean"),
                                     ("/sharpness/compute", {"prompt": ["a"]}, 422, "1 prompts, 2 images"),
                                     ("/sharpness/compute", {"image": ["!", "!"]}, 422, "sample 0: sharpness has no")):
        refused = httpx.post(f"{url}{path}", json=body | more)
        assert refused.status_code == status and says in refused.json()["detail"]


def test_unirl_gets_numbers_and_errors_by_reward(url, tmp_path):
    turns = [{"text": "a", "image_b64": text_of(IMAGES[0])}]
    requests = [{"history": turns, "required_rewards": ["sharpness", "brightness"], "metadata": None},
                {"history": turns, "required_rewards": ["sharpness", "motion"]},
                {"history": [{"text": "a", "video_path": "/etc/passwd"}], "required_rewards": ["motion"]}]
    assert httpx.get(f"{url}/health").json()["rewards"].keys() == {"sharpness", "motion", "brightness"}
    assert httpx.get(f"{url}/rewards").json()["rewards"] == ["sharpness", "motion", "brightness"]
    told = httpx.post(f"{url}/score", json={"requests": requests}).json()
    assert told["results"][0] == {"sharpness": {"score": pytest.approx(local("sharpness", IMAGES[:1])[0], abs=1e-6)},
                                  "brightness": {"mean": pytest.approx(np.asarray(IMAGES[0]).mean(), abs=1e-3),
                                                 "pixels": 576.0}}
    assert told["results"][1].keys() == {"sharpness"} and "videos only" in told["errors"][1]["motion"]
    assert told["results"][2] == {} and "reads no files" in told["errors"][2]["motion"]
    unknown = httpx.post(f"{url}/score", json={"requests": [requests[0] | {"required_rewards": ["clip"]}]})
    assert unknown.status_code == 400 and "no reward 'clip'" in unknown.json()["detail"]
    (tmp_path / "v.mp4").write_bytes(video := to_video_bytes(Video([noise(i, 32) for i in range(4)], 8.0)))
    encoded = base64.b64encode(video).decode()
    with served("motion", folders=(tmp_path,)) as allowed:
        requests = [{"history": [{"text": "a"} | media], "required_rewards": ["motion"]}
                    for media in ({"video_path": str(tmp_path / "v.mp4")}, {"video_b64": encoded})]
        one, two = httpx.post(f"{allowed}/score", json={"requests": requests}).json()["results"]
    assert one == two and one["motion"]["score"] > 0


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def enqueue(url: str, array: bytes, **said) -> httpx.Response:
    body = json.dumps({"prompts": ["a", "b"], "media_type": "image"} | said).encode() + b"\n" + array
    return httpx.post(f"{url}/api/reward/enqueue", content=body, headers={"Content-Type": "application/octet-stream"})


def pull(url: str, number: str, reward: str) -> dict:
    for _ in range(200):
        answer = httpx.post(f"{url}/api/reward/pull", data={"uuid": number, "type": reward})
        if answer.status_code == 200:
            return answer.json()
        assert answer.json()["message"] == f"Not found scores for {number}"
        time.sleep(0.02)
    raise AssertionError("never scored")


def test_cosmos_rl_enqueues_arrays_and_pulls_scores(url):
    assert httpx.post(f"{url}/api/reward/ping", data={"info_data": "{}"}).status_code == 200
    array = np.stack([np.asarray(each) for each in IMAGES])
    number = enqueue(url, npy(array), reward_fn={"sharpness": 1.0, "brightness": 0.5, "motion": 0.0}).json()["uuid"]
    assert pull(url, number, "sharpness")["scores"] == {"score": pytest.approx(local("sharpness", IMAGES), abs=1e-6)}
    assert pull(url, number, "brightness")["scores"]["pixels"] == [576.0, 576.0]
    missing = httpx.post(f"{url}/api/reward/pull", data={"uuid": number, "type": "motion"})
    assert missing.status_code == 422 and "not in the reward_fn" in missing.json()["detail"]
    videos = [Video([noise(9 * k + i) for i in range(3)], 16.0) for k in range(2)]
    array = np.stack([np.stack([np.asarray(frame) for frame in each.frames]) for each in videos])
    told = enqueue(url, npy(array.transpose(0, 4, 1, 2, 3)), reward_fn={"motion": 1.0}, media_type="video").json()
    assert pull(url, told["uuid"], "motion")["scores"]["score"] == pytest.approx(local("motion", videos), abs=1e-6)
    number = enqueue(url, npy(np.zeros((2, 8, 8, 3), np.uint8)), reward_fn={"brightness": 1.0}).json()["uuid"]
    failed = pull(url, number, "brightness")
    assert failed["scores"] is None and "ZeroDivisionError" in failed["error"]


@pytest.mark.parametrize("array, said, status, says", [
    (npy(np.zeros((2, 16, 4, 8, 8), np.float16)), {"media_type": "latent"}, 415, "latents cannot be decoded here"),
    (npy(np.zeros((2, 8, 8, 3), np.float32)), {}, 422, "expected uint8 values in C order"),
    (npy(np.zeros((3, 8, 8, 3), np.uint8)), {}, 422, "2 prompts and 3 images"),
    (npy(np.zeros((2, 3, 8, 8), np.uint8)), {}, 422, "images are [B, H, W, 3]"),
    (npy(np.zeros((1, 1, 8, 8, 8), np.uint8))[:128].replace(b"(1, 1, 8, 8, 8)", b"(999999999999,)"), {}, 422, "uint8"),
    (npy(np.array([{}], object)), {}, 422, "expected uint8"),
    (b"not an array", {}, 422, "no .npy array"),
    (npy(np.zeros((2, 8, 8, 3), np.uint8)), {"reward_fn": {"hpsv2": 1.0}}, 400, "no reward 'hpsv2'"),
])  # fmt: skip
def test_arrays_that_are_none_are_refused_unread(url, array, said, status, says):
    answer = enqueue(url, array, **{"reward_fn": {"sharpness": 1.0}} | said)
    assert answer.status_code == status and says in answer.json()["detail"]


class Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("path", ["/", "/compute", "/v1/score", "/score", "/api/reward/enqueue", "/anything/else"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_flow_grpo_and_verl_omni_are_refused_unread(url, path, protocol, tmp_path):
    body = pickle.dumps({"images": [to_bytes(IMAGES[0], "JPEG")], "prompts": ["a"], "trap": Trap(tmp_path / "ran")},
                        protocol)
    answer = httpx.post(f"{url}{path}", content=body)
    assert answer.status_code == 415 and "send JSON with PNG in base64 to /v1/score" in answer.json()["error"]
    assert not (tmp_path / "ran").exists()


def test_the_page_s_function_for_verl_omni_scores_through_the_server(url):
    import asyncio

    import torch

    block = next(block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
                 if "solution_image" in block)
    namespace: dict = {}
    exec(block, namespace)
    pixels = torch.from_numpy(np.asarray(IMAGES[0]).copy()).permute(2, 0, 1)
    call = namespace["compute_score"](solution_image=pixels, ground_truth="a", server_url=url, reward="sharpness")
    assert asyncio.run(call) == {"score": pytest.approx(local("sharpness", IMAGES[:1])[0], abs=1e-6)}
    with pytest.raises(RuntimeError, match="black"):
        asyncio.run(namespace["compute_score"](solution_image=pixels * 0, ground_truth="a", server_url=url,
                                               reward="brightness", dimension="mean"))
