"""The collapse guard: when it looks, what it does, and that it disturbs nothing."""

from dataclasses import replace

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from visalign.config.load import build_objective, load_config
from visalign.evaluation.held_out import HeldOut
from visalign.evaluators.prompt_metrics import PromptMetrics
from visalign.evaluators.style import STYLE
from visalign.evaluators.watch import Suspicion
from visalign.trainers import guard as module
from visalign.trainers.cost import passes_of_look, passes_of_step
from visalign.trainers.guard import interval_of, points_of
from visalign.trainers.online.watching import GroupWatch

from .commands import fails, rows, run, weights

PROMPTS = [f"prompt {i}" for i in range(12)]


def made_up(extra: float, proxy: float, name: str) -> PromptMetrics:
    values = {f"reward/{name}": [proxy] * 12, "diversity/extra": [extra] * 12}
    values |= {f"style/{each}": [0.5] * 12 for each in STYLE}
    return PromptMetrics(PROMPTS, 4, values, dict.fromkeys(values, 1.0))


@pytest.fixture
def scripted(monkeypatch):
    """Replaces what the guard sees by {step: (diversity, reward)}; other steps see a healthy rise."""
    seen = []
    real = HeldOut.look

    def install(script: dict[int, tuple[float, float]]):
        def look(self, generator, label):
            if not label.startswith("guard, step "):
                return real(self, generator, label)
            number, _, again = label.removeprefix("guard, step ").partition(", seeds ")
            step = int(number)
            seen.extend([] if again else [step])
            short = replace(self, settings=self.settings.model_copy(update={"max_prompts": 1}))
            return made_up(*script.get(step, (1.0, 0.01 * step)), self.proxy), real(short, generator, label)[1]

        monkeypatch.setattr(HeldOut, "look", look)
        return seen

    return install


def test_the_interval_keeps_looking_within_its_share(recipe, online_recipe):
    config = load_config(recipe(guard={"action": "warn", "samples_per_prompt": 4}))
    objective = build_objective(config.objective)
    # two pairs: 4 samples of 3 + 1 passes; a look: 2 prompts x 4 images of 2 steps and 4 for the rest
    assert passes_of_step(config, objective) == 16 and passes_of_look(2, 4, 2, 1.0) == pytest.approx(1.3 * 48)
    assert interval_of(config, objective) == 78  # 62.4 / (0.05 x 16)
    assert interval_of(config, objective, world=4) == 20  # four share the look, each makes its own step
    online = load_config(online_recipe(guard={"action": "warn", "samples_per_prompt": 4}))
    objective = build_objective(online.objective, loop="online")
    # 8 samples: 4 to draw, 4 for the rest, 3 trained steps of 3 passes
    assert passes_of_step(online, objective) == 8 * (4 + 4 + 9)
    assert interval_of(online, objective) == interval_of(online, objective, world=4) == 10
    assert interval_of(load_config(online_recipe(guard={"every": 3})), objective) == 3
    assert passes_of_look(2, 4, 2, 7.5) == pytest.approx(1.3 * 64)


def test_without_features_there_is_nothing_to_look_with(recipe):
    assert "eval.features is not set" in fails(recipe(guard={"action": "stop"}, eval={"features": None}))
    assert "guard.budget" in fails(recipe(guard={"action": "stop", "budget": 1.5}))
    assert "unknown key guard.actoin" in fails(recipe(guard={"actoin": "stop"}))


@pytest.mark.parametrize("kind", ["recipe", "online_recipe"])
def test_a_guard_that_warns_disturbs_nothing(kind, request, tmp_path, scripted):
    write = request.getfixturevalue(kind)
    assert run(write(output={"folder": str(tmp_path / "without")})).exit_code == 0
    assert rows(tmp_path / "without", "guard") == []
    seen = scripted({2: (0.5, 1.0)})
    result = run(write(guard={"action": "warn", "every": 2}, output={"folder": str(tmp_path / "with")}))
    last = 4 if kind == "recipe" else 3
    assert result.exit_code == 0 and seen == sorted({0, 2, last})
    looks = rows(tmp_path / "with", "guard")
    assert [row["verdict"]["word"] for row in looks] == ["healthy", "collapsed", "healthy"]
    assert "guard, step 2: collapsed" in result.output and "ended early" not in result.output
    for name, value in weights(tmp_path / "without").items():
        assert torch.equal(value, weights(tmp_path / "with")[name])
    assert (tmp_path / "with" / "guard" / "step-00000002.png").exists()


