"""DDIM-InPO in the offline loop: pairs at the latents that the policy itself would pass through."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from tests.trainers.commands import UNMEASURED, WITHOUT_GRADIENT, fails, rows, run, weights
from visalign.config import ModelSettings
from visalign.config.load import build_objective, load_config
from visalign.generators import load_generator
from visalign.processes import Diffusion, Flow
from visalign.trainers.cost import passes_of_step
from visalign.trainers.guard import interval_of
from visalign.trainers.offline import states as module
from visalign.trainers.offline.encoded_pairs import EncodedPair, PairBatch, standardised
from visalign.trainers.offline.states import InvertedStates

FEW = {"inversion_steps": 3}


@pytest.mark.parametrize("model, method", [("sdxl", "inpo"), ("sd15-v", "inpo"), ("sd3", "flow_inpo")])
def test_it_trains_every_weight_from_log_two(recipe, tmp_path, model, method):
    run(recipe(model, method, objective={"name": method} | FEW))
    folder = tmp_path / "run"
    first, last = weights(folder, 2), weights(folder, 4)
    assert {name for name in first if torch.equal(first[name], last[name])} <= WITHOUT_GRADIENT
    trained = rows(folder)
    assert len(trained) == 4 and trained[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    assert all(torch.tensor(row["loss"]).isfinite() for row in trained)
    assert "held_out/implicit_accuracy" in rows(folder, "held_out")[1]
    assert any(name.startswith("entanglement") or "gradient" in name for name in rows(folder, "held_out")[1])


@pytest.mark.parametrize("model, method, plain", [("sdxl", "inpo", "diffusion_dpo"),
                                                  ("sd3", "flow_inpo", "flow_dpo")])
def test_with_noise_in_the_place_of_inversion_it_is_dpo_to_the_bit(recipe, tmp_path, monkeypatch, model, method,
                                                                   plain):
    run(recipe(model, plain, name="plain.yaml", output={"folder": str(tmp_path / "plain")},
               objective={"name": plain, "beta": 2000}, eval=UNMEASURED))
    drawn = {}

    class Noise(InvertedStates):
        def draw(self, batch, t, noise, rngs):
            drawn["noise"] = torch.cat([noise, noise])
            return super().draw(batch, t, noise, rngs)

    def noised(generator, x0, t, *others):
        return generator.process.add_noise(x0, drawn["noise"], t)

    monkeypatch.setitem(module.STATES, "inverted", Noise)
    monkeypatch.setattr(module, "inverted", noised)
    for process in (Diffusion, Flow):
        monkeypatch.setattr(process, "target_at", lambda self, x0, x_t, t: self.target(x0, drawn["noise"], t))
    run(recipe(model, method, objective={"name": method, "inversion_steps": 1}, eval=UNMEASURED))
    a, b = weights(tmp_path / "plain", 4), weights(tmp_path / "run", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)
    for mine, theirs in zip(rows(tmp_path / "plain"), rows(tmp_path / "run"), strict=True):
        assert mine["loss"] == theirs["loss"]


@pytest.mark.parametrize("model, method", [("sdxl", "inpo"), ("sd3", "flow_inpo")])
def test_a_run_that_was_cut_continues_to_the_same_bits(recipe, tmp_path, model, method):
    options = {"objective": {"name": method} | FEW, "eval": UNMEASURED,
               "model": {"lora": {"rank": 2, "alpha": 4, "dropout": 0.2}}}
    run(recipe(model, method, name="whole.yaml", output={"folder": str(tmp_path / "whole"), "checkpoint_every": 0},
               **options))
    cut = recipe(model, method, name="cut.yaml", output={"folder": str(tmp_path / "cut")}, **options)
    run(cut)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000004")
    run(cut, "--resume")
    a, b = weights(tmp_path / "whole", 4), weights(tmp_path / "cut", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_one_side_at_a_time_teaches_the_same(recipe, tmp_path):
    for name, apart in (("together", False), ("apart", True)):
        run(recipe("sd3", "flow_inpo", name=f"{name}.yaml", output={"folder": str(tmp_path / name)}, eval=UNMEASURED,
                   objective={"name": "flow_inpo"} | FEW, train={"one_side_at_a_time": apart, "steps": 2}))
    a, b = weights(tmp_path / "together", 2), weights(tmp_path / "apart", 2)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("options", [
    {"objective": {"renoise": True}}, {"objective": {"inversion_noise": 0.0}},
    {"train": {"gradient_accumulation": 2}, "data": {"caption_dropout": 0.5}},
    {"model": {"gradient_checkpointing": True, "precision": "bf16"}},
    {"model": {"tuning": "full", "offload": "blocks"}, "objective": {"weighting": "derived"}}])
def test_options_train(recipe, tmp_path, options):
    run(recipe("sd3", "flow_inpo", **{"eval": UNMEASURED, "train": {"steps": 2}} | options | {
        "objective": {"name": "flow_inpo"} | FEW | options.get("objective", {})}))
    assert all(torch.tensor(row["loss"]).isfinite() for row in rows(tmp_path / "run"))


def test_labels_smoothed_by_a_reward(recipe, pairs_file, tmp_path):
    smooth = {"name": "flow_inpo", "smooth": "reward"} | FEW
    run(recipe("sd3", "flow_inpo", objective=smooth, eval=UNMEASURED))
    assert all(torch.tensor(row["loss"]).isfinite() for row in rows(tmp_path / "run"))
    lines = [json.loads(line) for line in pairs_file.read_text().splitlines()]
    pairs_file.write_text("\n".join(json.dumps({name: row[name] for name in ("prompt", "chosen", "rejected")})
                                    for row in lines))
    assert "data.score_with" in fails(recipe("sd3", "flow_inpo", objective=smooth, output={
        "folder": str(tmp_path / "without")}))


def test_rewards_of_a_range_run_from_0_to_1_over_the_set():
    pairs = [EncodedPair("a", "a", "1", "2", "here", 1.0, chosen, rejected)
             for chosen, rejected in ((3.0, 1.0), (2.0, 5.0))]
    found = standardised(pairs, "range")
    assert [(each.chosen_reward, each.rejected_reward) for each in found] == [(0.5, 0.0), (0.25, 1.0)]
    same = standardised([replace(pairs[0], rejected_reward=3.0)], "range")
    assert (same[0].chosen_reward, same[0].rejected_reward) == (0, 0)


def test_two_processes_equal_one_with_twice_the_batch(recipe, two_processes, tmp_path):
    from tests.programs import VISALIGN

    options = {"objective": {"name": "flow_inpo"} | FEW, "eval": UNMEASURED}
    run(recipe("sd3", "flow_inpo", name="one.yaml", output={"folder": str(tmp_path / "one")},
               train={"batch_size": 2, "steps": 2}, **options))
    two_processes(VISALIGN, "train", recipe(
        "sd3", "flow_inpo", name="two.yaml", output={"folder": str(tmp_path / "two")},
        train={"batch_size": 1, "steps": 2}, data={"cache": str(tmp_path / "cache2")}, **options))
    a, b = weights(tmp_path / "one", 2), weights(tmp_path / "two", 2)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-5, rtol=1e-3)


@pytest.fixture(scope="module")
def generator(pipelines):
    torch.manual_seed(0)
    generator = load_generator(ModelSettings(source=str(pipelines("sdxl")), precision="fp32"), "cpu")
    generator.make_trainable("lora", rank=2, dropout=0.5)
    with torch.no_grad():
        for name, parameter in generator.trainable_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    generator.set_dropout(True)
    return generator


@pytest.fixture(scope="module")
def batch(generator):
    texts, shape = generator.encode_prompts(["a fruit", "a cat", "a hat"]), generator.conventions.shape
    one = torch.ones(3)
    return PairBatch([], torch.randn(3, *shape), torch.randn(3, *shape), texts, one, None, None, one)


def draw(generator, batch, t, places, **settings):
    """The state of some of the pairs, with random numbers of each place's own."""
    objective = build_objective({"name": "inpo"} | settings)
    own = replace(batch, chosen=batch.chosen[places], rejected=batch.rejected[places],
                  conditioning={name: value[places] for name, value in batch.conditioning.items()})
    rngs = [torch.Generator().manual_seed(place) for place in places]
    [state] = InvertedStates(generator, objective, None).draw(own, t[places], torch.zeros_like(own.chosen), rngs)
    return state


