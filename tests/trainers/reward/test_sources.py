"""Sources weighed against each other: least norms by hand, what the loss becomes, a killed run, and what is refused."""

import json
import shutil

import pytest
import torch
import yaml
from accelerate import Accelerator
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from visalign.cli import main
from visalign.config.reward import BalanceSettings
from visalign.objectives.reward_model import Comparison, RewardModelLoss
from visalign.trainers.reward.sources import SourceBalance


def balance(count=2, **settings):
    head = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(head.weight)
    names = tuple(f"s{k}" for k in range(count))
    return head, SourceBalance(BalanceSettings(**settings), names, head, Accelerator(cpu=True))


def batch(head, differences):
    """Pairs whose first side, preferred, has so much more of two features; at the head's zero each gradient is minus
    half of that."""
    rows = torch.tensor(differences)
    a, b = head(rows)[:, None], head(torch.zeros_like(rows))[:, None]
    ones, gap = torch.ones(len(rows), 1), torch.full((len(rows), 1), float("nan"))
    return Comparison(a, b, ones, ones[:, 0], gap, gap)


@pytest.mark.parametrize("second, weights", [([0.6, 0.8], [0.5, 0.5]), ([0.0, 0.5], [0.2, 0.8]), ([2.0, 0.0], [1, 0])])
def test_the_weights_of_two_sources_by_hand(second, weights):
    """Of gradients g: equal norms give halves; at right angles one over the squared norm; of two on one line the
    shorter one is all."""
    head, found = balance()
    pairs = batch(head, [[1.0, 0.0], second])
    found.filters(torch.tensor([0, 1]), pairs, RewardModelLoss())
    told = found.after_step()
    assert told == {"source/s0": pytest.approx(weights[0]), "source/s1": pytest.approx(weights[1])}


def test_the_loss_is_the_weighted_sum_of_each_source_s_mean():
    torch.manual_seed(0)
    head, found = balance()
    nn.init.normal_(head.weight)
    pairs = batch(head, torch.randn(7, 2).tolist())
    sources = torch.tensor([0, 1, 1, 0, 1, 1, 1])
    filters = found.filters(sources, pairs, RewardModelLoss())
    each = -nn.functional.logsigmoid(pairs.a - pairs.b).flatten()
    w = found.after_step()
    expected = w["source/s0"] * each[sources == 0].mean() + w["source/s1"] * each[sources == 1].mean()
    assert 0 < w["source/s0"] < 1
    torch.testing.assert_close(RewardModelLoss()(pairs._replace(filters=filters)).loss, expected)
    assert head.weight.grad is None


def test_a_source_that_is_not_in_the_batch_has_no_weight_and_keeps_its_gradient():
    head, found = balance(3, memory=0.5)
    found.filters(torch.tensor([0, 1]), batch(head, [[1.0, 0.0], [0.0, 1.0]]), RewardModelLoss())
    found.filters(torch.tensor([1, 2]), batch(head, [[0.0, 3.0], [0.0, 1.0]]), RewardModelLoss())
    torch.testing.assert_close(found.gradients, torch.tensor([[-0.5, 0.0], [0.0, -1.0], [0.0, -0.5]]))
    assert found.after_step()["source/s0"] == 0 and found.seen.all()


@pytest.mark.parametrize("normalise, weights", [("none", [0.8, 0.2]), ("loss", [0.5, 0.5])])
def test_gradients_over_their_losses(normalise, weights):
    """Bias of the head alone: with the margin m each gradient is s(m) - 1 along its own feature."""
    head, found = balance(normalise=normalise)
    pairs = batch(head, [[1.0, 0.0], [0.0, 1.0]])
    other = batch(head, [[1.0, 0.0], [0.0, 2.0]])
    found.filters(torch.tensor([0, 1]), other if normalise == "none" else pairs, RewardModelLoss())
    assert list(found.after_step().values()) == pytest.approx(weights)


def test_without_settings_nothing_is_done():
    found = SourceBalance(None, ("a",), nn.Linear(2, 1), Accelerator(cpu=True))
    assert found.kept == {} and found.filters(torch.zeros(1), None, None) == () and found.after_step() == {}


@pytest.fixture
def recipe(tmp_path):
    for name, colours in (("one", ["red", "blue", "green", "black"]), ("two", ["white", "yellow", "brown", "pink"])):
        lines = []
        for i, colour in enumerate(colours):
            Image.new("RGB", (64, 64), colour).save(tmp_path / f"{colour}.png")
            lines.append({"prompt": f"p{name}{i}", "a": f"{colour}.png", "b": f"{colours[i - 1]}.png",
                          "quality": "ab"[i % 2]})
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def write(name, **data):
        content = {"model": {"source": "tiny-clip", "tuning": "frozen", "dimensions": ["quality"], "video_only": [],
                             "layers": [1], "width": 16, "members": 2},
                   "data": {"path": [str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")], "holdout": 0.0,
                            "balance": {}} | data,
                   "objective": {"name": "preference", "ties": "drop"}, "optim": {"lr": 0.003},
                   "train": {"steps": 4, "batch_size": 4, "precision": "fp32", "device": "cpu"},
                   "output": {"folder": str(tmp_path / name), "checkpoint_every": 2, "trackers": []}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
        return CliRunner().invoke(main, ["reward", "train", str(tmp_path / f"{name}.yaml")])

    return write


def test_a_killed_run_goes_on_with_the_same_weights(recipe, tmp_path):
    result = recipe("whole")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    told = [{name: row[name] for name in row if name.startswith("source/")} for row in rows if "loss" in row]
    assert len(told) == 4 and all(sum(each.values()) == pytest.approx(1) and len(each) == 2 for each in told)
    assert recipe("again").exit_code == 0
    for checkpoint in sorted((tmp_path / "again" / "checkpoints").iterdir())[1:]:
        shutil.rmtree(checkpoint)
    shutil.rmtree(tmp_path / "again" / "reward")
    again = CliRunner().invoke(main, ["reward", "train", str(tmp_path / "again.yaml"), "--resume"])
    assert again.exit_code == 0, again.output
    whole, found = (load_file(tmp_path / name / "reward" / "reward.safetensors") for name in ("whole", "again"))
    assert all(torch.equal(whole[name], found[name]) for name in whole)


@pytest.mark.parametrize("data, said", [
    ({"path": "one.jsonl"}, "weighs 2 to 8 sources against each other, and data.path names 1"),
    ({"balance": {"normalise": "l2"}}, "normalise l2 always gives two sources one half each"),
    ({"balance": {"normalise": "l1"}}, "data.balance.normalise"),
    ({"augment": {}}, "data.augment")])
def test_what_cannot_be_weighed_is_refused(recipe, data, said):
    result = recipe("bad", **data)
    assert result.exit_code == 1 and said in result.output, result.output
