"""A run against its base as a judge: hand numbers, which models are found and compared, and one network for both."""

import json
import math
import shutil

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.config import ModelSettings
from visalign.config.load import build_objective, load_config
from visalign.errors import UserError
from visalign.evaluation import ratio_models
from visalign.evaluation.density_ratio import GeneratorRatio, RatioRule, rule_of
from visalign.evaluation.ratio_models import makes_media
from visalign.generators import load_generator
from visalign.media.samples import Sample, Video
from visalign.objectives.base import OfflineBase
from visalign.objectives.registry import REGISTRIES
from visalign.rewards import load_reward
from visalign.rewards.text.likelihood import DensityRatio

RED, BLUE = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
TINY = {"prompt_tokens": 8, "precision": "fp32"}
SAMPLES = [Sample("a red fruit", RED), Sample("a cat face", BLUE), Sample("a red fruit", BLUE)]


@pytest.fixture
def spec(tmp_path):
    """A reward's specification with a cache of its own."""
    return lambda **given: {"kind": "density_ratio", "cache": str(tmp_path / "cache"), "terms": 4} | given


@pytest.fixture
def trained(recipe, tmp_path):
    """A small finished run, by its sections."""
    def train(base="sd3", method=None, /, **sections):
        result = CliRunner().invoke(main, ["train", str(recipe(base, method, **sections)), "eval.max_prompts=1",
                                           "optim.lr=0.05"])
        assert result.exit_code == 0, result.output
        return tmp_path / "run"

    return train


def values(reward, samples=SAMPLES):
    found = reward.score(samples)
    assert not found.remarks
    return found.values[:, 0]


def test_the_reward_of_known_errors():
    strong, weak, noise = torch.tensor([0.2, 0.4]), torch.tensor([0.3, 0.42]), torch.tensor([0.5, 0.5])
    assert RatioRule(2.0).reward(strong, weak, noise).item() == pytest.approx(0.06)  # means .30 and .36
    assert RatioRule(2.0).reward(weak, strong, noise).item() == pytest.approx(-0.06)
    derived = build_objective({"name": "flow_dpo", "weighting": "derived"})
    assert RatioRule(2.0, derived).reward(strong, weak, noise).item() == pytest.approx(0.015)  # (1 - t)^2 = 1/4


def test_every_offline_method_says_how_much_an_error_counts():
    assert all(issubclass(kind, OfflineBase) for kind in REGISTRIES["offline"].values())


def test_equal_models_give_exactly_0_and_changed_places_the_opposite(spec):
    same = load_reward(spec(strong="tiny-sd3", weak="tiny-sd3", model=TINY))
    assert (values(same) == 0).all()
    there = values(load_reward(spec(strong="tiny-sd3-aligned", model=TINY)))
    back = values(load_reward(spec(strong="tiny-sd3", weak="tiny-sd3-aligned", model=TINY)))
    assert torch.equal(there, -back) and (there.abs() > 0.1).all()


def test_a_score_depends_on_nothing_but_its_sample_and_the_seed(spec):
    given = spec(strong="tiny-sd3-aligned", terms=5, model=TINY)
    reward = load_reward(given)
    together = values(reward)
    for i, sample in enumerate(SAMPLES):
        assert torch.equal(values(reward, [sample]), together[i:i + 1])
    for size in (1, 2):
        torch.testing.assert_close(values(load_reward(given | {"batch_size": size})), together, rtol=1e-4, atol=1e-3)
    assert torch.equal(values(load_reward(given)), together)
    assert not torch.allclose(values(load_reward(given | {"seed": 1})), together, rtol=1e-2)


def by_hand(reward, strong, weak, samples):
    """-(beta / 2) of the mean difference of errors, each model loaded by itself."""
    t, noise = reward.drawn(weak)
    found = []
    for sample in samples:
        errors = []
        for generator in (strong, weak):
            x0 = generator.encode_media(generator.to_pixels([sample.media])).expand_as(noise)
            texts = generator.encode_prompts([sample.prompt] * len(t))
            with torch.no_grad():
                predicted = generator.predict(generator.process.add_noise(x0, noise, t), t, texts)
            errors.append((predicted - generator.process.target(x0, noise, t)).square().mean())
        found.append(-reward.rule.beta / 2 * (errors[0] - errors[1]))
    return torch.stack(found)