@pytest.mark.parametrize("kind", ["recipe", "online_recipe"])
def test_a_guard_that_stops_keeps_the_weights_and_stays_stopped(kind, request, tmp_path, scripted):
    write = request.getfixturevalue(kind)
    seen = scripted({2: (0.5, 1.0)})
    file = write(guard={"action": "stop", "every": 1})
    result = run(file)
    folder = tmp_path / "run"
    assert result.exit_code == 0 and seen == [0, 1, 2]
    assert "the guard stopped the run at step 2" in result.output
    assert len(rows(folder)) == 2 and rows(folder, "held_out")[-1]["step"] == 2
    assert weights(folder, 2) and "guard stopped the run" in (folder / "report.html").read_text()
    again = run(file, "--resume")
    assert again.exit_code == 0 and seen == [0, 1, 2] and len(rows(folder)) == 2
    changed = yaml.safe_load(file.read_text())
    changed["guard"]["action"] = "warn"
    file.write_text(yaml.safe_dump(changed))
    assert run(file, "--resume").exit_code == 0
    assert len(rows(folder)) == (4 if kind == "recipe" else 3)


@pytest.mark.parametrize("kind, ema", [("recipe", 0.0), ("recipe", 0.5), ("online_recipe", 0.0)])
def test_rolling_back_returns_to_the_best_acceptable_point(kind, ema, request, tmp_path, scripted):
    write = request.getfixturevalue(kind)
    scripted({1: (0.95, 2.0), 2: (0.9, 1.0), 3: (0.3, 5.0)})
    output = {"checkpoint_every": 1, "keep_checkpoints": 0}
    result = run(write(guard={"action": "rollback", "every": 1}, optim={"ema_decay": ema, "lr": 0.01}, output=output))
    folder = tmp_path / "run"
    assert "stopped the run at step 3 and returned to step 1" in result.output
    assert len(list((folder / "checkpoints").iterdir())) == 3
    with safe_open(folder / "guard" / "best.safetensors", "pt") as best:
        assert best.metadata() == {"step": "1"}
        kept = {name: best.get_tensor(name) for name in best.keys()}  # noqa: SIM118  a file has no iterator
    if not ema:
        assert all(torch.equal(value, weights(folder, 1)[name]) for name, value in kept.items())
    exported = load_file(folder / "export" / "pytorch_lora_weights.safetensors")
    flat = {tuple(value.shape): [] for value in exported.values()}
    for value in exported.values():
        flat[tuple(value.shape)].append(value)
    # alpha / rank is 2, and stands in the second matrix of what is exported
    assert all(any(torch.equal(value * (1 + (".lora_B." in name)), each) for each in flat[tuple(value.shape)])
               for name, value in kept.items())
    assert rows(folder, "held_out")[-1]["folder"] == "step-00000003-returned"
    assert (folder / "samples" / "step-00000003-returned" / "grid.png").exists()


