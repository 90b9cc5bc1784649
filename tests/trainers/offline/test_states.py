"""Where an offline step's noised latents come from: today's states, and what others may do."""

import shutil

import pytest
import torch

from tests.trainers.commands import rows, run, weights
from visalign.objectives import REGISTRIES
from visalign.objectives.dpo import FlowDPO
from visalign.trainers.offline import states as module
from visalign.trainers.offline.noised import Noised, NoisedStates, sample_errors
from visalign.trainers.offline.states import STATES
from visalign.trainers.snapshots import Snapshots


class Split(NoisedStates):
    """The two samples of a pair in passes of their own, each with half its weight, twice."""

    def draw(self, batch, t, noise, rngs):
        [both] = super().draw(batch, t, noise, rngs)
        parts = zip(both.x_t.chunk(2), both.t.chunk(2), both.target.chunk(2), ("chosen", "rejected"), strict=True)
        return [Noised(x_t, times, target, (side,), 0.5) for x_t, times, target, side in parts for _ in range(2)]


class EarlierSelves(NoisedStates):
    """A state of its own in every checkpoint, and randomness beyond times and noise: the reference is one of the last
    three policies, and what is seen is shaken."""

    def __init__(self, *context):
        super().__init__(*context)
        self.selves = self.extras["selves"] = Snapshots([p for _, p in self.generator.trainable_parameters()], keep=3)
        self.selves.take(0)

    def draw(self, batch, t, noise, rngs):
        self.drawn = self.selves.draw(rngs[0])[1]
        [both] = super().draw(batch, t, noise, rngs)
        shaken = torch.stack([torch.randn(noise.shape[1:], generator=rng) for rng in rngs]).repeat(2, 1, 1, 1)
        return [Noised(both.x_t + 0.1 * shaken, both.t, both.target, both.sides)]

    def reference(self):
        return self.drawn.active()

    def after_step(self, step):
        self.selves.take(step)


@pytest.fixture
def states(monkeypatch):
    """Puts states in the place of Flow-DPO's."""
    def use(kind):
        monkeypatch.setitem(module.STATES, "toy", kind)
        monkeypatch.setattr(FlowDPO, "states", "toy")

    return use


def test_every_objective_names_states_there_are():
    assert {objective.states for objective in REGISTRIES["offline"].values()} <= STATES.keys()


def test_errors_are_summed_by_side_and_weight():
    class Half:
        def predict(self, x_t, t, conditioning):
            assert len(conditioning["text"]) == len(x_t)
            return x_t / 2

    one, zero = torch.ones(2, 3), torch.zeros(2, 3)
    found = sample_errors(Half(), [
        Noised(torch.cat([2 * one, 4 * one]), torch.ones(4), torch.zeros(4, 3), ("chosen", "rejected")),
        Noised(6 * one, torch.ones(2), zero, ("chosen",), torch.tensor([0.5, 2.0]))],
        dict.fromkeys(("chosen", "rejected"), {"text": torch.zeros(2, 7)}))
    assert found["chosen"].tolist() == [1 + 0.5 * 9, 1 + 2 * 9] and found["rejected"].tolist() == [4, 4]


def test_states_in_passes_of_their_own_teach_the_same(recipe, states, tmp_path):
    unmeasured = {"eval": {"reward": None, "features": None, "max_prompts": 1, "samples_per_prompt": 1},
                  "train": {"steps": 2}}
    run(recipe("sd3", output={"folder": str(tmp_path / "together")}, **unmeasured))
    states(Split)
    run(recipe("sd3", output={"folder": str(tmp_path / "apart")}, **unmeasured))
    a, b = weights(tmp_path / "together", 2), weights(tmp_path / "apart", 2)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-5, rtol=1e-3)


def test_states_with_a_past_and_chance_of_their_own_continue_to_the_same_bits(recipe, states, tmp_path):
    states(EarlierSelves)
    options = {"train": {"steps": 4}, "model": {"lora": {"rank": 2, "alpha": 4, "dropout": 0.2}},
               "eval": {"reward": None, "features": None, "max_prompts": 1, "samples_per_prompt": 1}}
    whole = recipe("sd3", name="whole.yaml", output={"folder": str(tmp_path / "whole"), "checkpoint_every": 0},
                   **options)
    run(whole)
    cut = recipe("sd3", name="cut.yaml", output={"folder": str(tmp_path / "cut")}, **options)
    run(cut)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000004")
    run(cut, "--resume")
    assert rows(tmp_path / "cut")[0]["loss"] != rows(tmp_path / "cut")[1]["loss"]
    a, b = weights(tmp_path / "whole", 4), weights(tmp_path / "cut", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)
    kept = [torch.load(tmp_path / name / "checkpoints" / "step-00000004" / "optimizer.pt", weights_only=True)
            ["extras"]["selves"]["taken"] for name in ("whole", "cut")]
    assert list(kept[0]) == list(kept[1]) == [2, 3, 4]
    for number in kept[0]:
        assert all(map(torch.equal, kept[0][number]["values"], kept[1][number]["values"]))
