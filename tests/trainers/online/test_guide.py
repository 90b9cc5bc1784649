"""Rollouts that follow a latent reward: how far samples are moved, what is said of states, and whole runs."""

import shutil

import pytest
import torch

from tests.families import load_tiny
from visalign.config import GuideHeadSettings, ModelSettings, RolloutSettings
from visalign.config.guide import RolloutGuideSettings
from visalign.errors import UserError
from visalign.guidance import LatentReward, save_guide
from visalign.processes.steps import normal_log_prob
from visalign.trainers.online import sources
from visalign.trainers.online.ahead.source import RolloutsAhead
from visalign.trainers.online.guide import RolloutGuide, Unguided
from visalign.trainers.online.rollout import Sampler, Start
from visalign.trainers.online.step_selection import noisy_steps

from ..commands import UNMEASURED, fails, rows, run, weights
from .test_ahead import Here
from .test_loop import PROCESSES

SETTINGS = RolloutSettings(steps=5, sampler="dance_sde", noise_level=0.25)
PROMPTS = ["a red fruit", "a cat face"]


def linear(generator, slope):
    """R = b.x, the same for every time and prompt."""
    b = slope * torch.randn(generator.latent_shape(), generator=torch.Generator().manual_seed(3))
    return b, lambda x, t, **texts: (x * b).flatten(1).sum(1)[:, None, None]


def guide_of(generator, reward, process=None, keep_moves=True, settings=SETTINGS, **changes):
    chosen = RolloutGuideSettings(source="nowhere", weights={"VQ": 1.0}, **{"scale": 0.5, "first": 1.0, "last": 0.0}
                                  | changes)
    return RolloutGuide(reward, torch.ones(1), generator, chosen, generator.schedule(settings.steps), process,
    keep_moves)


def drawn(generator, guide=None, settings=SETTINGS):
    noisy = noisy_steps(generator.process, generator.schedule(settings.steps), settings)
    starts = [Start(i, prompt, prompt, i, 10 + i) for i, prompt in enumerate(PROMPTS)]
    return Sampler(generator, settings, True, guide).draw(starts, generator.encode_prompts(PROMPTS), None,
                                                          frozenset(noisy), torch.tensor([noisy] * 2))


@pytest.fixture
def generator(pipelines):
    return load_tiny(pipelines("sd3"), "sd3")


def test_a_linear_reward_moves_every_mean_by_kappa_h_b(generator):
    b, reward = linear(generator, 2.0)
    times = generator.schedule(5)
    for sample in drawn(generator, guide_of(generator, reward)):
        for k, j in enumerate(sample.steps.tolist()):
            h = times[j] - times[j + 1]
            torch.testing.assert_close(sample.moves[k], 0.5 * h * b, atol=1e-6, rtol=1e-5)
            std = torch.full((1,), 0.25 * h.sqrt())
            # the stored mean and log-probability are the plain step's, from which the sample was moved away
            assert sample.log_prob[k].item() == pytest.approx(
                normal_log_prob(sample.after[k:k + 1], sample.mean[k:k + 1], std).item(), abs=1e-5)
    plain, moved = drawn(generator), drawn(generator, guide_of(generator, reward))
    for a, b_ in zip(plain, moved, strict=True):
        torch.testing.assert_close(a.mean[0], b_.mean[0], atol=0, rtol=0)
        torch.testing.assert_close(b_.after[0] - a.after[0], b_.moves[0], atol=1e-5, rtol=1e-4)
        assert b_.log_prob[0] != a.log_prob[0]


@pytest.mark.parametrize("reward, scale", [
    (lambda x, t, **texts: (0 * x).flatten(1).sum(1)[:, None, None] + 7, 0.5), (None, 0.0)],
    ids=["constant", "scale 0"])
def test_what_has_no_gradient_or_no_scale_changes_no_bit(generator, reward, scale):
    guide = guide_of(generator, reward or linear(generator, 5.0)[1], scale=scale)
    for a, b in zip(drawn(generator), drawn(generator, guide), strict=True):
        for name in ("latents", "before", "after", "log_prob", "mean"):
            assert torch.equal(getattr(a, name), getattr(b, name))
        assert not b.moves.any()


def test_only_stochastic_steps_within_the_range_are_guided(generator):
    times, (_, reward) = generator.schedule(5), linear(generator, 2.0)
    first, last = times[1].item(), times[3].item()
    settings = SETTINGS.model_copy(update={"clean_steps": 2})
    guide = guide_of(generator, reward, "gain", first=first, last=last)
    for sample in drawn(generator, guide, settings):
        assert sample.steps.tolist() == [0, 1, 2]  # 3 is clean, 4 too
        assert sample.moves.flatten(1).any(1).tolist() == [False, True, True]
        assert sample.values.isnan().any(1).tolist() == [True, False, False]
    with pytest.raises(UserError, match="between first 0.02 and last 0.01 of the noise range no sampling step adds"):
        guide_of(generator, reward, first=0.02, last=0.01).check([0, 1])


