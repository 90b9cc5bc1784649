"""Samples that grow as trees: what is drawn once, what their steps' noise is, and whole runs."""

import shutil

import pytest
import torch

from tests.families import load_tiny
from visalign.config import RolloutSettings, WindowSettings
from visalign.config.online import TrunkSettings
from visalign.processes.steps import normal_log_prob
from visalign.sampling.drawn_rows import DrawnRows
from visalign.trainers.online import sources
from visalign.trainers.online.ahead.source import RolloutsAhead
from visalign.trainers.online.rollout import Sampler, Start
from visalign.trainers.online.step_selection import noisy_steps, plan_steps
from visalign.trainers.online.tail import steps_to_draw
from visalign.trainers.online.trunks import Trunks, noise_scale, splits_before

from ..commands import UNMEASURED, fails, rows, run, weights
from .test_ahead import Here
from .test_loop import PROCESSES

PAPER = RolloutSettings(steps=20, sampler="dance_sde", noise_level=0.3, group_size=16,
                        branches=TrunkSettings(steps=(0, 3, 6, 9)))
SMALL = RolloutSettings(steps=5, sampler="dance_sde", noise_level=0.3, group_size=4,
                        branches=TrunkSettings(steps=(1, 3), noise=4.0))


def test_the_paper_s_tree_takes_13_6_passes_a_sample_in_place_of_20():
    steps = torch.arange(20)
    assert splits_before(PAPER, steps).tolist() == [1] * 3 + [2] * 3 + [3] * 3 + [4] * 11
    assert sum(2**splits_before(PAPER, steps)).item() / 16 == 13.625  # 2 x 3 + 4 x 3 + 8 x 3 + 16 x 11 = 218
    assert steps_to_draw(PAPER) == 14 and steps_to_draw(PAPER.model_copy(update={"branches": None})) == 20
    assert PAPER.leaves == 16 and RolloutSettings().leaves == 1


def test_who_stands_for_whom():
    trunks = Trunks(["a"] * 4 + ["b"] * 4, SMALL, alone=0)
    assert trunks.owners(0) == [0, 0, 0, 0, 4, 4, 4, 4]
    assert trunks.owners(1) == trunks.owners(2) == [0, 0, 2, 2, 4, 4, 6, 6] and trunks.owners(3) == list(range(8))
    twins = Trunks(["a", "b", "a"], RolloutSettings(), alone=2)
    assert [twins.owners(j) for j in range(3)] == [[0, 1, 0], [0, 1, 0], [0, 1, 2]]
    some = DrawnRows([0, 0, 2, 2])
    assert some.whole(torch.tensor([7, 9])).tolist() == [7, 7, 9, 9] and some.only(torch.arange(4)).tolist() == [0, 2]


def test_noise_is_wider_where_a_trunk_divides_and_nowhere_else():
    assert noise_scale(SMALL, torch.arange(5)).tolist() == [1, 4, 1, 4, 1]
    assert noise_scale(RolloutSettings(), torch.arange(3)).tolist() == [1, 1, 1]


@pytest.fixture
def generator(pipelines):
    return load_tiny(pipelines("sd3"), "sd3")