@pytest.mark.parametrize("base", ["sd3", "sd15"])
def test_a_run_its_export_and_its_checkpoint_are_one_judge_in_one_network(trained, spec, base, monkeypatch):
    run = trained(base, objective={"beta": 300.0})
    config = load_config(run / "config.yaml")
    weak, strong = load_generator(config.model, "cpu"), load_generator(config.model, "cpu")
    strong.load_adapter(run / "export")
    loads, load = [], ratio_models.load_generator
    monkeypatch.setattr(ratio_models, "load_generator", lambda *given: loads.append(given) or load(*given))
    reward = load_reward(spec(strong=str(run)))
    scores = values(reward)
    assert len(loads) == 1 and reward.rule.beta == 300 and scores.abs().min() > 1e-3
    torch.testing.assert_close(scores, by_hand(reward, strong, weak, SAMPLES), rtol=1e-3, atol=1e-3)
    assert torch.equal(values(load_reward(spec(strong=str(run / "export")))), scores)
    assert load_reward(f"density_ratio:{run}").strong == str(run)
    last = sorted((run / "checkpoints").iterdir())[-1]
    torch.testing.assert_close(values(load_reward(spec(strong=str(last)))), scores, rtol=1e-3, atol=1e-2)
    shutil.move(run / "export", run.parent / "lora")
    loose = spec(strong=str(run.parent / "lora"), weak=config.model.source, beta=300.0, model=TINY)
    assert torch.equal(values(load_reward(loose)), scores)


def test_a_run_of_all_weights_is_compared_with_a_second_network(trained, spec):
    run = trained("sd3", model={"tuning": "full"}, optim={"lr": 0.001})
    config = load_config(run / "config.yaml")
    weak = load_generator(config.model, "cpu")
    strong = load_generator(config.model.model_copy(update={"source": str(run / "export" / "pipeline")}), "cpu")
    reward = load_reward(spec(strong=str(run)))
    scores = values(reward)
    assert scores.abs().min() > 1e-3
    torch.testing.assert_close(scores, by_hand(reward, strong, weak, SAMPLES), rtol=1e-3, atol=1e-3)


