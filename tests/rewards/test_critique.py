"""A reward that writes a critique first: which tokens are learnt, what they cost, training, and its own words."""

import json
import math

import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from torch import nn

from visalign.cli import main
from visalign.config import JointSettings
from visalign.data.annotations import read_annotations
from visalign.data.rows import BadRow
from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.rewards.joint.critique import critique_loss, critique_places, reason_of
from visalign.rewards.joint.reward import build_network

from .tiny_vlm import build_tiny_vlm

OPENING, END = 7, 2
RED, BLUE = Image.new("RGB", (56, 56), "red"), Image.new("RGB", (56, 56), "blue")


def test_the_words_after_the_opening_and_the_first_end_are_learnt():
    ids = torch.tensor([[5, 2, 5, 7, 4, 3, 2, 6, 2], [5, 2, 7, 2, 6, 0, 0, 0, 0], [5, 2, 6, 6, 0, 0, 0, 0, 0]])
    assert critique_places(ids, OPENING, END).int().tolist() == [
        [0, 0, 0, 0, 1, 1, 1, 0, 0], [0] * 9, [0] * 9]  # without words there is nothing to learn


def test_what_writing_costs_by_hand():
    """Even logits of 8 tokens cost log 8 each; sure ones nothing."""
    ids = torch.tensor([[5, 7, 4, 2, 6], [5, 7, 2, 6, 6]])
    places = critique_places(ids, OPENING, END)
    even = nn.Linear(3, 8)
    nn.init.zeros_(even.weight)
    nn.init.zeros_(even.bias)
    cost = critique_loss(torch.randn(2, 5, 3), ids, places, even)
    assert cost[0].item() == pytest.approx(math.log(8)) and cost[1].isnan()
    hidden = torch.zeros(2, 5, 8)
    hidden[0, 1, 4] = hidden[0, 2, 2] = 50.0  # each word is foretold where the one before it is read
    assert critique_loss(hidden, ids, places, nn.Identity())[0].item() == pytest.approx(0.0, abs=1e-6)


def test_a_reason_cannot_be_taken_for_tokens():
    assert reason_of(Sample("p", RED, known={"reason": " fine <|im_end|> "})) == "fine < |im_end|>"
    assert reason_of(Sample("p", RED)) == ""


@pytest.fixture
def table(tmp_path):
    rows = []
    for i, (a, b) in enumerate([(RED, BLUE), (BLUE, RED)] * 3):
        for side, image in (("a", a), ("b", b)):
            image.save(tmp_path / f"{i}{side}.png")
        row = {"prompt": f"thing {i}", "a": f"{i}a.png", "b": f"{i}b.png", "quality": ["a", "tie"][i == 5],
               "reason_a": "bright", "reason_b": "dull" if i % 2 else None}
        rows.append(row)
    (tmp_path / "reasons.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "reasons.jsonl"


def test_reasons_are_read_with_their_sides_and_must_be_text(table):
    first, second = read_annotations(str(table), ("quality",))[:2]
    assert (first.a.reason, first.b.reason) == ("bright", "") and second.b.reason == "dull"
    assert second.sample("b", 1).known["reason"] == "dull" and "reason" not in first.sample("b", 1).known
    table.write_text(json.dumps(json.loads(table.read_text().splitlines()[0]) | {"reason_a": 3}))
    with pytest.raises(BadRow, match="'reason_a' is not text but int"):
        read_annotations(str(table), ("quality",))


def test_it_learns_to_write_and_reads_its_own_words_at_use(table, tmp_path):
    folder = build_tiny_vlm(tmp_path / "vlm")
    content = {"model": {"backbone": "vlm", "source": str(folder), "tuning": "full", "width": 32,
                         "dimensions": ["quality"], "video_only": [], "members": 2, "critique": {"max_tokens": 6}},
               "data": {"path": str(table), "holdout": 0.0},
               "objective": {"name": "preference", "ties": "square", "centre": 0.01}, "optim": {"lr": 0.01},
               "train": {"steps": 24, "batch_size": 4, "precision": "fp32", "device": "cpu"},
               "output": {"folder": str(tmp_path / "run"), "checkpoint_every": 24, "trackers": []}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    result = CliRunner().invoke(main, ["reward", "train", str(tmp_path / "r.yaml")])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    costs = [row["critique"] for row in rows if "critique" in row]
    assert len(costs) == 24 and costs[-1] < 0.5 * costs[0]
    reward = load_reward(str(tmp_path / "run"))
    told = [Sample("thing 1", RED, known={"reason": words}) for words in ("bright", "dull", "")]
    values = reward.score([*told, Sample("thing 1", BLUE)]).values[:, 0]
    assert values.isfinite().all() and torch.equal(values[:1].expand(3), values[:3])  # nobody's words but its own
    one_by_one = torch.cat([reward.score([sample]).values[:, 0] for sample in (told[0], Sample("thing 1", BLUE))])
    torch.testing.assert_close(one_by_one, values[[0, 3]], atol=1e-4, rtol=1e-4)


def test_the_words_are_what_generation_writes(tmp_path):
    settings = JointSettings(backbone="vlm", source=str(build_tiny_vlm(tmp_path / "vlm")), tuning="lora", width=32,
                             dimensions=("quality",), video_only=(), members=1, critique={"max_tokens": 5})
    torch.manual_seed(0)
    network = build_network(settings).eval()
    sample = Sample("thing", RED)
    ids = network.collate([sample])["input_ids"][0]
    backbone = network.backbone
    decoded = backbone.processor.tokenizer.decode(ids)
    [words] = backbone.critic.written([backbone._chat(
        sample, 1, "Say what is right and what is wrong with it, then judge it.", True) + "<|critique|>"], [RED])
    assert f"<|critique|>{words}" in decoded and decoded.rstrip().endswith("<|judge_quality|>")
    assert (ids == backbone.critic.opening).sum() == 1 and all(
        (ids == token).sum() == 1 for token in backbone.token_ids)


@pytest.mark.parametrize("settings, said", [
    ({"backbone": "open_clip"}, "model.backbone is open_clip"),
    ({"backbone": "vlm", "tuning": "frozen"}, "model.tuning is frozen"),
    ({"backbone": "vlm", "tuning": "lora", "layers": [0]}, "model.layers names layers")])
def test_where_nothing_could_be_written_it_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        JointSettings(critique={}, **settings)
