"""data.swap: the opposite preference, for a negative adapter (Diffusion-NPO)."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from visalign.config import DataSettings
from visalign.config.load import build_objective
from visalign.data.preferences import read_pairs
from visalign.objectives.base import PairErrors

from ..commands import UNMEASURED, fails, rows, run, weights

SWAP = {"swap": True}


def test_what_belongs_to_a_sample_goes_with_it_and_what_belongs_to_the_pair_stays(pairs_file):
    lines = [json.loads(line) | {"strength": 2.0, "chance": 0.75} for line in pairs_file.read_text().splitlines()]
    pairs_file.write_text("\n".join(map(json.dumps, lines)))
    plain = list(read_pairs(DataSettings(path=str(pairs_file))))
    swapped = list(read_pairs(DataSettings(path=str(pairs_file), swap=True)))
    for before, after in zip(plain, swapped, strict=True):
        assert (after.chosen, after.rejected) == (before.rejected, before.chosen)
        assert (after.chosen_reward, after.rejected_reward) == (before.rejected_reward, before.chosen_reward)
        assert (after.strength, after.chance, after.where) == (2.0, 0.75, before.where)
        assert after.swapped() == before


def test_each_of_several_sources_is_swapped_once(pairs_file):
    twice = ({"path": str(pairs_file)}, {"path": str(pairs_file)})
    found = list(read_pairs(DataSettings(sources=twice, swap=True)))
    plain = list(read_pairs(DataSettings(sources=twice)))
    assert [pair.origin for pair in found] == [0] * 6 + [1] * 6
    assert [pair.chosen for pair in found] == [pair.rejected for pair in plain]


def errors(**changes):
    """Two pairs: h = -(1/2) ((E_w - E_l) - (R_w - R_l)) = 0.05 and -0.1."""
    return replace(PairErrors(
        torch.tensor([0.5, 0.6]), torch.tensor([0.2, 0.7]), torch.tensor([1.0, 2.0]),
        rejected=torch.tensor([0.8, 0.6]), ref_chosen=torch.tensor([0.5, 0.5]), ref_rejected=torch.tensor([0.7, 0.7]),
        chosen_reward=torch.tensor([1.0, 0.3]), rejected_reward=torch.tensor([-0.5, 0.1])), **changes)


def the_other_way_round(given):
    return replace(given, chosen=given.rejected, rejected=given.chosen, ref_chosen=given.ref_rejected,
                   ref_rejected=given.ref_chosen, chosen_reward=given.rejected_reward,
                   rejected_reward=given.chosen_reward)


@pytest.mark.parametrize("name", ["diffusion_dpo", "flow_dpo"])
def test_swapped_pairs_have_the_loss_of_h_negated_and_the_mirrored_accuracy(name):
    """By hand with beta 10: z = 0.5 and -1, and of the swapped pairs -0.5 and 1; -log s(-0.5) = 0.9741 and
    -log s(1) = 0.3133, on average 0.6437; without the swap -log s(0.5) = 0.4741 and -log s(-1) = 1.3133."""
    objective = build_objective({"name": name, "beta": 10.0})
    plain, swapped = objective(errors()), objective(the_other_way_round(errors()))
    assert plain.metrics["margin"].tolist() == pytest.approx([0.5, -1.0], abs=1e-5)
    assert torch.equal(swapped.metrics["margin"], -plain.metrics["margin"])
    assert torch.equal(swapped.metrics["implicit_accuracy"], 1 - plain.metrics["implicit_accuracy"])
    assert float(plain.loss) == pytest.approx((0.474077 + 1.313262) / 2, abs=1e-5)
    assert float(swapped.loss) == pytest.approx((0.974077 + 0.313262) / 2, abs=1e-5)


def test_a_margin_of_another_reward_turns_with_the_pair():
    objective = build_objective({"name": "flow_dpo", "beta": 10.0, "margin_of": {"reward": 0.2}})
    plain, swapped = objective(errors()), objective(the_other_way_round(errors()))
    # (0.5 - 0.2 * 1.5) / 0.8 = 0.25 and (-1 - 0.2 * 0.2) / 0.8 = -1.3
    assert float(plain.loss) == pytest.approx((0.575939 + 1.541008) / 2, abs=1e-5)
    assert float(swapped.loss) == pytest.approx((0.575939 + 0.25 + 1.541008 - 1.3) / 2, abs=1e-5)  # l(-z) = l(z) + z


@pytest.mark.parametrize("model", ["sd3", "sdxl"])
def test_a_run_with_swap_is_a_run_of_pairs_with_exchanged_columns(recipe, pairs_file, tmp_path, model):
    options = {"eval": UNMEASURED, "objective": {"beta": 2000.0}}
    run(recipe(model, data=SWAP, output={"folder": str(tmp_path / "swapped")}, **options))
    other = pairs_file.with_name("by-hand.jsonl")
    turned = {"chosen": "rejected", "rejected": "chosen", "chosen_reward": "rejected_reward",
              "rejected_reward": "chosen_reward"}
    other.write_text("\n".join(json.dumps({turned.get(name, name): value for name, value in json.loads(line).items()})
                               for line in pairs_file.read_text().splitlines()))
    run(recipe(model, data={"path": str(other)}, output={"folder": str(tmp_path / "by-hand")}, **options))
    a, b = weights(tmp_path / "swapped"), weights(tmp_path / "by-hand")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [row["loss"] for row in rows(tmp_path / "swapped")] == [row["loss"] for row in rows(tmp_path / "by-hand")]


def test_a_killed_run_continues_to_the_same_bits_and_not_with_other_pairs(recipe, tmp_path):
    options = {"data": SWAP, "eval": UNMEASURED}
    run(recipe("sd3", output={"folder": str(tmp_path / "whole")}, **options))
    cut = recipe("sd3", output={"folder": str(tmp_path / "cut")}, **options)
    said = run(cut).output
    assert f"--negative-adapter {tmp_path / 'cut'} --steps 2 --guidance-scale 2.0" in said and " --lora " not in said
    assert f"+negative:{tmp_path / 'cut'} --guidance-scale 2.0" in said and "visalign demo plain=" in said
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000004")
    assert "data.swap" in fails(recipe("sd3", name="plain.yaml", output={"folder": str(tmp_path / "cut")},
                                       eval=UNMEASURED), "--resume")
    run(cut, "--resume")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("changes, said", [
    ({"method": "sft"}, "objective sft compares no two samples"),
    ({"method": "flow_rwr"}, "objective flow_rwr learns from each sample's own reward"),
    ({"data": {"feedback": {"prompts": "emoji:train"}, "path": None}}, "data.feedback makes its own"),
    ({"data": {"score_with": "tiny-reward", "rerank": True}}, "data.swap and data.rerank undo each other"),
    ({"data": {"goals": {}}}, "data.swap changes nothing with data.goals"),
    ({"data": {"swap": "both"}}, "data.swap")])
def test_where_a_swap_says_nothing_it_is_refused(recipe, changes, said):
    file = recipe("sd3", changes.get("method"), data=SWAP | changes.get("data", {}))
    assert said in fails(file)
