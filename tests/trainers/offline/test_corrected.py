"""SOAR's states: one guided step of the model's own, and points on the way back to the same noise."""

import contextlib
import shutil
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from tests.programs import VISALIGN
from tests.trainers.commands import UNMEASURED, fails, rows, run, weights
from visalign.cli import main
from visalign.config import ModelSettings
from visalign.config.load import load_config
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.jobs.offline_checks import check_guided
from visalign.objectives.soar import SOAR
from visalign.processes import Flow
from visalign.trainers.offline.noised import Noised, NoisedStates, sample_errors
from visalign.trainers.offline.states import CorrectedStates, towards_noise


class Moving:
    """A generator whose velocity is always the same, sampled on a uniform grid."""

    device, process, pipeline_class = torch.device("cpu"), Flow(), "Moving"
    conventions = SimpleNamespace(guidance="by two passes")

    def __init__(self, velocity=None):
        self.velocity, self.asked = velocity, []

    def schedule(self, steps):
        return torch.linspace(1, 0, steps + 1)

    def for_size(self, conditioning, fits=None):
        return conditioning

    def measuring(self):
        return contextlib.nullcontext()

    def predict(self, x_t, t, conditioning, guidance=None):
        self.asked.append((torch.is_grad_enabled(), guidance, conditioning["text"]))
        return self.velocity


CACHE = SimpleNamespace(prompt_key=lambda text: f"key of '{text}'",
                        conditioning=lambda keys: {"text": torch.zeros(1, 3)} if keys == ["key of ''"] else None)


def drawn(velocity, x0, noise, t, **settings):
    """(the generator, what SOAR's states make of these) for samples [B, 1]."""
    generator = Moving(velocity)
    batch = SimpleNamespace(chosen=x0, rejected=None, conditionings=[{"text": torch.ones(len(t), 3)}], fits={},
                            items=[None] * len(t))
    rngs = [torch.Generator().manual_seed(place) for place in range(len(t))]
    return generator, CorrectedStates(generator, SOAR(**settings), CACHE).draw(batch, t, noise, rngs)


def test_the_target_by_hand():
    # z .6 * -.5 + .4 = .1; velocity -1.5 + .4, a step of .1 to z' .21; a .6: z'' .4 * .21 - .3 = -.216
    # target (-.216 - 1) / .8 = -1.52 = -1.5 - .1 * .2 / (.5 * .8) * .4
    z0, z1 = torch.tensor([[1.0]]), torch.tensor([[-0.5]])
    t0, t1, later = (torch.tensor([t]) for t in (0.6, 0.5, 0.8))
    z = Flow().add_noise(z0, z1, t0)
    reached = Flow().step(z1 - z0 + 0.4, z, t0, t1)
    point = towards_noise(reached, z1, t1, later)
    assert [each.item() for each in (z, reached, point)] == pytest.approx([0.1, 0.21, -0.216])
    assert Flow().target_at(z0, point, later).item() == pytest.approx(-1.52)
    assert pytest.approx(-1.52) == -1.5 - 0.1 * 0.2 / (0.5 * 0.8) * 0.4


def test_each_point_undoes_the_steps_own_error():
    torch.manual_seed(0)
    x0, noise, wrong = torch.randn(3, 5, 4)
    t = torch.tensor([0.6, 0.9, 0.3, 0.11, 0.05])
    generator, [plain, *points] = drawn(noise - x0 + wrong, x0, noise, t, points=4, rollout_steps=10, weight=0.5)
    assert torch.equal(plain.target, noise - x0) and torch.equal(plain.t, t) and len(points) == 4
    t1 = (t - 0.1).clamp(min=0)
    for point in points:
        assert (point.t >= t1).all() and (point.t >= 0.1).all() and (point.t <= 1).all()
        undone = (t - t1) * (1 - point.t) / ((1 - t1) * point.t)
        torch.testing.assert_close(point.target, noise - x0 - undone[:, None] * wrong, atol=1e-4, rtol=1e-4)
    assert len({point.t[0].item() for point in points}) == 4, "each at a time of its own"
    assert [each.weight for each in (plain, *points)] == pytest.approx([1 / 3] + [0.5 / 3] * 4)
    [(with_gradient, guidance, text)] = generator.asked
    assert not with_gradient and guidance.scale == 4.5 and guidance.apart
    assert guidance.negative["text"].tolist() == [[0.0] * 3] * 5 and text.shape == (5, 3)