@pytest.mark.parametrize("process", ["gain", "dense"])
@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_gains_telescope_to_the_bit(generator, process, scale):
    b, reward = linear(generator, 2.0)
    for sample in drawn(generator, guide_of(generator, reward, process, scale=scale)):
        assert torch.equal(sample.values[1:, 0], sample.values[:-1, 1])
        torch.testing.assert_close(sample.values[-1, 1], (sample.latents * b).sum(), atol=1e-3, rtol=1e-5)
        start = (sample.before[0] * b).sum()
        if process == "gain":
            torch.testing.assert_close(sample.values[0, 0], start, atol=1e-3, rtol=1e-5)
        else:
            assert abs(sample.values[0, 0] - start) > 1e-2
        torch.testing.assert_close((sample.values[:, 1] - sample.values[:, 0]).double().sum(),
                                   (sample.values[-1, 1] - sample.values[0, 0]).double(), atol=1e-3, rtol=1e-4)


def test_dense_asks_of_the_clean_sample_that_is_predicted(generator):
    b, reward = linear(generator, 2.0)
    sample = drawn(generator, guide_of(generator, reward, "dense", scale=0.0))[1]
    t = generator.schedule(5)[2]
    velocity = generator.predict(sample.before[2:3], t[None], generator.encode_prompts(PROMPTS[1:]))
    x0 = sample.before[2] - t * velocity[0]
    torch.testing.assert_close(sample.values[2, 0], (x0 * b).sum(), atol=1e-3, rtol=1e-4)


def test_the_judge_s_time_is_the_state_s_and_of_predicted_samples_that_of_data(generator):
    seen = []

    def reward(x, t, **texts):
        seen.append(t[0].item())
        return x.flatten(1).sum(1)[:, None, None]

    times = [round(t, 4) for t in generator.schedule(5).tolist()]
    drawn(generator, guide_of(generator, reward, "after", scale=0.0))
    assert [round(t, 4) for t in seen[:5]] == times[:5] and seen[5] == pytest.approx(1e-4) and len(seen) == 6
    seen.clear()
    drawn(generator, guide_of(generator, reward, "dense", scale=0.0))
    assert seen == [pytest.approx(1e-4)] * 6
    seen.clear()
    drawn(generator, guide_of(generator, reward, "gain", scale=0.5))
    assert len(seen) == 6  # what gave the gradient gave the value too


def head(generator, **changes):
    torch.manual_seed(1)
    return LatentReward(generator, GuideHeadSettings(**{"dimensions": ("VQ", "MQ"), "blocks": (0,), "width": 16,
                                                        "attention_heads": 2} | changes)).eval().requires_grad_(False)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_guide_reads_the_frozen_model_while_the_policy_learns(generator, tuning):
    reward = head(generator)
    x, t = torch.randn(2, *generator.latent_shape()), torch.tensor([0.5, 0.5])
    texts = generator.encode_prompts(PROMPTS)
    with torch.no_grad():
        before = reward(x, t, **texts).mean(1).sum(1)
    generator.make_trainable(tuning, rank=2, alpha=4) if tuning == "lora" else generator.make_trainable(tuning)
    guide = RolloutGuide(reward, torch.ones(2), generator, RolloutGuideSettings(source="x", weights={"VQ": 1}),
                         generator.schedule(5))
    with torch.no_grad():
        for _, parameter in generator.trainable_parameters():
            parameter.add_(0.3)
        moved = reward(x, t, **texts).mean(1).sum(1)
    assert not torch.allclose(before, moved, atol=1e-3)
    value, gradient = guide.value_and_gradient(x, t, texts)
    torch.testing.assert_close(value, before, atol=1e-5, rtol=1e-5)
    assert gradient.abs().max() > 0 and all(p.grad is None for _, p in generator.trainable_parameters())
    for k in ((0, 0, 1, 1), (1, 2, 3, 0)):  # the gradient is that of R
        near = x.clone()
        near[k] += 1e-2
        assert (guide.value(near, t, texts) - value)[k[0]].item() == pytest.approx(1e-2 * gradient[k].item(), abs=2e-5)


