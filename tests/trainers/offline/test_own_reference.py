"""SePPO in the offline loop: losers that earlier selves of the run make, and those selves as the reference."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from click.testing import CliRunner

from tests.programs import VISALIGN
from tests.trainers.commands import UNMEASURED, WITHOUT_GRADIENT, fails, rows, run, weights
from visalign.cli import main
from visalign.config import DataSettings, ModelSettings, OwnSettings, TrainSettings
from visalign.config.load import build_objective, load_config
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.jobs.offline_checks import check_own
from visalign.objectives.seppo import SePPO
from visalign.sampling.seeds import stable_seed
from visalign.trainers.cost import passes_of_step
from visalign.trainers.offline import states as module
from visalign.trainers.offline.encoded_pairs import EncodedPair, PairBatch
from visalign.trainers.offline.noised import Asked, sample_errors
from visalign.trainers.offline.own_reference import FirstVisits, OwnReferenceStates

OWN = {"every": 2, "keep": 2, "steps": 2}
ALL = {"holdout": 0.0, "own": OWN}
DROPOUT = {"lora": {"rank": 2, "alpha": 4, "dropout": 0.2}}
MANY = [Asked(f"prompt {number}", None) for number in range(7)]


def settings(accumulation=1, own=None, seed=5):
    return SimpleNamespace(data=DataSettings(own=own or OwnSettings(every=3, keep=2, steps=3)),
                           train=TrainSettings(seed=seed, gradient_accumulation=accumulation))


def visited(number):
    """Three prompts of seven, in an order that does not repeat itself soon."""
    return [MANY[(number * number + 3 * place) % 7] for place in range(3)]


def test_the_selves_there_are_after_each_step():
    own = OwnSettings(every=30, keep=7)
    assert own.numbers(0) == own.numbers(29) == [0] and own.numbers(30) == [0, 30]
    assert own.numbers(209) == [0, 30, 60, 90, 120, 150, 180] and own.numbers(210) == [30, 60, 90, 120, 150, 180, 210]
    assert (own.most(29), own.most(60), own.most(10_000)) == (1, 3, 7)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_that_is_continued_samples_the_same_prompts_together(accumulation):
    training = SimpleNamespace(config=settings(accumulation), asked=visited)
    numbers, last = training.config.data.selves.numbers, 24 * accumulation
    whole, together = FirstVisits(training), {}
    for number in range(last):
        selves = numbers(number // accumulation)
        whole.forget_all_but(selves)
        whole.look(number, selves)
        taken = whole.self_of(number)
        assert taken in selves
        together[number] = [whole.together_with(taken, each) for each in visited(number)]
    assert {len(new) for parts in together.values() for new in parts} == {1, 2, 3}, "some were made before"
    assert {whole.self_of(number) for number in range(last)} == set(range(0, 24, 3)), "every self is drawn"
    for start in range(0, last, accumulation):
        resumed = FirstVisits(training)
        for number in range(start, min(start + 4, last)):
            resumed.forget_all_but(numbers(number // accumulation))
            resumed.look(number, numbers(number // accumulation))
            taken = resumed.self_of(number)
            assert [resumed.together_with(taken, each) for each in visited(number)] == together[number]


def test_all_micro_batches_of_a_step_have_one_reference_whatever_their_number():
    one, four = (FirstVisits(SimpleNamespace(config=settings(many))) for many in (1, 4))
    drawn = [one.self_of(step) for step in range(60)]
    assert [four.self_of(number) for number in range(240)] == [each for each in drawn for _ in range(4)]
    other = FirstVisits(SimpleNamespace(config=settings(seed=6)))
    assert drawn != [other.self_of(step) for step in range(60)]


@pytest.fixture(scope="module")
def generator(pipelines):
    torch.manual_seed(0)
    generator = load_generator(ModelSettings(source=str(pipelines("sd3")), precision="fp32", prompt_tokens=8), "cpu")
    generator.make_trainable("lora", rank=2, dropout=0.5)
    generator.set_dropout(True)
    return generator


@pytest.fixture
def training(generator):
    """A run of two micro-batches of two prompts each, whose first self is the model itself."""
    texts = {prompt: generator.encode_prompts([prompt]) for prompt in ("", "a fruit", "a cat", "a hat", "a leaf")}

    def conditioning(keys):
        return {name: torch.cat([texts[key][name] for key in keys]) for name in texts[""]}

    with torch.no_grad():
        for name, parameter in generator.trainable_parameters():
            if "lora_B" in name:
                parameter.zero_()
    asked = [[Asked("a fruit", None), Asked("a cat", None)], [Asked("a hat", None), Asked("a leaf", None)]]
    return SimpleNamespace(
        generator=generator, objective=SePPO(), config=settings(own=OwnSettings(every=1, keep=3, steps=3)),
        cache=SimpleNamespace(conditioning=conditioning, prompt_key=lambda text: text),
        accelerator=Accelerator(cpu=True),
        parameters=[p for _, p in generator.trainable_parameters()], asked=lambda number: asked[number % 2],
        draw_time=lambda rng: torch.rand(1, generator=rng))


def learnt(training, by=0.3):
    """The policy moves."""
    with torch.no_grad():
        for place, parameter in enumerate(training.parameters):
            parameter.add_(by * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(place)))


def batch_of(training, number):
    asked, shape = training.asked(number), training.generator.conventions.shape
    one, rng = torch.ones(2), torch.Generator().manual_seed(number)
    items = [EncodedPair(each.prompt_key, each.prompt_key, "", None, "", 1.0, None, None) for each in asked]
    return PairBatch(items, torch.randn(2, *shape, generator=rng), None,
                     training.cache.conditioning([each.prompt_key for each in asked]), one, None, None, one)


def by_hand(training, taken, asked):
    """Euler's steps of the model as it is from the noise of (seed, self, prompt), all at once."""
    generator, texts = training.generator, training.cache.conditioning([each.prompt_key for each in asked])
    seeds = [stable_seed("own sample", training.config.train.seed, taken, each.prompt_key) for each in asked]
    x = torch.stack([torch.randn(generator.latent_shape(), generator=torch.Generator().manual_seed(seed))
                     for seed in seeds])
    times = generator.schedule(3)
    with torch.no_grad(), generator.measuring():
        for now, then in zip(times, times[1:], strict=False):
            x = x + (then - now) * generator.predict(x, now.repeat(len(x)), texts)
    return x


