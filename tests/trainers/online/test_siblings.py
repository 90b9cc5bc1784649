"""Siblings of a step: which are stored, which goes on, and a run that learns from them by the command line."""

import shutil

import pytest
import torch

from tests.families import load_tiny
from visalign.config import GuideHeadSettings, ModelSettings, RolloutSettings
from visalign.guidance import LatentReward, save_guide
from visalign.objectives.spo import SPO
from visalign.trainers.online.ahead.packing import packed_samples, unpacked_samples
from visalign.trainers.online.guide import RolloutGuide
from visalign.trainers.online.rollout import Sampler, Start
from visalign.trainers.online.sibling_view import SiblingView
from visalign.trainers.online.siblings import SiblingSteps, best_and_worst
from visalign.trainers.online.step_selection import noisy_steps, plan_steps
from visalign.trainers.online.views import LOG_PROBS, Context, MicroBatch

from ..commands import UNMEASURED, fails, rows, run, weights
from .test_loop import PROCESSES


def test_the_best_is_set_against_the_worst_where_the_gap_is_wide_enough():
    # rewards (0, 2, 1): 2 against 0, s(2) - s(-2) = tanh(1) = .7616; (.1, 0, .2): tanh(.1) = .0997
    candidates = torch.arange(6.0).reshape(3, 2, 1)
    rewards = torch.tensor([[0.0, 0.1], [2.0, 0.0], [1.0, 0.2]])
    pair = best_and_worst(candidates, rewards, 0.3)
    assert pair.best.flatten().tolist() == [2.0, 5.0] and pair.worst.flatten().tolist() == [0.0, 3.0]
    assert pair.decided.tolist() == [True, False]
    assert best_and_worst(candidates, rewards, 0.77).decided.tolist() == [False, False]
    assert best_and_worst(candidates, rewards, 0.0).decided.tolist() == [True, True]


SETTINGS = RolloutSettings(steps=5, sampler="flow_sde", group_size=1, train_fraction=1.0, siblings={"count": 3},
                           guide={"source": "none", "weights": {"a": 1.0}, "scale": 0, "first": 0.95, "last": 0.1})


def drawn(pipelines, settings=SETTINGS, reward=lambda x, t, **texts: x.mean((1, 2, 3))[:, None, None]):
    """Trajectories with siblings with their mean as the reward, and the view of them."""
    generator = load_tiny(pipelines("sd3"), "sd3")
    times = generator.schedule(settings.steps)
    noisy = noisy_steps(generator.process, times, settings)
    guide = RolloutGuide(reward, torch.ones(1), generator, settings.guide, times)
    steps = SiblingSteps(guide, settings.siblings, LOG_PROBS["normal"])
    view = SiblingView(Context(generator, settings, SPO(), None, None, 0), noisy)
    starts = [Start(place, "a red fruit", "key", place, 20 + place) for place in range(2)]
    plan = plan_steps(settings, noisy, 0, 0, [0, 1])
    conditioning = generator.encode_prompts(["a red fruit"] * 2)
    kept = view.kept(plan)
    found = Sampler(generator, settings, False, steps).draw(starts, conditioning, None, plan.stochastic, kept)
    return found, view, MicroBatch(found, torch.zeros(2), conditioning, None, 0)


def test_the_best_and_the_worst_of_each_step_in_range_are_stored(pipelines):
    found, view, _ = drawn(pipelines)
    noise = view.process.noise_fraction(view.times)
    inside = [j for j in range(5) if 0.1 <= noise[j] <= 0.95]
    for sample in found:
        assert sample.steps.tolist() == inside and view.terms == len(inside) >= 2
        gap = torch.tanh((sample.after - sample.other).mean((1, 2, 3)) / 2)
        assert (gap > 0).all() and torch.equal(sample.decided, gap > 0.3)


def test_what_goes_on_does_not_depend_on_the_reward(pipelines):
    liked, _, _ = drawn(pipelines)
    disliked, _, _ = drawn(pipelines, reward=lambda x, t, **texts: -x.mean((1, 2, 3))[:, None, None])
    for a, b in zip(liked, disliked, strict=True):
        assert torch.equal(a.before, b.before) and torch.equal(a.latents, b.latents)
        assert torch.equal(a.after, b.other) and torch.equal(a.other, b.after)


def test_siblings_reach_the_learner_from_another_process_as_they_were_drawn(pipelines):
    found, _, _ = drawn(pipelines)
    again = unpacked_samples(packed_samples(found), tuple(sample.start for sample in found))
    for a, b in zip(found, again, strict=True):
        assert all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("after", "other", "other_log_prob",
                                                                                "decided"))