def drawn(generator, settings, count=8):
    noisy = noisy_steps(generator.process, generator.schedule(settings.steps), settings)
    starts = [Start(i, f"a {('red', 'blue')[i // 4]} fruit", str(i // 4), i // 4, 10 + i) for i in range(count)]
    generator.passes.clear()
    return Sampler(generator, settings, True).draw(starts, generator.encode_prompts([s.prompt for s in starts]), None,
                                                   frozenset(noisy), torch.tensor([noisy] * count))


def test_a_tree_shares_its_trunk_and_is_drawn_in_fewer_passes(generator):
    samples = drawn(generator, SMALL)
    assert generator.passes["without gradient"] == 2 * (1 + 2 + 2 + 4 + 4)  # 26, where 40 are needed apart
    for j, leaves in enumerate((4, 2, 2, 1, 1)):
        for i in range(8):
            node = i - i % leaves
            for name in ("before", "after", "mean", "log_prob"):
                assert torch.equal(getattr(samples[i], name)[j], getattr(samples[node], name)[j])
    for j, (first, second) in ((1, (0, 2)), (3, (0, 1))):  # children set out from one state, and part
        assert torch.equal(samples[first].before[j], samples[second].before[j])
        assert not torch.allclose(samples[first].after[j], samples[second].after[j])
    assert len({each.latents.sum().item() for each in samples}) == 8
    for each in samples:
        torch.testing.assert_close(each.after[:-1], each.before[1:])


def test_a_tree_does_not_depend_on_what_it_is_drawn_with(generator):
    together, alone = drawn(generator, SMALL), drawn(generator, SMALL, count=4)
    for a, b in zip(together, alone, strict=False):
        torch.testing.assert_close(a.latents, b.latents, atol=1e-5, rtol=1e-4)


def test_the_log_probability_is_that_of_the_wider_noise(generator):
    times = generator.schedule(5)
    narrow = drawn(generator, SMALL.model_copy(update={"branches": TrunkSettings(steps=(1, 3), noise=1.0)}))
    for a, b in zip(drawn(generator, SMALL), narrow, strict=True):
        for j in (0, 1, 2, 3, 4):
            std = 0.3 * (times[j] - times[j + 1]).sqrt() * (4 if j in (1, 3) else 1)
            expected = normal_log_prob(a.after[j:j + 1], a.mean[j:j + 1], std[None])
            torch.testing.assert_close(a.log_prob[j:j + 1], expected, atol=1e-5, rtol=1e-5)
        # the same draw, four times as wide, around the same mean
        torch.testing.assert_close(a.mean[1], b.mean[1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(a.after[1] - a.mean[1], 4 * (b.after[1] - b.mean[1]), atol=1e-4, rtol=1e-3)


def test_depths_are_pruned_by_a_window_while_all_steps_stay_stochastic():
    branches = TrunkSettings(steps=(1, 3), trained=WindowSettings(size=2, schedule="progressive", iterations=1))
    settings = SMALL.model_copy(update={"branches": branches})
    plans = [plan_steps(settings, [0, 1, 2, 3, 4], epoch, 0, [0, 1]) for epoch in range(5)]
    assert all(plan.stochastic == {0, 1, 2, 3, 4} for plan in plans)
    assert [plan.trained[0].tolist() for plan in plans] == [[0, 1], [1, 2], [2, 3], [3, 4], [0, 1]]


def sections(**more):
    return {"rollout": {"sampler": "dance_sde", "noise_level": 0.3, "branches": {"steps": [0, 2]}},
            "eval": UNMEASURED} | more


WINDOW = {"size": 2, "schedule": "progressive", "iterations": 1}


@pytest.mark.parametrize("method, told", [
    ("grpo", []), ("grpo", ["rollout.branches.steps=[1]", "rollout.same_noise=true", "objective.beta=0.1"]),
    ("grpo", ["objective.best_of=2", f"rollout.branches.trained={WINDOW}"]),
    ("grpo_guard", ["rollout.guidance_scale=2"]),
    ("flow_dppo", ["rollout.clean_steps=1"]), ("grpo", ["objective.step_weight=noise", "train.updates_per_epoch=2"])])
def test_methods_learn_from_edges_with_first_ratios_of_one(online_recipe, tmp_path, method, told):
    run(online_recipe("sd3", method, **sections()), "train.epochs=2", *told)
    first, second = rows(tmp_path / "run")
    assert rows(tmp_path / "run", "self_check")[0]["log_ratio"] < 1e-5
    if "train.updates_per_epoch=2" not in told:
        assert first["ratio"] == pytest.approx(1, abs=1e-6)
    a, b = weights(tmp_path / "run", 1), weights(tmp_path / "run", 2)
    assert any(not torch.equal(a[name], b[name]) for name in a) and second["bad_updates"] == 0
    if told == []:  # 2 prompts: 2 + 2 + 4 + 4 rows where 16 are drawn apart
        passes = first["passes/without gradient"]
        assert passes - 4 * 3 == 2 * 12  # the self-check passes the three trained steps of the first micro-batch again


def test_what_a_step_learns_from_is_its_edge_s_advantage(online_recipe, tmp_path, monkeypatch):
    from visalign.objectives.branches import edge_advantages
    from visalign.trainers.online.views import StepView

    seen, build = {}, StepView.build

    def built(view, batch, term):
        terms, steps = build(view, batch, term)
        seen.update({(s.start.place, int(step)): a for s, step, a in zip(batch.samples, steps, terms.advantage.tolist(),
                                                                         strict=True)})
        return terms, steps

    monkeypatch.setattr(StepView, "build", built)
    from visalign.trainers.online.crediting import Crediting

    kept, plain = {}, Crediting.advantages
    monkeypatch.setattr(Crediting, "advantages", lambda self, epoch, collected, said: kept.update(
        rewards=collected.rewards[:, 0]) or plain(self, epoch, collected, said))
    run(online_recipe("sd3", "grpo", **sections()), "train.epochs=1")
    expected = edge_advantages(kept["rewards"], 4, 2, 1e-4, 5.0)
    assert len(seen) == 8 * 3
    for (place, step), advantage in seen.items():
        assert advantage == pytest.approx(expected[place, 1 if step < 2 else 2].item(), abs=1e-5)


def test_a_continued_run_ends_with_the_same_bits(online_recipe, tmp_path):
    file = online_recipe("sd3", "grpo", **sections())
    run(file, "train.epochs=4", "output.checkpoint_every=2", f"rollout.branches.trained={WINDOW}")
    whole = weights(tmp_path / "run", 4)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    run(file, "train.epochs=4", f"rollout.branches.trained={WINDOW}", "--resume")
    assert all(torch.equal(each, weights(tmp_path / "run", 4)[name]) for name, each in whole.items())


def test_two_processes_learn_what_one_does(online_recipe, two_processes, tmp_path):
    recipe = online_recipe("sd3", "grpo", **sections())
    shape = ["rollout.prompts_per_epoch=4", "train.epochs=2"]
    run(recipe, *shape, "rollout.batch_size=8", f"output.folder={tmp_path / 'one'}")
    two_processes(PROCESSES, recipe, *shape, "rollout.batch_size=4", f"output.folder={tmp_path / 'two'}")
    for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert a["reward"] == pytest.approx(b["reward"], rel=1e-4) and a["loss"] == pytest.approx(b["loss"], abs=1e-5)
    first, second = weights(tmp_path / "one", 2), weights(tmp_path / "two", 2)
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-4, rtol=1e-2)


def test_workers_grow_the_same_trees(online_recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "ray", lambda parts: RolloutsAhead(parts, Here(parts.config)))
    file = online_recipe("sd3", "grpo", **sections())
    run(file, "train.epochs=2", f"output.folder={tmp_path / 'alone'}")
    run(file, "--rollouts", "ray", "train.epochs=2", "rollout.ray.actors=1")
    alone, apart = weights(tmp_path / "alone", 2), weights(tmp_path / "run", 2)
    assert all(torch.equal(alone[name], apart[name]) for name in alone)
    assert rows(tmp_path / "alone")[-1]["passes/without gradient"] == rows(tmp_path / "run")[-1][
        "passes/without gradient"]


@pytest.mark.parametrize("told, words", [
    (["rollout.branches.steps=[2, 1]"], "rollout.branches.steps [2, 1] must rise"),
    (["rollout.branches.steps=[0, 4]"], "rollout.branches.steps 4: must be below 4"),
    (["rollout.branches.steps=[0, 1, 2]"], "rollout.group_size 4: must be a multiple of 8"),
    (["rollout.batch_size=2"], "rollout.batch_size 2: must be a multiple of 4"),
    (["rollout.window={size: 1}"], "rollout.branches goes without rollout.window"),
    (["rollout.train_choice=random"], "rollout.branches goes without rollout.train_choice random"),
    (["rollout.branches.trained={size: 9}"], "rollout.branches.trained.size 9 does not fit"),
    (["rollout.sampler=cps", "rollout.noise_level=0.8", "rollout.branches.steps=[0, 3]"],
     "rollout.branches.steps 3: this sampling step adds no noise"),
    (["objective={name: d3po}"], "objective.name d3po takes none"),
    (["advantage.baseline=leave_one_out"], "advantage.baseline leave_one_out: with rollout.branches rewards are")])
def test_what_cannot_grow_is_refused(online_recipe, told, words):
    assert words in fails(online_recipe("sd3", "grpo", **sections()), *told)
