"""Options of pair losses through the loop: labels that move, margins of another reward, soft labels, value terms."""

import json
import math
import shutil

import pytest
import torch

from tests.programs import VISALIGN

from ..commands import UNMEASURED, fails, rows, run, weights


def kept_labels(folder, step=4):
    """Labels by row, as the checkpoint has them."""
    extras = torch.load(folder / "checkpoints" / f"step-{step:08d}" / "optimizer.pt", weights_only=True)["extras"]
    return dict(zip(extras["labels"]["rows"].tolist(), extras["labels"]["labels"].tolist(), strict=True))


MOVING = dict(objective={"beta": 2000.0, "dynamic_labels": 0.3}, eval=UNMEASURED, data={"holdout": 0.0})


def test_labels_move_and_a_continued_run_ends_in_the_same_bits(recipe, tmp_path):
    whole = recipe("sd3", name="whole.yaml", output={"folder": str(tmp_path / "whole")}, **MOVING)
    run(whole)
    cut = recipe("sd3", name="cut.yaml", output={"folder": str(tmp_path / "cut")}, **MOVING)
    run(cut)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000004")
    run(cut, "--resume")
    first, last = kept_labels(tmp_path / "whole", 2), kept_labels(tmp_path / "whole")
    # six pairs, two a step: after two steps four have a label; the untrained model believes 1/2: 0.7 * 1 + 0.3 / 2
    assert len(first) == 4 and len(last) == 6 and list(first.values())[:2] == pytest.approx([0.85, 0.85])
    assert last == kept_labels(tmp_path / "cut")
    a, b = weights(tmp_path / "whole", 4), weights(tmp_path / "cut", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_learnt_share_of_flips_moves_and_a_continued_run_ends_in_the_same_bits(recipe, two_processes, tmp_path):
    learning = MOVING | {"objective": {"beta": 2000.0, "forward_rate": "learn"}}
    for name in ("whole", "cut"):
        run(recipe("sd3", name=f"{name}.yaml", output={"folder": str(tmp_path / name)}, train={"batch_size": 2},
                   **learning))
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000004")
    run(tmp_path / "cut.yaml", "--resume")
    shares = [row["forward_rate"] for row in rows(tmp_path / "whole")]
    assert shares[0] == pytest.approx(0.1) != shares[1] != shares[2]  # z = 0 at the start says nothing of flips
    assert shares[-1] == rows(tmp_path / "cut")[-1]["forward_rate"]
    a, b = weights(tmp_path / "whole", 4), weights(tmp_path / "cut", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)
    two = recipe("sd3", name="two.yaml", output={"folder": str(tmp_path / "two")}, train={"batch_size": 1}, **learning)
    two_processes(VISALIGN, "train", two)
    assert [row["forward_rate"] for row in rows(tmp_path / "two")] == pytest.approx(shares, rel=1e-4)


def test_labels_soften_the_loss_at_the_second_visit(recipe, tmp_path):
    # all six pairs a step: at the first every label is 1 and z = 0, at the second 0.85
    options = MOVING | {"objective": {"beta": 2000.0}, "train": {"steps": 2, "batch_size": 6}}
    losses = {}
    for name, objective in (("certain", {}), ("moving", {"dynamic_labels": 0.3})):
        run(recipe("sd3", output={"folder": str(tmp_path / name)}, **options | {
            "objective": options["objective"] | objective}))
        losses[name] = [(row["loss"], row["margin"]) for row in rows(tmp_path / name)]
    assert losses["moving"][0] == losses["certain"][0]
    assert losses["certain"][0][0] == pytest.approx(math.log(2), abs=1e-5)
    (certain, z), (moving, same) = losses["certain"][1], losses["moving"][1]
    assert same == z != 0 and moving == pytest.approx(certain + 0.15 * z, rel=1e-4)  # l(-z) = l(z) + z


def test_two_processes_keep_one_table(recipe, two_processes, tmp_path):
    one = recipe("sd3", name="one.yaml", output={"folder": str(tmp_path / "one")}, train={"batch_size": 2}, **MOVING)
    run(one)
    two = recipe("sd3", name="two.yaml", output={"folder": str(tmp_path / "two")}, train={"batch_size": 1}, **MOVING)
    two_processes(VISALIGN, "train", two)
    mine, theirs = kept_labels(tmp_path / "one"), kept_labels(tmp_path / "two")
    assert list(mine) == list(theirs) and list(mine.values()) == pytest.approx(list(theirs.values()), rel=1e-3)


def test_a_margin_of_another_reward(recipe, tmp_path):
    # z = 0 at the start: log(1 + e^x), x = 0.25 / 0.75 * (1 + i - 0.1) / std of 1 ... 6 and six times 0.1
    run(recipe("sd3", objective={"margin_of": {"reward": 0.25}}, train={"steps": 1, "batch_size": 6},
               data={"holdout": 0.0}, eval=UNMEASURED))
    std = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0] + [0.1] * 6).std().item()
    expected = sum(math.log(1 + math.exp((0.9 + i) / 3 / std)) for i in range(6)) / 6
    assert rows(tmp_path / "run")[0]["loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("data, named, known", [
    ({}, "contrast", "reward"), ({"score_with": "contrast"}, "reward", "contrast"),
    ({"score_with": {"kind": "contrast"}}, "contrast", "reward")])
def test_a_margin_of_a_reward_that_the_pairs_lack_is_refused(recipe, data, named, known):
    message = fails(recipe("sd3", objective={"margin_of": {named: 0.25}}, data=data))
    assert f"margin_of names {named}, but the reward that the pairs carry is {known}" in message


def test_a_margin_needs_rewards_and_only_one(recipe, pairs_file):
    assert "margin_of names 2 rewards" in fails(recipe("sd3", objective={"margin_of": {"reward": 0.1, "jpeg": 0.1}}))
    lines = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    pairs_file.write_text("\n".join(json.dumps({k: row[k] for k in ("prompt", "chosen", "rejected")}) for row in lines))
    assert "this objective needs rewards" in fails(recipe("sd3", objective={"margin_of": {"reward": 0.25}}))


def test_soft_labels_come_from_the_strength(recipe, pairs_file, tmp_path):
    lines = [json.loads(line) for line in pairs_file.read_text().splitlines()]

    def ended(name, column, **objective):
        pairs_file.write_text("\n".join(json.dumps(row | column) for row in lines))
        run(recipe("sd3", output={"folder": str(tmp_path / name)}, eval=UNMEASURED, train={"steps": 2},
                   objective=objective))
        return weights(tmp_path / name, 2)

    soft = ended("soft", {"strength": 1.0}, soft_labels=0.5)
    chance = ended("chance", {"chance": 1 / (1 + math.exp(-2))})  # s(1 / 0.5)
    plain = ended("plain", {})
    for name in soft:
        torch.testing.assert_close(soft[name], chance[name], atol=1e-6, rtol=1e-4)
    assert not all(torch.equal(plain[name], soft[name]) for name in soft)


def test_a_value_term_lowers_or_raises_the_error_of_the_chosen_sample(recipe, tmp_path):
    moved = {}
    for value in ("none", "pessimistic", "optimistic"):
        weight = {} if value == "none" else {"value_weight": 0.5}
        run(recipe("sd3", output={"folder": str(tmp_path / value)}, eval=UNMEASURED, train={"steps": 2},
                   objective={"value": value} | weight))
        first, second = rows(tmp_path / value)
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)  # rho is 0 at the start
        moved[value] = second["chosen_error_minus_ref"]
    assert moved["pessimistic"] < moved["none"] < moved["optimistic"]