def drawn(states, training, number):
    noise, rngs = torch.zeros(2, *training.generator.conventions.shape), [torch.Generator().manual_seed(7)] * 2
    states.before(number)
    return states.draw(batch_of(training, number), torch.tensor([0.4, 0.6]), noise, rngs)


def test_the_loser_is_what_the_drawn_self_makes_of_the_same_prompt(training):
    states = OwnReferenceStates(training)
    of_start = by_hand(training, 0, training.asked(0))
    learnt(training)
    first = drawn(states, training, 0)
    assert states.taken == 0 and not torch.allclose(of_start, by_hand(training, 0, training.asked(0)))
    assert torch.equal(torch.stack([states.samples[0, each] for each in training.asked(0)]), of_start)
    [seen] = first
    good = batch_of(training, 0).chosen
    torch.testing.assert_close(seen.x_t, torch.cat([good, of_start]) * (1 - per(torch.tensor([0.4, 0.6] * 2))))
    assert seen.sides == ("chosen", "rejected") and not seen.x_t.requires_grad
    assert torch.equal(states.rejected(training.asked(0)), of_start), "made once"


def test_a_new_self_makes_new_samples_and_an_old_ones_go(training):
    training.config.data = DataSettings(own=OwnSettings(every=1, keep=1, steps=3))
    states = OwnReferenceStates(training)
    drawn(states, training, 0)
    before = states.rejected(training.asked(0))
    for step in (1, 2):
        learnt(training)
        states.after_step(step)
        assert not states.samples and list(states.selves.taken) == [step]
    drawn(states, training, 2)  # the prompts of the first micro-batch again
    assert states.taken == 2 and {key[0] for key in states.samples} == {2}
    assert torch.equal(states.rejected(training.asked(2)), by_hand(training, 2, training.asked(2)))
    assert not torch.allclose(before, states.rejected(training.asked(2)))