def test_gradient_checkpointing_does_not_change_the_gradient(pipelines):
    found = []
    for saving in (False, True):
        generator = load_tiny(pipelines("sd3"), "sd3")
        generator.make_trainable("lora", rank=2, alpha=4, gradient_checkpointing=saving)
        guide = RolloutGuide(head(generator), torch.ones(2), generator,
                             RolloutGuideSettings(source="x", weights={"VQ": 1}), generator.schedule(5))
        x = torch.randn(2, *generator.latent_shape(), generator=torch.Generator().manual_seed(0))
        found.append(guide.value_and_gradient(x, torch.tensor([0.5, 0.2]), generator.encode_prompts(PROMPTS)))
    torch.testing.assert_close(found[0], found[1])
    assert found[0][1].abs().max() > 0


def test_a_reward_or_a_gradient_that_is_not_finite_ends_the_run(generator):
    with pytest.raises(UserError, match="rollout.guide nowhere: its reward at sampling step 0 is not finite"):
        drawn(generator, guide_of(generator, lambda x, t, **texts: (x.flatten(1).sum(1) * torch.nan)[:, None, None],
                                  "gain", scale=0.0))
    with pytest.raises(UserError, match="rollout.guide nowhere: its gradient at sampling step 0 is not finite"):
        drawn(generator, guide_of(generator, lambda x, t, **texts: (x.flatten(1).sum(1) / 0)[:, None, None]))


@pytest.fixture
def guide_folder(pipelines, tmp_path):
    """A head with drawn weights for the tiny SD3 of `online_recipe`."""
    generator = load_tiny(pipelines("sd3"), "sd3")
    save_guide(tmp_path / "guide", head(generator), ModelSettings(source="x"), {})
    return tmp_path / "guide"


def sections(folder, **more):
    return {"rollout": {"sampler": "dance_sde", "noise_level": 0.3, "same_noise": True, "guide": {
        "source": str(folder), "weights": {"VQ": 1.0, "MQ": -0.5}, "scale": 5.0, "first": 1.0, "last": 0.0}},
        "eval": UNMEASURED} | more


@pytest.mark.parametrize("method, objective, advantage", [
    ("grpo", {}, {"process_weight": 1.0}), ("grpo", {"distil": 0.5, "beta": 0.1}, {}),
    ("grpo", {"distil": 0.1, "step_weight": "noise"}, {"process_weight": 0.5, "process": "dense"}),
    ("grpo_guard", {"distil": 0.1}, {"process_weight": 1.0, "process": "before"}),
    ("flow_dppo", {}, {"process_weight": 1.0, "process": "after"}), ("d3po", {}, {})])
def test_methods_learn_from_guided_samples_with_first_ratios_of_one(online_recipe, tmp_path, guide_folder, method,
                                                                   objective, advantage):
    run(online_recipe("sd3", method, **sections(guide_folder, objective=objective, advantage=advantage)),
        "train.epochs=2")
    first, second = rows(tmp_path / "run")
    assert rows(tmp_path / "run", "self_check")[0]["log_ratio"] < 1e-5
    if method != "d3po":
        assert first["ratio"] == pytest.approx(1, abs=1e-6) and first["clipped_above"] == 0
    assert ("process_loss" in first) == ("guide/gain" in first) == bool(advantage)
    assert ("distil" in first) == ("distil" in objective)
    a, b = weights(tmp_path / "run", 1), weights(tmp_path / "run", 2)
    assert any(not torch.equal(a[name], b[name]) for name in a) and second["bad_updates"] == 0


def test_scale_0_is_the_run_without_a_guide_to_the_bit(online_recipe, tmp_path, guide_folder):
    told = sections(guide_folder)
    run(online_recipe("sd3", "grpo", **told), "train.epochs=2", "rollout.guide=null",
        f"output.folder={tmp_path / 'no'}")
    for scale in (0.0, 5.0):
        run(online_recipe("sd3", "grpo", **told), "train.epochs=2", f"rollout.guide.scale={scale}",
            f"output.folder={tmp_path / str(scale)}")
    none, zero, some = (weights(tmp_path / name, 2) for name in ("no", "0.0", "5.0"))
    assert all(torch.equal(none[name], zero[name]) for name in none)
    assert any(not torch.equal(none[name], some[name]) for name in none)


FULL = {"advantage": {"process_weight": 1.0, "process": "dense"}, "objective": {"distil": 0.1}}


