"""`visalign reward probe` from end to end: what it finds in real features, what it tells, and what it refuses."""

import json
import random

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.errors import UserError
from visalign.jobs import reward_probe as module
from visalign.jobs.reward_probe import in_classes, in_halves
from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.rewards.features import features_for

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 180, 60)}


def invoke(*arguments):
    return CliRunner().invoke(main, ["reward", "probe", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Squares of three colours and five sizes, and a column that says nothing."""
    folder, rng = tmp_path_factory.mktemp("squares"), random.Random(0)
    rows = []
    for p in range(16):
        for k in range(3):
            colour, side = rng.choice(list(COLOURS)), 20 + 10 * rng.randrange(5)
            image = Image.new("RGB", (64, 64), "white")
            image.paste(COLOURS[colour], (2, 2, side, side))
            image.save(folder / f"{p}-{k}.png")
            rows.append({"prompt": f"square {p}", "image": f"{p}-{k}.png", "colour": colour, "side": side,
                         "coin": rng.choice(["heads", "tails"]), "number": f"{p}-{k}"})
    rows[0]["colour"] = None
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "labels.jsonl"


def test_a_clip_model_holds_the_colour_and_not_the_coin(table, tmp_path):
    out = tmp_path / "out"
    done = invoke("tiny-clip", table, "--dimensions", "coin,colour,number,absent", "--rules", "saturation", "-o", out)
    assert done.exit_code == 0, done.output
    found = json.loads((out / "probes.json").read_text())
    colour, coin = found["probes"]["colour"], found["probes"]["coin"]
    assert colour["samples"] == 47 and colour["prompts"] == 16 and colour["chance"] == pytest.approx(1 / 3)
    assert colour["accuracy"][0] > 0.9 and colour["selectivity"] > 0.4
    assert coin["accuracy"][1] < 0.55 and abs(coin["selectivity"]) < 0.25
    assert found["probes"]["saturation"]["accuracy"][0] > coin["accuracy"][0] and set(
        found["probes"]["saturation"]["recall"]) == {"low", "high"}
    assert found["refused"] == {"number": "it has 48 different labels, and at most 20 are probed"}
    lines = done.output.splitlines()
    assert [line.split()[0] for line in lines if line.startswith(("colour", "coin", "saturation"))][-1] == "coin"
    assert any(line.startswith("number") and "not probed: it has 48" in line for line in lines)
    page = (out / "report.html").read_text()
    assert "What the features of tiny-clip hold" in page and "balanced accuracy of probes of" in page


def test_a_trained_reward_is_probed_where_its_heads_read(table, tmp_path):
    reward = load_reward("tiny-reward")
    embed = features_for(reward)
    samples = [item.media.sample(item.where, 4) for item in module.read_ratings(
        str(table), ("coin",), None, module.row_class)][:5]
    features = embed(samples)
    assert features.shape == (5, reward.network.backbone.features) and features.isfinite().all()
    inputs = reward.network.collate(samples)
    with torch.no_grad():  # the heads, on these very features, give the network's own output
        heads = reward.network.heads
        x = features[:, None].expand(-1, heads.first.shape[1], -1)
        hidden = torch.nn.functional.gelu(torch.einsum("bdf,edfh->bedh", x, heads.first) + heads.first_bias)
        torch.testing.assert_close(torch.einsum("bedh,edh->bed", hidden, heads.second), reward.network(**inputs))
    done = invoke("tiny-reward", table, "--dimensions", "colour", "-o", tmp_path / "out")
    assert done.exit_code == 0 and f"of {features.shape[1]} features" in done.output, done.output


def test_numbers_of_many_values_are_cut_at_their_median():
    assert in_halves(torch.tensor([3., 1, 2, float("nan")]).numpy()) == ["high", "low", "low", None]
    assert in_classes(["1", "2", "1"]) == ["1", "2", "1"]
    assert in_classes([str(number) for number in range(30)]) == ["low"] * 15 + ["high"] * 15
    names = [f"name {number}" for number in range(30)]
    assert in_classes(names) == names


def test_mistakes_end_in_one_sentence(table, tmp_path, monkeypatch):
    none = invoke("saturation", table, "--dimensions", "colour", "-o", tmp_path / "a")
    assert none.exit_code == 1 and "saturation: has no features to probe" in none.output
    with monkeypatch.context() as without:
        without.setattr(module, "_measured", None)
        lacking = invoke("tiny-clip", table, "--dimensions", "color", "-o", tmp_path / "b")
        assert lacking.exit_code == 1 and "no row has a label in color (did you mean 'colour'?)" in lacking.output
    (tmp_path / "few.jsonl").write_text("".join(table.read_text().splitlines(keepends=True)[:6]).replace(
        '"image": "', f'"image": "{table.parent}/'))
    few = invoke("tiny-clip", tmp_path / "few.jsonl", "--dimensions", "colour", "-o", tmp_path / "c")
    assert few.exit_code == 1 and "there are 0" in few.output
    assert "colour: a probe needs at least 2 labels with samples of at least 5 prompts each" in few.output
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("spec, dimensions", [("tiny-clip", 1), ("tiny-reward", 3)])
def test_centres_make_a_reward_that_is_unsure_of_what_nobody_labelled(spec, dimensions, table, tmp_path):
    file = tmp_path / "centres.safetensors"
    done = invoke(spec, table, "--dimensions", "colour", "--centres", file, "--share", "0.9", "-o", tmp_path / "out")
    assert done.exit_code == 0 and f"kind: familiar, of: {spec}, centres: {file}" in done.output, done.output
    alone, familiar = load_reward(spec), load_reward({"kind": "familiar", "of": spec, "centres": str(file)})
    labelled = [item.media.sample(item.where, 4)
                for item in module.read_ratings(str(table), ("colour",), None, module.row_class)]
    noise = Image.frombytes("RGB", (64, 64), random.Random(1).randbytes(64 * 64 * 3))
    answer, own = (reward.score([*labelled, Sample("a dolphin in the sea", noise)]) for reward in (familiar, alone))
    assert torch.equal(answer.values[:-1].nan_to_num(9), own.values[:-1].nan_to_num(9))
    added = (answer.spread[:, 0].square() - (0 if own.spread is None else own.spread[:, 0].square())).clamp(min=0)
    assert answer.values.shape[1] == dimensions and added[-1] > 1e-4
    assert (added[:-1] < 1e-6).float().mean() >= 0.9
    with pytest.raises(UserError, match="is of .* features|is of a reward with"):
        load_reward({"kind": "familiar", "of": "tiny-reward" if spec == "tiny-clip" else "tiny-clip",
                     "centres": str(file)}).score(labelled[:1])