def test_the_reference_is_that_self_without_dropout_and_gradients_are_the_policys(training):
    states, generator = OwnReferenceStates(training), training.generator
    [seen] = drawn(states, training, 0)
    prompts = [each.prompt_key for each in training.asked(0)]
    texts = dict.fromkeys(("chosen", "rejected"), training.cache.conditioning(prompts))
    with generator.measuring():
        start = sample_errors(generator, [seen], texts)["rejected"].detach()
    learnt(training)
    with states.reference():
        reference = sample_errors(generator, [seen], texts)
    assert torch.equal(reference["rejected"], start) and not reference["chosen"].requires_grad
    policy = sample_errors(generator, [seen], texts)
    assert not torch.allclose(policy["rejected"], start) and generator._dropout
    policy["rejected"].sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in training.parameters)
    for parameter in training.parameters:
        parameter.grad = None


def test_held_out_samples_are_of_the_model_as_training_started(training):
    states = OwnReferenceStates(training)
    start = by_hand(training, "start", training.asked(0))
    learnt(training)
    states.after_step(1)
    drawn(states, training, 0)
    states.before(None)
    made = states.rejected(training.asked(0))
    torch.testing.assert_close(made, start, atol=1e-6, rtol=1e-5)  # the adapter is 0 there, and off here
    assert states.snapshot is None and torch.equal(states.rejected(training.asked(0)[:1]), made[:1]), "made once"


def test_anchors_are_further_draws_of_the_good_sample_alone_without_gradients(training):
    training.objective = SePPO(anchors=3)
    states, generator = OwnReferenceStates(training), training.generator
    found = drawn(states, training, 0)
    assert [each.sides for each in found] == [("chosen", "rejected"), ("anchor",), ("anchor",)]
    assert [each.learnt for each in found] == [True, False, False]
    assert len({each.t[0].item() for each in found}) == 3
    texts = training.cache.conditioning([each.prompt_key for each in training.asked(0)])
    before = generator.passes.copy()
    errors = sample_errors(generator, found, dict.fromkeys(("chosen", "rejected", "anchor"), texts))
    assert generator.passes - before == {"with gradient": 4, "without gradient": 4}
    assert errors["chosen"].requires_grad and not errors["anchor"].requires_grad
    good = batch_of(training, 0).chosen
    for each in found[1:]:
        torch.testing.assert_close(each.x_t - per(each.t) * each.target, good)  # flow: x_t - t (eps - x0) = x0


def per(t):
    return t.view(-1, 1, 1, 1)


def test_a_scale_for_a_model_without_guidance_is_refused(training, monkeypatch):
    training.config = settings(own=OwnSettings(guidance_scale=2.0))
    monkeypatch.setattr(training.generator, "conventions", SimpleNamespace(guidance=None, embedded=False))
    with pytest.raises(UserError, match="data.own.guidance_scale 2: .* is without guidance here"):
        OwnReferenceStates(training)


@pytest.mark.parametrize("model, options", [
    ("sd3", {}), pytest.param("sdxl", {"own": OWN | {"guidance_scale": 3.0}}, marks=pytest.mark.slow),
    pytest.param("wan", {"own": OWN | {"guidance_scale": 2.0}}, marks=pytest.mark.slow)])
def test_it_trains_from_log_two_and_a_cut_run_ends_in_the_same_bits(recipe, tmp_path, model, options):
    options = {"data": ALL | {"caption_dropout": 0.3} | options, "eval": UNMEASURED, "model": DROPOUT,
               "train": {"steps": 6, "gradient_accumulation": 2}, "objective": {"name": "seppo", "anchors": 2}}
    run(recipe(model, "seppo", name="whole.yaml", output={"folder": str(tmp_path / "whole"), "checkpoint_every": 0},
               **options))
    cut = recipe(model, "seppo", name="cut.yaml", output={"folder": str(tmp_path / "cut"), "checkpoint_every": 3},
                 **options)
    run(cut)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000006")
    run(cut, "--resume")
    a, b = weights(tmp_path / "whole", 6), weights(tmp_path / "cut", 6)
    assert all(torch.equal(a[name], b[name]) for name in a)
    one, other = (rows(tmp_path / name) for name in ("whole", "cut"))
    assert one[0]["loss"] == pytest.approx(0.693147, abs=2e-3) and len(one) == 6
    assert [row["loss"] for row in one] == [row["loss"] for row in other]
    assert all(0 <= row["reference_ahead"] <= 1 for row in one)
    kept = [torch.load(tmp_path / name / "checkpoints" / "step-00000006" / "optimizer.pt", weights_only=True)
            ["extras"]["selves"]["taken"] for name in ("whole", "cut")]
    assert list(kept[0]) == list(kept[1]) == [4, 6]