def test_pairs_of_mixed_times_are_as_one_by_one(generator, batch):
    t = torch.tensor([900, 300, 41])
    together = draw(generator, batch, t, [0, 1, 2], **FEW)  # more passes of random weights magnify rounding
    assert together.sides == ("chosen", "rejected") and together.t.tolist() == [900, 300, 41] * 2
    for place in range(3):
        alone = draw(generator, batch, t, [place], **FEW)
        for name in ("x_t", "target"):
            torch.testing.assert_close(getattr(alone, name), getattr(together, name)[[place, 3 + place]], atol=1e-4,
                                       rtol=1e-4)


def test_states_are_of_the_policy_without_gradients_without_dropout_and_lead_to_the_samples(generator, batch):
    t = torch.tensor([900, 300, 1])
    before = generator.passes.copy()
    state = draw(generator, batch, t, [0, 1, 2], **FEW)
    assert generator.passes - before == {"without gradient": 3 * 6}
    assert torch.equal(state.x_t, draw(generator, batch, t, [0, 1, 2], **FEW).x_t) and not state.x_t.requires_grad
    assert state.t.tolist() == [900, 300, 2] * 2  # of three steps the network can tell apart
    x0 = torch.cat([batch.chosen, batch.rejected])
    torch.testing.assert_close(generator.process.x0_from(state.target, state.x_t, state.t), x0, atol=1e-4, rtol=1e-4)
    assert not torch.equal(*state.target.chunk(2))
    with generator.reference():
        assert not torch.equal(state.x_t, draw(generator, batch, t, [0, 1, 2], **FEW).x_t)
    assert any(m.training for m in generator.denoiser.modules() if isinstance(m, torch.nn.Dropout))