def test_a_continued_run_ends_with_the_same_bits_and_another_guide_is_refused(online_recipe, tmp_path, guide_folder,
                                                                             pipelines):
    file = online_recipe("sd3", "grpo", **sections(guide_folder, **FULL))
    run(file, "train.epochs=4", "output.checkpoint_every=2")
    whole = weights(tmp_path / "run", 4)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    run(file, "train.epochs=4", "--resume")
    assert all(torch.equal(each, weights(tmp_path / "run", 4)[name]) for name, each in whole.items())
    save_guide(guide_folder, head(load_tiny(pipelines("sd3"), "sd3"), members=3), ModelSettings(source="x"), {})
    assert "cannot resume, the data changed since the run began" in fails(file, "train.epochs=5", "--resume")


def test_two_processes_learn_what_one_does(online_recipe, two_processes, tmp_path, guide_folder):
    recipe = online_recipe("sd3", "grpo", **sections(guide_folder, **FULL))
    shape = ["rollout.prompts_per_epoch=4", "train.epochs=2", "rollout.train_choice=random",
             "rollout.train_fraction=0.6"]
    run(recipe, *shape, "rollout.batch_size=4", f"output.folder={tmp_path / 'one'}")
    two_processes(PROCESSES, recipe, *shape, "rollout.batch_size=2", f"output.folder={tmp_path / 'two'}")
    for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert a["guide/gain"] == pytest.approx(b["guide/gain"], rel=1e-3)
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
    first, second = weights(tmp_path / "one", 2), weights(tmp_path / "two", 2)
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-4, rtol=1e-2)


def test_workers_follow_the_guide_as_the_learner_would(online_recipe, tmp_path, guide_folder, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "ray", lambda parts: RolloutsAhead(parts, Here(parts.config)))
    file = online_recipe("sd3", "grpo", **sections(guide_folder, **FULL))
    run(file, "train.epochs=2", f"output.folder={tmp_path / 'alone'}")
    run(file, "--rollouts", "ray", "train.epochs=2", "rollout.ray.actors=1")
    alone, apart = weights(tmp_path / "alone", 2), weights(tmp_path / "run", 2)
    assert all(torch.equal(alone[name], apart[name]) for name in alone)


@pytest.mark.parametrize("told, words", [
    (["rollout.guide.weights={VG: 1}"], "guide: there is no dimension 'VG'"),
    (["rollout.guide.weights={VQ: 0}"], "rollout.guide.weights are all 0"),
    (["rollout.guide.first=0.2", "rollout.guide.last=0.5"], "rollout.guide.last 0.5: must be below rollout.guide"),
    (["rollout.guide.source=nothing"], "not a guide's folder"),
    (["rollout.guide.first=0.02", "rollout.guide.last=0.01"], "no sampling step adds noise"),
    (["rollout.guide=null", "advantage.process_weight=1"], "advantage.process_weight 1: is learnt from what a guide"),
    (["rollout.guide=null", "objective.distil=0.1"], "objective.distil 0.1: is learnt from what a guide says"),
    (["rollout.guide.scale=0", "objective.distil=0.1"], "rollout.guide.scale 0 moves nothing that could be learnt"),
    (["objective={name: nft}", "rollout.sampler=ode", "rollout.same_noise=false"],
     "from which objective.name nft does not learn"),
    (["objective={name: d3po}", "advantage.process_weight=1"], "objective.name d3po compares whole samples"),
    (["rollout.tail={ratio: 0.4}", "rollout.window={schedule: progressive, size: 1}"], "neither rollout.tail nor"),
    (["model.compile=true"], "which model.compile True does not give"),
    (["advantage.process=gains"], "advantage.process is 'gains'")])
def test_what_cannot_be_followed_is_refused(online_recipe, guide_folder, told, words):
    assert words in fails(online_recipe("sd3", "grpo", **sections(guide_folder)), *told)


def test_a_guide_that_does_not_fit_the_model_is_refused_before_sampling(online_recipe, guide_folder, pipelines,
                                                                       monkeypatch):
    monkeypatch.setattr(Sampler, "draw", lambda *arguments: pytest.fail("sampled"))
    refused = fails(online_recipe("flux", "grpo", **sections(guide_folder)))
    assert "was trained inside StableDiffusion3Pipeline, and" in refused and "is FluxPipeline" in refused
    wider = head(load_tiny(pipelines("sd3"), "sd3"), width=32)
    save_guide(guide_folder, wider, ModelSettings(source="x"), {})
    text = (guide_folder / "guide.json").read_text()
    (guide_folder / "guide.json").write_text(text.replace('"width": 32', '"width": 16'))
    assert "does not fit StableDiffusion3Pipeline as loaded here" in fails(
        online_recipe("sd3", "grpo", **sections(guide_folder)))


def test_nobody_is_followed_without_a_guide(generator):
    assert Sampler(generator, SETTINGS, False).guide.networks() == [] and isinstance(
        Sampler(generator, SETTINGS, False).guide, Unguided)