def test_a_run_that_began_with_a_lora_is_compared_with_what_it_began_with(trained, recipe, spec, tmp_path):
    first = trained("sd3").rename(tmp_path / "first")
    run = trained("sd3", model={"lora": {"start": str(first / "export")}})
    config = load_config(run / "config.yaml")
    strong = load_generator(config.model.without_loras(), "cpu")
    strong.load_adapter(run / "export")
    reward = load_reward(spec(strong=str(run)))
    scores = values(reward)
    torch.testing.assert_close(scores, by_hand(reward, strong, load_generator(config.model, "cpu"), SAMPLES),
                               rtol=1e-3, atol=1e-3)
    plain = load_reward(spec(strong=str(run), weak=config.model.source))
    bare = load_generator(config.model.without_loras(), "cpu")
    torch.testing.assert_close(values(plain), by_hand(plain, strong, bare, SAMPLES), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(values(plain), scores, rtol=1e-2)


def test_the_rule_is_the_run_s(recipe):
    trained = {"timestep_sampling": "logit_normal", "timestep_shift": 3.0}
    rule = rule_of(load_config(recipe("sd3", objective={"beta": 7.0}, train=trained)), None)
    assert (rule.beta, rule.sampling, rule.shift) == (7.0, "logit_normal", 3.0)
    assert rule_of(load_config(recipe("sd3", objective={"beta": 7.0})), 2.0).beta == 2.0
    assert rule_of(None, None) == RatioRule(5000.0)
    assert rule_of(load_config(recipe("sd15", "mapo")), None).beta == 5000.0  # whose beta weighs no implicit reward


def test_videos_are_scored_by_a_model_of_videos(pipelines, spec):
    folder = str(pipelines("wan"))
    reward = load_reward(spec(strong=folder, weak=folder, terms=2,
                              model={"resolution": [16, 32], "frames": 5} | TINY))
    found = reward.score([Sample("a red fruit", Video([RED, BLUE] * 3, 8.0)), Sample("a red fruit", RED)])
    assert reward.modalities == {"video"} and found.values[0, 0] == 0
    assert "scores videos only" in found.remarks[1]
    assert "no prompt" in reward.score([Sample("", Video([RED] * 5, 8.0))]).remarks[0]


def test_the_command_scores_by_the_shipped_recipe(tmp_path):
    for name, image in (("a", RED), ("b", BLUE)):
        image.save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("a red heart")
    result = CliRunner().invoke(main, ["score", str(tmp_path), "--rewards", "configs/rewards/density_ratio.yaml", "-o",
                                       str(tmp_path / "scores.jsonl")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert len({row["density_ratio.score"] for row in rows}) == 2


def test_an_online_run_learns_from_it(online_recipe, spec, tmp_path):
    models = spec(strong="tiny-sd3-aligned", terms=2, model=TINY)
    result = CliRunner().invoke(main, ["train", str(online_recipe("sd3", reward={"models": models})), "train.epochs=1"])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rewards = [row["reward"] for row in rows if "reward" in row]
    assert rewards and all(math.isfinite(reward) and reward != 0 for reward in rewards)


def test_whose_settings_these_are(pipelines, tmp_path):
    for given in ({"strong": "tiny-sd3-aligned"}, {"strong": "smollm2", "weak": "tiny-sd3"}, {"strong": "runs/a"},
                  {"strong": "x/y", "weak": "x/z", "terms": 3}, {"strong": str(pipelines("sd3")), "weak": "x/y"}):
        assert GeneratorRatio.takes(given), given
    for given in ({"strong": "smollm2"}, {"strong": "x/y", "weak": "x/z"}, {"strong": "a", "weak": "b", "per": "token"},
                  {"strong": "{current}", "weak": "smollm2"}):
        assert not GeneratorRatio.takes(given), given
    assert makes_media("tiny-sd3+x") and not makes_media(None) and not makes_media("smollm2")
    from visalign.rewards.registry import class_of

    assert class_of("density_ratio", {"strong": "x/y", "weak": "x/z"}) is DensityRatio


@pytest.mark.parametrize("given, words", [
    ({"strong": "runs/nowhere"}, "strong runs/nowhere is neither a run, a LoRA nor a model that is here"),
    ({"strong": "tiny-sd3"}, "strong tiny-sd3 is a model, which does not say what it was; name its base as `weak`"),
    ({"strong": "tiny-sd3-aligned", "weak": "tiny-sdxl"},
     "strong tiny-sd3-aligned is a StableDiffusion3Pipeline and weak tiny-sdxl a StableDiffusionXLPipeline"),
    ({"strong": "tiny-sd3-aligned", "weak": "nowhere"}, "weak nowhere is no model: there is no such folder"),
    ({"strong": "tiny-sd3-aligned", "weak": "IMAGES"}, "is no model"),
    ({"strong": "tiny-sd3+negative:tiny-sd3-aligned", "weak": "tiny-sd3"}, "leave the adapter out"),
    ({"strong": "tiny-sd3-aligned", "model": {"source": "x"}}, "model.source is said by strong and weak"),
    ({"strong": "tiny-sd3-aligned", "model": {"prompt_token": 8}}, "did you mean 'prompt_tokens'"),
    ({"strong": "tiny-sd3-aligned", "terms": 0}, "density_ratio.terms is 0: it must be at least 1"),
    ({"strong": "tiny-sdxl+LORA"}, "lora")])
def test_what_cannot_judge_is_refused_before_it_is_loaded(spec, given, words, tmp_path, monkeypatch):
    monkeypatch.setattr(ratio_models, "load_generator", None)
    (tmp_path / "images").mkdir()
    RED.save(tmp_path / "images" / "a.png")
    put = {"IMAGES": str(tmp_path / "images"), "tiny-sdxl+LORA": "tiny-sdxl+tiny-sd3-aligned"}
    with pytest.raises(UserError) as caught:
        load_reward(spec(**{key: put.get(value, value) if isinstance(value, str) else value
                            for key, value in given.items()}))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_lora_alone_and_runs_that_are_no_judges_are_refused(spec, trained, pipelines, tmp_path):
    run = trained("sd3")
    lora = shutil.copytree(run / "export", tmp_path / "lora")
    with pytest.raises(UserError, match="is a LoRA, which does not say what it is for; name its base as `weak`"):
        load_reward(spec(strong=str(lora)))
    shutil.move(run / "export", tmp_path / "elsewhere")
    with pytest.raises(UserError, match="has not finished"):
        load_reward(spec(strong=str(run)))


def test_models_of_other_latents_or_another_process_are_refused_once_they_are_known(spec, pipelines):
    eps, v = str(pipelines("sd15")), str(pipelines("sd15-v"))
    small = ModelSettings(source=eps, resolution=8)
    with pytest.raises(UserError, match=r"strong predicts epsilon \(diffusion\) and weak v_prediction"):
        load_reward(spec(strong=eps, weak=v)).score(SAMPLES)
    with pytest.raises(UserError, match=r"latents of \(4, 8, 8\) and weak on \(4, 4, 4\)"):
        ratio_models.check_errors_compare(load_generator(eps, "cpu"), load_generator(small, "cpu"), "reward r")