def test_every_weight_is_trained_and_held_out_ones_are_measured(recipe, tmp_path):
    run(recipe("sd3", "seppo", data={"own": OWN}, train={"steps": 3}, output={"checkpoint_every": 1}))
    first, last = weights(tmp_path / "run", 2), weights(tmp_path / "run", 3)
    assert {name for name in first if torch.equal(first[name], last[name])} <= WITHOUT_GRADIENT
    before, after = rows(tmp_path / "run", "held_out")
    assert "held_out/implicit_accuracy" in after and before["held_out/margin"] == pytest.approx(0, abs=1e-3)
    assert "held_out/gradient_cosine" in after
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("model, plain", [("sdxl", "diffusion_dpo"), ("sd3", "flow_dpo")])
def test_with_the_pairs_own_losers_and_without_the_criterion_it_is_dpo_to_the_bit(recipe, tmp_path, monkeypatch,
                                                                                model, plain):
    run(recipe(model, plain, name="plain.yaml", output={"folder": str(tmp_path / "plain")},
               objective={"name": plain, "beta": 2000}, eval=UNMEASURED))

    class OfThePair(OwnReferenceStates):
        def draw(self, batch, t, noise, rngs):
            self.given = batch.rejected
            return super().draw(batch, t, noise, rngs)

        def rejected(self, asked):
            return self.given

    monkeypatch.setitem(module.STATES, "own_reference", OfThePair)
    run(recipe(model, "seppo", objective={"name": "seppo", "flip": "none"}, data={"own": {"every": 100}},
               eval=UNMEASURED))
    a, b = weights(tmp_path / "plain", 4), weights(tmp_path / "run", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [row["loss"] for row in rows(tmp_path / "plain")] == [row["loss"] for row in rows(tmp_path / "run")]


def test_two_processes_learn_as_one_does(recipe, two_processes, tmp_path):
    options = {"eval": UNMEASURED, "optim": {"lr": 1e-4}}
    run(recipe("sd3", "seppo", name="one.yaml", output={"folder": str(tmp_path / "one")}, data=ALL,
               train={"batch_size": 2}, **options))
    two_processes(VISALIGN, "train", recipe(
        "sd3", "seppo", name="two.yaml", output={"folder": str(tmp_path / "two")}, train={"batch_size": 1},
        data=ALL | {"cache": str(tmp_path / "cache2")}, **options))
    assert rows(tmp_path / "two", "start")[0]["processes"] == 2
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
    a, b = weights(tmp_path / "one", 4), weights(tmp_path / "two", 4)
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("options", [
    {"model": {"tuning": "full", "gradient_checkpointing": True}},
    {"train": {"one_side_at_a_time": True}, "objective": {"flip": "indicator", "anchors": 2}},
    {"data": {"buckets": True}, "train": {"batch_size": 1}}])
def test_options_train(recipe, tmp_path, options):
    run(recipe("sd3", "seppo", **{"eval": UNMEASURED} | options | {
        "data": ALL | options.get("data", {}), "train": {"steps": 3} | options.get("train", {})}))
    assert all(torch.tensor(row["loss"]).isfinite() for row in rows(tmp_path / "run"))


def test_winners_alone_are_enough(recipe, pairs_file, tmp_path):
    table = tmp_path / "winners.jsonl"
    table.write_text("".join(json.dumps({"prompt": row["prompt"], "image": row["chosen"]}) + "\n"
                             for row in map(json.loads, pairs_file.read_text().splitlines())))
    run(recipe("sd3", "seppo", data=ALL | {"path": str(table)}, eval=UNMEASURED, train={"steps": 2}))
    folder = tmp_path / "captioned"
    folder.mkdir()
    for number, row in enumerate(map(json.loads, table.read_text().splitlines())):
        shutil.copy(tmp_path / row["image"], folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(row["prompt"])
    run(recipe("sd3", "seppo", data=ALL | {"path": str(folder)}, eval=UNMEASURED, train={"steps": 2},
               output={"folder": str(tmp_path / "of-folder")}))
    one, two, pairs = rows(tmp_path / "run"), rows(tmp_path / "of-folder"), tmp_path / "of-pairs"
    run(recipe("sd3", "seppo", data=ALL, eval=UNMEASURED, train={"steps": 2}, output={"folder": str(pairs)}))
    assert [row["loss"] for row in one] == [row["loss"] for row in rows(pairs)], "of pairs only the chosen is used"
    assert len(two) == 2


@pytest.mark.parametrize("overrides, words", [
    (["objective.name=sft", "data.own={every: 3}"], "data.own: objective sft learns from no samples"),
    (["data.goals={}"], "data.goals: asks for the score of either sample of a pair, and objective seppo"),
    (["data.swap=true"], "data.swap: objective seppo compares no two samples"),
    (["data.good_from=3"], "data.good_from: objective seppo does not learn from"),
    (["model.reference=base"], "model.reference base: objective seppo compares with earlier selves"),
    (["data.own.every=0"], "data.own.every"), (["data.own.keep=0"], "data.own.keep"),
    (["data.own.step=3"], "data.own.step"), (["objective.flip=maybe"], "objective.flip"),
    (["objective.flip=none", "objective.anchors=2"], "anchors 2 tell what flip 'none'")])
def test_what_does_not_go_is_said_before_a_model_is_loaded(recipe, monkeypatch, overrides, words):
    monkeypatch.setattr("visalign.jobs.train.load_generator", None)
    assert words in fails(recipe("sd3", "seppo"), *overrides)


def test_a_prior_set_and_prompts_with_source_images_are_told_what_fits(recipe, pairs_file, monkeypatch):
    monkeypatch.setattr("visalign.jobs.train.load_generator", None)
    sources = [{"path": str(pairs_file)}, {"path": str(pairs_file), "prior": True}]
    assert "take objective.name=sft" in fails(recipe("sd3", "seppo", data={"path": None, "sources": sources}))
    edits = SimpleNamespace(sources="one image", pipeline_class="Edits")
    file = recipe("sd3", "seppo")
    with pytest.raises(UserError, match="data.own.guidance_scale: .* each prompt of Edits has source images"):
        check_own(load_config(file, ["data.own.guidance_scale=2"]), edits)
    check_own(load_config(file, ["data.own.guidance_scale=1"]), edits)


def test_other_selves_are_another_run(recipe):
    file = recipe("sd3", "seppo", data=ALL, eval=UNMEASURED, train={"steps": 2})
    run(file)
    assert "data.own was" in fails(file, "train.steps=4", "data.own.every=3", "--resume")


def test_divided_weights_are_refused(recipe, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "objective seppo: lets each process sample" in fails(recipe("sd3", "seppo"), "--dry-run")


def test_what_it_costs_is_counted(recipe):
    config = load_config(recipe("sd3", "seppo", data={"own": OWN | {"guidance_scale": 3.0}}))
    objective = build_objective(config.objective)
    assert passes_of_step(config, objective) == 2 * (2 * 4 + 4)  # two winners: both sides, and 2 steps of 2 passes
    anchored = replace(objective, anchors=3)
    assert passes_of_step(config, anchored) == 2 * (2 * 6 + 4)
    said = CliRunner().invoke(main, ["train", str(recipe("sd3", "seppo", data={"own": OWN})), "--dry-run"]).output
    assert "policy on chosen and rejected, reference without gradient, and 2 for each prompt and earlier self" in said
    assert "earlier selves" in said and "samples of earlier selves, of which host memory keeps the latents" in said
