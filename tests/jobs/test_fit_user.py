"""`visalign reward fit-user`: new users from a few pairs, all else to the bit; and what is refused."""

import json

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from visalign.cli import main
from visalign.config import JointSettings
from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.rewards.joint.heads import KnownUsers
from visalign.rewards.joint.reward import build_network, save_reward
from visalign.storage.hashed_users import hashed_user

ANN, BOB, EVE = map(hashed_user, ("ann", "bob", "eve"))


def invoke(*arguments):
    return CliRunner().invoke(main, ["reward", "fit-user", *map(str, arguments)])


@pytest.fixture
def run(tmp_path):
    """Two users of opposite taste, kind B, so that prototypes differ by prompt."""
    settings = JointSettings(dimensions=("quality",), video_only=(), width=16, members=1, ideal_points={
        "prototypes": 2, "kind": "B", "size": 2})
    torch.manual_seed(3)
    network = build_network(settings, users=KnownUsers((ANN, BOB), 2)).eval()
    with torch.no_grad():
        network.heads.weights.copy_(torch.tensor([[5.0, -5.0], [-5.0, 5.0]])[:, None, None])
    save_reward(tmp_path / "run" / "reward", network, settings, {"mean": [0.0], "std": [1.0]}, {})
    return tmp_path / "run"


@pytest.fixture
def pairs(run, tmp_path):
    """Eve's pairs are labelled as ann would."""
    ann, lines = load_reward({"kind": "joint", "source": str(run / "reward"), "user": "ann"}), []
    for i, (a, b) in enumerate([("red", "blue"), ("green", "black"), ("white", "yellow"), ("red", "white")]):
        media = [Image.new("RGB", (64, 64), colour) for colour in (a, b)]
        for side, image in zip("ab", media, strict=True):
            image.save(tmp_path / f"{i}{side}.png")
        values = ann.score([Sample(f"a thing {i}", image) for image in media]).values[:, 0]
        lines.append({"prompt": f"a thing {i}", "a": f"{i}a.png", "b": f"{i}b.png",
                      "quality": "a" if values[0] > values[1] else "b"})

    def write(**more):
        (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(line | more) for line in lines))
        return tmp_path / "pairs.jsonl"

    return write


def test_a_new_user_takes_after_the_one_whose_taste_they_have(run, pairs, tmp_path):
    result = invoke(run, pairs(), "--name", "eve", "-o", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert f"{EVE}: fitted on 4 pairs" in result.output and "user: eve" in result.output
    old, new = (load_file(folder / "reward.safetensors") for folder in (run / "reward", tmp_path / "out"))
    assert all(torch.equal(new[name], old[name]) for name in old if name != "heads.weights")
    assert torch.equal(new["heads.weights"][:2], old["heads.weights"])
    assert (new["heads.weights"][2, ..., 0] > new["heads.weights"][2, ..., 1]).all()  # ann's prototype
    saved = json.loads((tmp_path / "out" / "reward.json").read_text())["users"]
    assert saved == {"names": [ANN, BOB, EVE], "learnt": 2}  # the population is as it was
    load_reward({"kind": "joint", "source": str(tmp_path / "out"), "user": "eve"})


def test_users_of_the_column_are_fitted_each(run, pairs, tmp_path):
    result = invoke(run, pairs(user="eve"), "-o", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 0 and EVE in result.output and "eve:" not in result.output


@pytest.mark.parametrize("more, options, word", [
    ({}, (), "does not say whose pair it is"),
    ({"user": "carl"}, ("--name", "eve"), "is of another user than --name eve"),
    ({}, ("--name", "ann"), "knows user user-"),
])
def test_who_they_are_must_be_clear(run, pairs, tmp_path, more, options, word, monkeypatch):
    file = pairs(**more)
    monkeypatch.setattr("visalign.rewards.joint.reward.build_network", lambda *_: pytest.fail("was loaded"))
    result = invoke(run, file, *options, "-o", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 1 and word in result.output and result.output.startswith("visalign: ")
    assert not (tmp_path / "out").exists()


def test_a_reward_without_users_is_refused(pairs, tmp_path):
    result = invoke("tiny-reward", pairs(), "--name", "eve", "-o", tmp_path / "out")
    assert result.exit_code == 1 and "knows no users; fit-user takes" in result.output


def test_a_new_user_comes_to_the_group_that_explains_their_pairs(tmp_path):
    settings = JointSettings(dimensions=("quality",), video_only=(), width=16, members=1, groups={"count": 2})
    torch.manual_seed(3)
    network = build_network(settings, users=KnownUsers((ANN, BOB), 2, (1, 1))).eval()
    network.heads.fits.fit.copy_(torch.tensor([[[0.0, -50.0]], [[-50.0, 0.0]]]))
    with torch.no_grad():  # the second group wants the opposite of what the first one does
        for name in ("first", "first_bias", "second"):
            tensor = getattr(network.heads.each, name)
            tensor[1] = tensor[0]
        network.heads.each.second[1] *= -1
        network.heads.each.second *= 30
    save_reward(tmp_path / "run" / "reward", network, settings, {"mean": [0.0], "std": [1.0]}, {})
    lines, bob = [], load_reward({"kind": "joint", "source": str(tmp_path / "run" / "reward"), "user": "bob"})
    for i, pair in enumerate([("red", "blue"), ("green", "black"), ("white", "yellow")]):
        media = [Image.new("RGB", (64, 64), colour) for colour in pair]
        for side, image in zip("ab", media, strict=True):
            image.save(tmp_path / f"{i}{side}.png")
        values = bob.score([Sample(f"a thing {i}", image) for image in media]).values[:, 0]
        lines.append({"prompt": f"a thing {i}", "a": f"{i}a.png", "b": f"{i}b.png",
                      "quality": "a" if values[0] > values[1] else "b"})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = invoke(tmp_path / "run", tmp_path / "pairs.jsonl", "--name", "eve", "-o", tmp_path / "out")
    assert result.exit_code == 0 and "their own 100%" in result.output, result.output
    eve, own = (load_reward({"kind": "joint", "source": str(folder), "user": user})
                for folder, user in ((tmp_path / "out", "eve"), (tmp_path / "out", "bob")))
    sample = [Sample("a thing", Image.new("RGB", (64, 64), "red"))]
    assert eve.network.heads.fits.shares()[2, 0, 1] > 0.8
    other = load_reward({"kind": "joint", "source": str(tmp_path / "out"), "user": "ann"}).score(sample).values.item()
    assert own.score(sample).values.item() == pytest.approx(-other, abs=1e-3)