def test_both_siblings_begin_with_ratio_one(pipelines):
    _, view, batch = drawn(pipelines)
    view.needs = frozenset({"reference"})
    for term in range(view.terms):
        terms, steps = view.build(batch, term)
        assert len(steps) == len(terms.log_prob) == 4
        torch.testing.assert_close(terms.log_prob, terms.old_log_prob, atol=1e-4, rtol=0)
        torch.testing.assert_close(terms.log_prob, terms.ref_log_prob, atol=1e-4, rtol=0)
        decided = torch.stack([sample.decided[term] for sample in batch.samples]).float()
        assert terms.advantage.tolist() == torch.stack([decided, -decided], 1).flatten().tolist()


@pytest.fixture
def guided(pipelines, online_recipe, tmp_path):
    """Writes a recipe of SPO with a guide of random weights for the model."""
    def write(base="sd3", **sections):
        torch.manual_seed(0)
        head = GuideHeadSettings(dimensions=("alignment", "quality"), blocks=(0,), width=16, attention_heads=2)
        generator = load_tiny(pipelines(base), base)
        save_guide(tmp_path / "guide", LatentReward(generator, head), ModelSettings(source="tiny"), {})
        rollout = {"group_size": 1, "prompts_per_epoch": 4, "siblings": {"count": 3, "threshold": 0.0},
                   "guide": {"source": str(tmp_path / "guide"), "weights": {"alignment": 1.0}, "scale": 0,
                             "first": 1.0}}
        return online_recipe(base, "spo", rollout=rollout | sections.pop("rollout", {}), **sections)

    return write


@pytest.mark.parametrize("base, sections", [("sd3", {}), ("sdxl", {"rollout": {"guidance_scale": 3.0}}),
                                            ("sd3", {"model": {"tuning": "full"}})])
def test_siblings_teach_every_weight_and_a_continued_run_ends_with_the_same_bits(guided, tmp_path, base, sections):
    file = guided(base, eval=UNMEASURED, **sections)
    run(file, "train.epochs=3")
    trained, first, last = rows(tmp_path / "run"), weights(tmp_path / "run", 2), weights(tmp_path / "run", 3)
    assert {name for name in first if torch.equal(first[name], last[name]) and "add_" not in name} == set()
    assert trained[0]["decided"] == 1 and trained[0]["loss"] == pytest.approx(0.693147, abs=1e-4)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000003")
    run(file, "train.epochs=3", "--resume")
    again = weights(tmp_path / "run", 3)
    assert all(torch.equal(last[name], again[name]) for name in last)


def test_two_processes_learn_from_siblings_what_one_does(guided, two_processes, tmp_path):
    recipe = guided(eval=UNMEASURED)
    run(recipe, "rollout.batch_size=4", "train.epochs=2", f"output.folder={tmp_path / 'one'}")
    two_processes(PROCESSES, recipe, "rollout.batch_size=2", "train.epochs=2", f"output.folder={tmp_path / 'two'}")
    one, two = weights(tmp_path / "one", 2), weights(tmp_path / "two", 2)
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-4, rtol=1e-2)


@pytest.mark.parametrize("overrides, words", [
    (["rollout.siblings={count: 1}"], "rollout.siblings.count is 1: it must be at least 2"),
    (["rollout.siblings=null"], "objective.name spo: learns from candidates of a step that a guide scores"),
    (["objective={name: grpo}", "rollout.group_size=4"], "grpo: learns nothing from rollout.siblings; use spo"),
    (["rollout.guide=null"], "rollout.siblings are scored by rollout.guide"),
    (["rollout.guide.scale=0.5"], "which moves nothing then: set its source and weights, and scale 0"),
    (["rollout.window={size: 1}"], "leave out rollout.window and train_choice random"),
    (["rollout.guide.weights={aligment: 1}"], "there is no dimension 'aligment' (did you mean 'alignment'"),
    (["rollout.guide.source=nowhere"], "not a guide's folder"),
    (["rollout.sampler=ode"], "adds no noise"),
])
def test_mistakes_end_in_one_sentence(guided, tmp_path, overrides, words):
    said = fails(guided(), *overrides)
    assert words in said
    assert not (tmp_path / "run").exists()


def test_steps_outside_the_guide_s_range_alone_are_refused(guided):
    said = fails(guided(), "rollout.steps=6", "rollout.train_fraction=0.2", "rollout.guide.first=0.6")
    assert "rollout.train_fraction 0.2: no step that it leaves lies in the range of rollout.guide" in said


def test_a_guide_of_another_network_is_refused_before_a_model_is_loaded(guided, pipelines, tmp_path):
    said = fails(guided("sdxl"), f"model.source={pipelines('sd3')}", "rollout.sampler=flow_sde")
    assert "was trained inside StableDiffusionXLPipeline" in said and not (tmp_path / "run").exists()