def test_a_run_killed_while_the_guard_looks_continues_to_the_same_decisions(recipe, tmp_path, scripted, monkeypatch):
    settings = {"guard": {"action": "rollback", "every": 1}}
    scripted({1: (0.95, 1.0), 3: (0.2, 2.0)})
    whole = tmp_path / "whole"
    assert run(recipe(**settings, output={"folder": str(whole), "checkpoint_every": 1})).exit_code == 0
    file = recipe(**settings, output={"folder": str(tmp_path / "cut"), "checkpoint_every": 1})
    real = module.Guard._look

    def killed(self, step, *known):
        if step == 2:
            raise KeyboardInterrupt
        return real(self, step, *known)

    with monkeypatch.context() as patch:
        patch.setattr(module.Guard, "_look", killed)
        assert run(file).exit_code == 130
    assert run(file, "--resume").exit_code == 0
    for kind in ("guard", "train"):
        first, second = ([{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows(folder, kind)]
                         for folder in (whole, tmp_path / "cut"))
        assert first == second
    first, second = (rows(folder, "held_out")[-1] for folder in (whole, tmp_path / "cut"))
    assert first["folder"] == second["folder"] == "step-00000003-returned"
    for metric, values in first["values"].items():  # a reward may embed prompts in other batches: the last bits differ
        assert second["values"][metric] == pytest.approx(values, rel=1e-5, abs=1e-6)


def test_lost_or_strange_best_weights_end_in_one_sentence(recipe, tmp_path, scripted):
    scripted({2: (0.2, 2.0)})
    file = recipe(guard={"action": "rollback", "every": 1})
    assert run(file).exit_code == 0
    best = tmp_path / "run" / "guard" / "best.safetensors"
    best.write_bytes(b"broken")
    assert "best.safetensors: cannot be read" in fails(file, "--resume")
    best.unlink()
    assert "best.safetensors: cannot be read" in fails(file, "--resume")


def test_other_rewards_or_prompts_than_at_the_start_are_refused(recipe, tmp_path):
    file = recipe(guard={"action": "warn", "every": 2, "max_prompts": 1}, train={"steps": 2})
    assert run(file).exit_code == 0
    for change, name in (({"also": ["contrast"]}, "eval.also"), ({"max_prompts": 1}, "eval.max_prompts")):
        changed = yaml.safe_load(file.read_text())
        changed["eval"] |= change
        changed["train"]["steps"] = 4
        (tmp_path / "changed.yaml").write_text(yaml.safe_dump(changed))
        message = fails(tmp_path / "changed.yaml", "--resume")
        assert f"cannot resume, {name} was" in message


def test_features_that_are_not_finite_end_in_one_sentence(recipe, monkeypatch):
    from visalign.rewards.clip import ClipScore

    monkeypatch.setattr(ClipScore, "features", lambda self, images: torch.full((len(images), 4), float("nan")))
    message = fails(recipe(guard={"action": "warn"}, eval={"reward": "contrast"}))
    assert "eval.features tiny-clip: the features of prompt 1 are not finite" in message


def test_points_are_acceptable_when_not_bad_and_within_the_budget():
    def row(step, word, diversity, reward):
        verdict = {"word": word, "proxy": "r", "diversity": [diversity, -1, 1]}
        return {"step": step, "prompts": ["p"], "verdict": verdict, "values": {
            "reward/r": [reward], "diversity/extra": [1 + diversity]}}

    looks = [row(0, "healthy", 0.0, 0.0), row(1, "undecided", -0.2, 1.0), row(2, "undecided", -0.1, 0.5),
             row(3, "hacked", 0.0, 2.0)]
    assert [acceptable for _, _, acceptable in points_of(looks, 0.15)] == [True, False, True, False]


SCRIPT = """
import sys
from visalign.evaluation.held_out import HeldOut
from visalign.evaluators.prompt_metrics import PromptMetrics
from visalign.evaluators.style import STYLE
from visalign.evaluators.watch import Suspicion

def look(self, generator, label, real=HeldOut.look):
    found, samples = real(self, generator, label)
    if not label.startswith("guard"):
        return found, samples
    extra = 0.2 if label.endswith("2") else 1.0
    values = {f"reward/{self.proxy}": [1.0] * 4, "diversity/extra": [extra] * 4}
    values |= {f"style/{name}": [0.5] * 4 for name in STYLE}
    return PromptMetrics(list("abcd"), 4, values, dict.fromkeys(values, 1.0)), samples

HeldOut.look = look
from visalign.cli import main
main(["train", sys.argv[1]])
"""


def test_two_processes_stop_together(recipe, tmp_path, two_processes):
    two_processes(SCRIPT, recipe(guard={"action": "rollback", "every": 1, "max_prompts": 1},
                                 output={"checkpoint_every": 0}))  # so that stopping is what saves
    assert rows(tmp_path / "run", "start")[0]["processes"] == 2
    assert [row["step"] for row in rows(tmp_path / "run", "guard")] == [0, 1, 2]
    assert rows(tmp_path / "run", "held_out")[-1]["folder"] == "step-00000002-returned"


@pytest.fixture
def asked(monkeypatch):
    """What the guard looked at: (label, prompts, seed)."""
    found, real = [], HeldOut.look

    def look(self, generator, label):
        if "guard" in label:
            found.append((label, self.settings.max_prompts, self.settings.seed))
        return real(self, generator, label)

    monkeypatch.setattr(HeldOut, "look", look)
    return found


EASY = {"action": "warn", "every": 2, "budget": 0.9, "drift": 50.0, "tolerance": 50.0}
"""Nothing is beyond these limits."""


def test_where_there_are_no_more_prompts_the_start_is_measured_on_several_sets_of_seeds(recipe, asked, tmp_path):
    file = recipe(guard=EASY | {"max_prompts": 2, "start_sets": 3}, train={"steps": 4})
    assert run(file).exit_code == 0
    assert [(label, prompts) for label, prompts, _ in asked] == [
        ("guard, step 0", 2), ("guard, step 0, seeds 2 of 3", 2), ("guard, step 0, seeds 3 of 3", 2),
        ("guard, step 2", 2), ("guard, step 4", 2)]
    assert len({seed for _, _, seed in asked[:3]}) == 3 and {seed for _, _, seed in asked[3:]} == {asked[0][2]}
    guard = rows(tmp_path / "run", "guard")
    assert [row["error"] for row in guard] == pytest.approx([0.5 * 0.05 / 2 / 3] * 3)  # two looks after the start


def test_the_start_is_measured_on_more_prompts_and_a_look_is_compared_with_the_same_ones(recipe, asked, tmp_path):
    file = recipe(guard=EASY | {"max_prompts": 2, "start_sets": 3}, train={"steps": 2})
    (tmp_path / "prompts.txt").write_text("".join(f"{word} cat\n" for word in ("red", "blue", "green", "small", "old")))
    assert run(file).exit_code == 0
    assert [(label, prompts) for label, prompts, _ in asked] == [("guard, step 0", 5), ("guard, step 2", 2)]
    first, look = rows(tmp_path / "run", "guard")
    assert look["prompts"] == ["red cat", "blue cat"] and first["prompts"][:2] == look["prompts"]
    before, after = (sum(row["values"]["diversity/extra"][:2]) for row in (first, look))
    assert look["verdict"]["diversity"][0] == pytest.approx(after / before - 1)
    assert "What the guard saw" in (tmp_path / "run" / "report.html").read_text()


@pytest.fixture
def uneven(monkeypatch):
    """Two prompts cannot tell what forty do: from the given step on, diversity falls by half or by a tenth, or of all
    forty by as much as is given."""
    real = HeldOut.look

    def install(fallen: int, of_forty: float | None = None):
        def look(self, generator, label):
            found, samples = real(self, generator, label)
            if not label.startswith("guard"):
                return found, samples
            step, count = int(label.removeprefix("guard, step ")), len(found.prompts)
            gone = step >= fallen
            values = {f"reward/{self.proxy}": [0.01 * step * (1 + 0.1 * (i % 2)) for i in range(count)],
                      "diversity/extra": [1 - gone * (0.5 if i % 2 else 0.1) for i in range(count)]}
            if of_forty and count == 40:
                values["diversity/extra"] = [1 - gone * of_forty] * count
            values |= {f"style/{each}": [0.5] * count for each in STYLE}
            return PromptMetrics(found.prompts, 2, values, dict.fromkeys(values, 1.0)), samples

        monkeypatch.setattr(HeldOut, "look", look)

    return install


def with_forty(recipe, tmp_path, train=None, **guard):
    small = {"every": 1, "max_prompts": 2, "samples_per_prompt": 2, "start_sets": 20}
    file = recipe(guard={"action": "stop"} | small | guard, train=train or {"steps": 4})
    (tmp_path / "prompts.txt").write_text("".join(f"cat number {i}\n" for i in range(40)))
    return file


def test_a_look_that_seems_bad_and_is_not_sure_is_made_closely(recipe, uneven, tmp_path):
    uneven(fallen=2)
    result = run(with_forty(recipe, tmp_path))
    assert "guard, step 2: looks closely, since diversity within a prompt fell by 30 %, which is not clear yet" in \
        result.output
    assert "the guard stopped the run at step 2" in result.output
    guard = rows(tmp_path / "run", "guard")
    assert [len(row["prompts"]) for row in guard] == [40, 2, 40]
    assert guard[-1]["error"] == pytest.approx(0.5 * 0.05 / 4 / 3) and guard[-1]["verdict"]["word"] == "collapsed"
    assert [point[:2] for point in points_of(guard, 0.15)] == [(0.0, 1.0), (0.0105, 1.0), (0.021, 0.7)]


def test_where_a_close_look_would_know_no_more_there_is_none(recipe, uneven, tmp_path):
    uneven(fallen=2)
    assert run(with_forty(recipe, tmp_path, start_sets=1)).exit_code == 0
    guard = rows(tmp_path / "run", "guard")
    assert [len(row["prompts"]) for row in guard] == [2] * 5 and not any("suspicion" in row for row in guard)
    assert [row["error"] for row in guard] == pytest.approx([0.05 / 4 / 3] * 5)


def test_close_looks_that_stay_unsure_wait_little(recipe, uneven, tmp_path):
    uneven(fallen=1)
    assert run(with_forty(recipe, tmp_path, budget=0.29)).exit_code == 0  # 30 % is gone, which even 40 cannot tell
    guard = rows(tmp_path / "run", "guard")
    assert [len(row["prompts"]) for row in guard] == [40] * 5 and [row.get("unsure") for row in guard[1:]] == [True] * 4


def test_close_looks_that_find_nothing_wait_ever_longer(recipe, uneven, tmp_path):
    uneven(fallen=1, of_forty=0.1)
    assert run(with_forty(recipe, tmp_path)).exit_code == 0
    guard = rows(tmp_path / "run", "guard")
    assert [len(row["prompts"]) for row in guard] == [40, 40, 40, 2, 40]
    assert [row.get("unsure") for row in guard] == [None, False, False, None, False]


class Suspected:
    """Replaces what a run knows of its groups: suspicious at these steps."""

    def __init__(self, monkeypatch, steps: set[int]):
        self.asked = []

        def suspicion(watch, budget):
            self.asked.append(watch.epochs[-1].epoch)
            return Suspicion(-0.3, 16, 32, False, watch.epochs[-1].epoch in steps)

        monkeypatch.setattr(GroupWatch, "suspicion", suspicion)


def watched(online_recipe, folder, **guard):
    return online_recipe(guard={"action": "stop", "every": 8, "max_prompts": 1, "start_sets": 2} | guard,
                         train={"epochs": 8}, output={"folder": str(folder), "checkpoint_every": 1},
                         eval={"every": 0})


def test_a_suspicion_makes_the_guard_look_before_it_is_due(online_recipe, scripted, monkeypatch, tmp_path):
    seen = scripted({3: (0.2, 1.0)})
    suspected = Suspected(monkeypatch, {1, 3})
    result = run(watched(online_recipe, tmp_path / "run"))
    assert result.exit_code == 0 and seen == [0, 3]  # at 1 it is too soon after the start
    assert "looks before it is due, since diversity within the 16 newest groups fell by 30 %" in result.output
    assert "the guard stopped the run at step 3" in result.output and suspected.asked == [1, 2, 3]
    look = rows(tmp_path / "run", "guard")[-1]
    assert look["suspicion"].startswith("diversity within") and look["verdict"]["word"] == "collapsed"
    assert look["error"] == pytest.approx(0.5 * 0.05 / (8 + 1) / 3)  # after each of 8 epochs, and the one that is due
    again = run(watched(online_recipe, tmp_path / "run"), "--resume")
    assert again.exit_code == 0 and seen == [0, 3] and len(rows(tmp_path / "run")) == 3


def test_suspicions_that_do_not_come_true_cost_ever_less(online_recipe, scripted, monkeypatch, tmp_path):
    seen = scripted({})
    Suspected(monkeypatch, set(range(20)))
    assert run(watched(online_recipe, tmp_path / "run", every=4)).exit_code == 0
    # at 1 a look of its own; 4 and 8 are planned; between them 5 is a quarter of an interval after 4 and one after 1
    assert seen == [0, 1, 4, 5, 8]
    assert [("suspicion" in row) for row in rows(tmp_path / "run", "guard")] == [False, True, False, True, False]


def test_a_suspicion_is_heard_soon_after_a_look_that_stayed_unsure(online_recipe, uneven, monkeypatch, tmp_path):
    uneven(fallen=4)
    Suspected(monkeypatch, {5})
    forty = with_forty(online_recipe, tmp_path, {"epochs": 8}, every=4, budget=0.29)
    assert run(forty, "eval.every=0").exit_code == 0
    found = [(row["step"], row.get("unsure")) for row in rows(tmp_path / "run", "guard")]
    assert found == [(0, None), (4, True), (5, True), (8, True)]  # 5: soon after one that was unsure


def test_groups_are_watched_unless_that_is_turned_off(online_recipe, tmp_path):
    folders = {"on": {}, "off": {"watch": False}}
    for name, settings in folders.items():
        assert run(watched(online_recipe, tmp_path / name, **settings)).exit_code == 0
    kept = rows(tmp_path / "on", "watch")
    assert [row["step"] for row in kept] == list(range(1, 9)) and rows(tmp_path / "off", "watch") == []
    assert all(min(row["diversity"]) > 0 for row in kept)
    means = [row["group_diversity"] for row in rows(tmp_path / "on")]
    assert means == pytest.approx([sum(row["diversity"]) / len(row["diversity"]) for row in kept], abs=1e-4)
    for name, value in weights(tmp_path / "on").items():
        assert torch.equal(value, weights(tmp_path / "off")[name])
