"""What is shown beside a pair that is learnt from: others of its user, the same ones for the same place; and training
with it, which resumes to the bit and ends in a folder that scores and reads new users."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from visalign.cli import main
from visalign.data.annotations import AnnotatedMedia, Annotation
from visalign.storage.hashed_users import hashed_user
from visalign.trainers.reward.contexts import Contexts

NETWORK = SimpleNamespace(context_pairs=4, settings=SimpleNamespace(dimensions=("quality",)))


def annotation(user, number, label=1.0):
    a, b = (AnnotatedMedia("p", f"{number}{side}".encode()) for side in "ab")
    return Annotation(a, b, {"quality": label}, f"row {number}", user=user)


@pytest.fixture
def items():
    """Nine pairs of u, one of them a tie and one shown twice the other way round, and two of v."""
    found = [annotation("u", number) for number in range(7)] + [annotation("u", 7, 0.5)]
    twin = annotation("u", 0)
    found.append(Annotation(twin.b, twin.a, {"quality": 0.0}, "row 0 turned", user="u"))
    return [*found, annotation("v", 8), annotation("v", 9)]


def test_a_pair_is_never_shown_beside_itself_and_only_its_user_s_are(items):
    contexts, met = Contexts(NETWORK, items, 3), set()
    for place in range(200):
        shown = contexts.drawn(0, place)
        assert 2 <= len(shown) <= 4 and len(set(shown)) == len(shown)
        met |= {*shown, f"{len(shown)} pairs"}
    # neither itself, nor the same two images turned round (8), nor the tie (7), nor another user's
    assert met == {*range(1, 7), "2 pairs", "3 pairs", "4 pairs"}
    assert contexts.drawn(9, 0) == [10]  # all that v has
    assert 0 in {other for place in range(50) for other in contexts.drawn(7, place)}  # a tie is shown others


def test_the_place_alone_says_which(items):
    one, other = Contexts(NETWORK, items, 3), Contexts(NETWORK, items, 3)
    forward = [one.drawn(place % 7, place) for place in range(30)]
    assert forward == [other.drawn(place % 7, place) for place in reversed(range(30))][::-1]
    assert forward != [Contexts(NETWORK, items, 4).drawn(place % 7, place) for place in range(30)]
    assert len({tuple(one.drawn(2, place)) for place in range(20)}) > 5  # anew each time


def test_a_head_that_asks_for_none_is_shown_none(items):
    assert Contexts(SimpleNamespace(settings=None), items, 0).inputs_of([0, 1], [0, 1]) == {}


def test_pairs_shown_to_several_are_read_once(items, monkeypatch):
    monkeypatch.setattr(Annotation, "sample", lambda self, side, frames: getattr(self, side).media)
    network = SimpleNamespace(context_pairs=4, settings=SimpleNamespace(dimensions=("quality",), frames=1),
                              collate_shown=lambda samples: {"shown media": samples})
    contexts = Contexts(network, items, 0)
    found = contexts.inputs_of([0, 1, 9], [5, 6, 7])
    shown = [contexts.drawn(index, place) for index, place in ((0, 5), (1, 6), (9, 7))]
    whole = sorted({each for some in shown for each in some})
    assert found["shown media"] == [getattr(items[i], side).media for side in "ab" for i in whole]
    for row, some in zip(found["context"].tolist(), shown, strict=True):
        assert [whole[k] for k in row if k >= 0] == some
    assert found["said"].flatten().tolist() == [items[i].outcome["quality"] for i in whole]


def invoke(*arguments):
    return CliRunner().invoke(main, ["reward", *map(str, arguments)])


@pytest.fixture
def recipe(tmp_path):
    """Ann prefers the brighter grey, Bob the darker one."""
    lines = []
    for number in range(12):
        shades = [40 + 5 * number, 180 + 5 * number]
        for side, shade in zip("ab", shades[::(-1) ** number], strict=True):
            Image.new("RGB", (64, 64), (shade,) * 3).save(tmp_path / f"{number}{side}.png")
        for user, bright in (("ann", "ba"), ("bob", "ab")):
            lines.append({"prompt": f"grey {number % 4}", "a": f"{number}a.png", "b": f"{number}b.png",
                          "quality": bright[number % 2], "user": user})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    content = {
        "model": {"dimensions": ["quality"], "video_only": [], "layers": [], "width": 16, "members": 2,
                  "variational": {"size": 4, "context": 3, "kl_weight": 0.001}},
        "data": {"path": str(tmp_path / "pairs.jsonl"), "holdout": 0.3},
        "objective": {"name": "preference"},
        "optim": {"lr": 0.003},
        "train": {"steps": 4, "batch_size": 4, "precision": "fp32", "device": "cpu"},
        "output": {"folder": str(tmp_path / "run"), "checkpoint_every": 2, "trackers": []},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "recipe.yaml"


def test_a_run_that_is_continued_has_the_same_weights_and_users(recipe, tmp_path):
    assert invoke("train", recipe).exit_code == 0
    whole = load_file(tmp_path / "run" / "reward" / "reward.safetensors")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [row for row in rows if row["kind"] == "train"]
    assert all(0 < row["kl"] < 20 and 0 <= row["accuracy_prior"] <= 1 for row in logged)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    shutil.rmtree(tmp_path / "run" / "reward")
    result = invoke("train", recipe, "--resume")
    assert result.exit_code == 0, result.output
    again = load_file(tmp_path / "run" / "reward" / "reward.safetensors")
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
    assert whole["heads.user_mean"].abs().amax((1, 2, 3)).min() > 0


def test_a_new_user_is_read_without_training_and_scored_by_name(recipe, tmp_path):
    assert invoke("train", recipe).exit_code == 0
    run, pairs = tmp_path / "run", (tmp_path / "pairs.jsonl").read_text().splitlines()
    few = [json.loads(line) | {"user": "eve"} for line in pairs[:8:2]]
    (tmp_path / "eve.jsonl").write_text("\n".join(map(json.dumps, few)))
    result = invoke("fit-user", run, tmp_path / "eve.jsonl", "-o", tmp_path / "with-eve", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert f"{hashed_user('eve')}: fitted on 4 pairs" in result.output
    old, new = (load_file(folder / "reward.safetensors") for folder in (run / "reward", tmp_path / "with-eve"))
    for name, tensor in old.items():
        assert torch.equal(new[name][:len(tensor)], tensor)
        assert len(new[name]) == len(tensor) + (name in ("heads.user_mean", "heads.user_log_var"))
    users = json.loads((tmp_path / "with-eve" / "reward.json").read_text())["users"]
    assert users["learnt"] == 2 and [*users["standards"]] == users["names"] and len(users["names"]) == 3

    from visalign.media.samples import Sample
    from visalign.rewards import load_reward
    whole = {"kind": "joint", "source": str(tmp_path / "with-eve")}
    eve, nobody = (load_reward(whole | more) for more in ({"user": "eve"}, {}))
    grey = [Sample("grey 1", Image.new("RGB", (64, 64), (shade,) * 3)) for shade in (60, 120, 200)]
    assert eve.score(grey).values.isfinite().all()
    assert (eve.score(grey).values - nobody.score(grey).values).abs().max() > 0
    # labelled the other way round, the same pairs are of somebody else
    other = [line | {"quality": "ab".replace(line["quality"], "")} for line in few]
    (tmp_path / "eve.jsonl").write_text("\n".join(map(json.dumps, other)))
    assert invoke("fit-user", run, tmp_path / "eve.jsonl", "-o", tmp_path / "other", "--device", "cpu").exit_code == 0
    turned = load_file(tmp_path / "other" / "reward.safetensors")["heads.user_mean"]
    assert not torch.equal(turned[2], new["heads.user_mean"][2])


def test_a_user_of_ties_alone_is_refused(recipe, tmp_path):
    assert invoke("train", recipe, "train.steps=1").exit_code == 0
    lines = [json.loads(line) | {"user": "eve", "quality": "tie"}
             for line in (tmp_path / "pairs.jsonl").read_text().splitlines()[:3]]
    (tmp_path / "eve.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = invoke("fit-user", tmp_path / "run", tmp_path / "eve.jsonl", "-o", tmp_path / "out", "--device", "cpu")
    assert result.exit_code == 1 and "none of this user's 3 pairs is decided" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change, word", [
    (lambda row: row.pop("user"), "none of 24 training pairs says whose it is, and model.variational"),
    (lambda row: row.update(user=row["prompt"] + row["a"] + row["quality"]), "0 of 24 users have the 2 training pairs"),
])
def test_data_without_users_or_with_one_pair_each_end_in_one_sentence(recipe, tmp_path, change, word, monkeypatch):
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    for row in rows:
        change(row)
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr("visalign.rewards.joint.start.build_network", lambda *_: pytest.fail("was loaded"))
    result = invoke("train", recipe)
    assert result.exit_code == 1 and word in result.output and len(result.output.strip().splitlines()) == 1