def test_noise_off_draws_nothing_and_the_two_samples_of_a_pair_have_noise_of_their_own(generator, batch):
    t = torch.tensor([700, 500, 300])
    same = replace(batch, rejected=batch.chosen)
    off = draw(generator, same, t, [0, 1, 2], inversion_noise=0.0, **FEW).x_t.chunk(2)
    torch.testing.assert_close(off[0], off[1], atol=1e-5, rtol=1e-5)
    on = draw(generator, same, t, [0, 1, 2], **FEW).x_t.chunk(2)
    assert (on[0] - on[1]).abs().max() > 0.01 and 0 < (on[0] - off[0]).abs().max() < 0.6


def test_the_guards_interval_counts_passes_of_inversion(recipe):
    config = load_config(recipe("sd3", "flow_inpo", guard={"action": "warn", "samples_per_prompt": 4}))
    objective = build_objective(config.objective)
    # two pairs: 4 samples of 3 + 1 + 10 passes; the look is that of test_guard
    assert passes_of_step(config, objective) == 56 and interval_of(config, objective) == 23  # 62.4 / (0.05 x 56)


def test_what_does_not_go_is_said_before_a_model_is_loaded(recipe):
    message = fails(recipe("sd3", "flow_inpo", objective={"name": "flow_inpo", "inversion_steps": 0}))
    assert "objective.inversion_steps" in message and "1" in message
    assert "unknown key objective.inversion_step" in fails(recipe("sd3", "flow_inpo", objective={
        "name": "flow_inpo", "inversion_step": 3}))
    assert "flow" in fails(recipe("sdxl", "flow_inpo"))


def test_a_dry_run_says_how_many_passes_lead_to_the_states(recipe):
    output = run(recipe("sd3", "flow_inpo", objective={"name": "flow_inpo", "renoise": True}), "--dry-run").output
    assert "reference without gradient, 11 more without gradient" in output