def test_without_an_error_each_point_is_sfts_own_state():
    torch.manual_seed(0)
    x0, noise = torch.randn(2, 3, 4)
    _, [_, *points] = drawn(noise - x0, x0, noise, torch.tensor([0.6, 0.9, 0.2]))
    assert len(points) == 6
    for point in points:
        torch.testing.assert_close(point.x_t, Flow().add_noise(x0, noise, point.t), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(point.target, noise - x0, atol=1e-4, rtol=1e-4)


def test_near_the_sample_times_are_held_one_step_away():
    x0, noise = torch.randn(2, 64, 4)
    _, [_, *points] = drawn(noise - x0, x0, noise, torch.full((64,), 1e-4), rollout_steps=4)
    times = torch.cat([point.t for point in points])
    assert times.min().item() == 0.25 and (times == 0.25).float().mean().item() == pytest.approx(0.25, abs=0.1)


def test_each_samples_points_are_its_own_whatever_it_shares_a_batch_with():
    x0, noise = torch.randn(2, 2, 4)
    _, both = drawn(noise - x0, x0, noise, torch.tensor([0.6, 0.9]))
    _, alone = drawn(noise[:1] - x0[:1], x0[:1], noise[:1], torch.tensor([0.6]))
    assert all(torch.equal(one.t[:1], other.t) for one, other in zip(both, alone, strict=True))


def test_weight_zero_and_scale_one_ask_for_nothing_more():
    x0, noise, t = torch.randn(2, 4), torch.randn(2, 4), torch.tensor([0.6, 0.9])
    generator, [plain] = drawn(None, x0, noise, t, weight=0.0)
    assert not generator.asked and plain.weight == 1.0
    generator, _ = drawn(noise - x0, x0, noise, t, guidance_scale=1.0)
    [(_, guidance, _)] = generator.asked
    assert guidance.scale == 1 and guidance.negative is None


def test_a_model_without_guidance_is_refused(monkeypatch):
    monkeypatch.setattr(Moving, "conventions", SimpleNamespace(guidance=None))
    with pytest.raises(UserError, match="guidance_scale 4.5: Moving is without guidance"):
        CorrectedStates(Moving(), SOAR(), CACHE)
    CorrectedStates(Moving(), SOAR(guidance_scale=1.0), CACHE)


def test_a_real_network_guides_without_gradients_and_learns_from_seven_passes(pipelines):
    torch.manual_seed(0)
    generator = load_generator(ModelSettings(source=str(pipelines("sd3")), precision="fp32", prompt_tokens=8), "cpu")
    generator.make_trainable("lora", rank=2, dropout=0.3)
    generator.set_dropout(True)
    texts = {"": generator.encode_prompts([""]), "a": generator.encode_prompts(["a red fruit"] * 2)}
    cache = SimpleNamespace(prompt_key=lambda text: text, conditioning=lambda keys: texts[keys[0]])
    x0, noise = torch.randn(2, 2, *generator.conventions.shape)
    batch = SimpleNamespace(chosen=x0, rejected=None, conditionings=[texts["a"]], fits={}, items=[None] * 2)
    t = torch.tensor([0.6, 0.4])

    def states():
        return CorrectedStates(generator, SOAR(), cache).draw(
            batch, t, noise, [torch.Generator().manual_seed(place) for place in range(2)])

    found = states()
    assert generator.passes == {"without gradient": 4} and generator._dropout
    assert all(torch.equal(one.x_t, other.x_t) for one, other in zip(found, states(), strict=True)), "no dropout"
    assert not any(each.requires_grad for state in found for each in (state.x_t, state.target))
    errors = sample_errors(generator, found, {"chosen": texts["a"]})["chosen"]
    errors.mean().backward()
    assert generator.passes["with gradient"] == 14 and errors.shape == (2,)


def test_weight_zero_ends_in_sfts_bits(recipe, tmp_path):
    options = {"train": {"timestep_sampling": "logit_normal"}, "data": {"caption_dropout": 0.3}, "eval": UNMEASURED,
               "model": {"lora": {"rank": 2, "alpha": 4, "dropout": 0.2}}}
    run(recipe("sd3", "sft", output={"folder": str(tmp_path / "sft")}, **options))
    run(recipe("sd3", "soar", objective={"weight": 0.0}, output={"folder": str(tmp_path / "zero")}, **options))
    run(recipe("sd3", "soar", output={"folder": str(tmp_path / "soar")}, **options))
    plain, zero, full = (weights(tmp_path / name, 4) for name in ("sft", "zero", "soar"))
    assert all(torch.equal(plain[name], zero[name]) for name in plain)
    assert not all(torch.equal(plain[name], full[name]) for name in plain)


def test_a_run_that_was_cut_ends_in_the_same_bits(recipe, tmp_path):
    options = {"eval": UNMEASURED, "model": {"lora": {"rank": 2, "alpha": 4, "dropout": 0.2}},
               "objective": {"points": 3}}
    run(recipe("sd3", "soar", name="whole.yaml", output={"folder": str(tmp_path / "whole"), "checkpoint_every": 0},
               **options))
    cut = recipe("sd3", "soar", name="cut.yaml", output={"folder": str(tmp_path / "cut")}, **options)
    run(cut)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000004")
    run(cut, "--resume")
    a, b = weights(tmp_path / "whole", 4), weights(tmp_path / "cut", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert len(rows(tmp_path / "cut", "held_out")) >= 2


def test_two_processes_learn_as_one_does(recipe, two_processes, tmp_path):
    run(recipe("sd3", "soar", name="one.yaml", output={"folder": str(tmp_path / "one")}, train={"batch_size": 2},
               eval=UNMEASURED))
    two = recipe("sd3", "soar", name="two.yaml", output={"folder": str(tmp_path / "two")}, train={"batch_size": 1},
                 eval=UNMEASURED, data={"cache": str(tmp_path / "cache2")})
    two_processes(VISALIGN, "train", two)
    assert rows(tmp_path / "two", "start")[0]["processes"] == 2
    a, b = weights(tmp_path / "one", 4), weights(tmp_path / "two", 4)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("model", [{"gradient_checkpointing": True}, {"offload": "blocks"},
                                   {"gradient_checkpointing": True, "offload": "blocks"}])
def test_what_saves_memory_changes_nothing(recipe, tmp_path, model):
    plain = {"tuning": "full", "attention": "math"}
    for name, more in (("plain", {}), ("less", model)):
        run(recipe("sd3", "soar", model=plain | more, output={"folder": str(tmp_path / name)}, eval=UNMEASURED,
                   train={"steps": 2}, objective={"points": 2}))
    a, b = weights(tmp_path / "plain", 2), weights(tmp_path / "less", 2)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-5, rtol=1e-3)


def test_the_empty_prompt_is_there_without_caption_dropout_and_encoded_ahead(recipe, tmp_path, monkeypatch):
    file = recipe("sd3", "soar", train={"steps": 1}, eval=UNMEASURED)
    made = CliRunner().invoke(main, ["data", "cache", str(file)])
    assert made.exit_code == 0, made.output
    from visalign.generators.base import Generator

    monkeypatch.setattr(Generator, "encode_prompts", None)  # whatever encodes anything ends in an error
    run(file)
    assert rows(tmp_path / "run")[0]["loss"] > 0


def test_buckets_and_accumulation_train(recipe, tmp_path):
    run(recipe("sd3", "soar", data={"buckets": True, "caption_dropout": 0.2}, eval=UNMEASURED,
               train={"steps": 2, "batch_size": 1, "gradient_accumulation": 2}))
    assert all(torch.tensor(row["loss"]).isfinite() for row in rows(tmp_path / "run"))


@pytest.mark.parametrize("base, overrides, words", [
    ("sdxl", [], ["soar", "flow", "diffusion", "sft"]),
    ("sd3", ["objective.points=0"], ["objective.points", "at least 1"]),
    ("sd3", ["objective.rollout_steps=1"], ["objective.rollout_steps", "at least 2"]),
    ("sd3", ["objective.path=1"], ["unknown key objective.path"]),
    ("sd3", ["model.tuning=full", "optim.fused_backward=true", "optim.grad_clip=null"],
     ["optim.fused_backward", "7 states"]),
    ("sd3", ["train.one_side_at_a_time=true"], ["one_side_at_a_time", "soar"]),
])
def test_what_does_not_go_is_said_in_a_sentence(recipe, base, overrides, words):
    message = fails(recipe(base, "soar"), *overrides)
    for word in words:
        assert word in message


def test_prompts_with_source_images_have_no_empty_one_to_guide_away_from(recipe):
    edits = SimpleNamespace(sources="one image", pipeline_class="Edits")
    file = recipe("sd3", "soar")
    with pytest.raises(UserError, match="objective.guidance_scale: soar .* each prompt of Edits has source images"):
        check_guided(load_config(file), edits)
    check_guided(load_config(file, ["objective.guidance_scale=1"]), edits)


def test_a_dry_run_counts_its_passes(recipe):
    said = CliRunner().invoke(main, ["train", str(recipe("sd3", "soar")), "--dry-run"]).output
    assert "policy on chosen at 7 states of each, 2 more without gradient" in said
    said = CliRunner().invoke(main, ["train", str(recipe("sd3", "flow_dpo")), "--dry-run"]).output
    assert "policy on chosen and rejected, reference without gradient\n" in said


def test_states_it_adds_to_the_plain_ones_are_not_weighed_twice():
    one = torch.ones(2, 3)
    generator = SimpleNamespace(predict=lambda x_t, t, conditioning: x_t)
    found = sample_errors(generator, [Noised(one * scale, torch.ones(2), torch.zeros(2, 3), ("chosen",), 1 / 3)
                                      for scale in (1, 2, 3)], {"chosen": {"text": one}})
    assert found["chosen"].tolist() == pytest.approx([14 / 3] * 2)
    assert issubclass(CorrectedStates, NoisedStates)
