"""What a run takes, whether it fits, what is chosen where it does not, and what is said when memory ends."""

import pytest
import torch
from click.testing import CliRunner

from visalign.cli import main
from visalign.config.load import load_config
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.generators.hardware.weightless import Weightless
from visalign.jobs import memory_plan, memory_words
from visalign.jobs.cards import Card, find_card
from visalign.jobs.memory_fit import least_slow
from visalign.jobs.memory_plan import plan_memory
from visalign.jobs.memory_sizes import PassSizes
from visalign.storage.out_of_memory import OutOfMemory, memory_told


@pytest.fixture
def planned(recipe):
    """A small run with its sizes on the CPU."""
    config = load_config(recipe("sdxl"), ("eval.prompts=emoji:held_out", "eval.steps=1", "eval.guidance_scale=2",
                                          "train.batch_size=8", "model.precision=bf16"))
    return config, PassSizes(Weightless(config.model, torch.device("cpu")))


def test_sizes_of_other_batches_lie_on_the_line(planned):
    _, sizes = planned
    sizes.training(2, False), sizes.training(4, False)
    exact = sizes.model.activations(sizes.model.call(16)).kept
    assert sizes.training(16, False) == pytest.approx(exact, rel=0.01)


def test_the_peak_is_what_is_held_and_the_moment_that_takes_most(planned):
    config, sizes = planned
    plan = plan_memory(config, sizes)
    trained = plan.held["trained weights"]
    assert plan.held["optimiser"] == 2 * trained  # AdamW: two moments in float32
    assert plan.peak == max(sum(plan.held.values()) + sum(parts.values()) for parts in plan.moments.values())
    assert plan.moments["a step's backward pass"]["gradients"] == trained


def test_a_weight_that_two_modules_share_is_held_once(recipe):
    settings = load_config(recipe("sd3")).model  # with a T5, whose embedding is a part of its encoder too
    loaded = load_generator(settings, torch.device("cpu"))
    held = sum(p.numel() * p.element_size() for part in loaded.frozen_modules() if part is not loaded.pipeline.vae
               for p in (*part.parameters(), *part.buffers()))
    assert PassSizes(Weightless(settings, torch.device("cpu"))).held.text_encoders == held


def test_the_least_slow_settings_that_fit_are_chosen(planned):
    config, sizes = planned
    whole = plan_memory(config, sizes).peak
    assert least_slow(config, sizes, Card(torch.device("cpu"), whole, "a machine")).choices == ()
    found = least_slow(config, sizes, Card(torch.device("cpu"), whole - 2**16, "a machine"))
    assert found.plan.peak <= whole - 2**16 and 1 < found.time < 1.3
    train = found.config.train
    assert train.batch_size * train.gradient_accumulation == 8 * config.train.gradient_accumulation
    assert least_slow(config, sizes, Card(torch.device("cpu"), 2**20, "a machine")) is None


def test_a_card_that_is_too_small_is_refused_before_loading(recipe, monkeypatch):
    monkeypatch.setattr(memory_words, "TINY", 0)
    monkeypatch.setattr(memory_words, "find_card", lambda device: Card(torch.device("cpu"), 2**29, "a machine"))
    done = CliRunner().invoke(main, ["train", str(recipe("sdxl"))])
    assert done.exit_code == 1 and "GiB are needed at" in done.output and "on a machine" in done.output


def test_what_was_chosen_is_kept_in_the_run_and_taken_again(recipe, monkeypatch, tmp_path):
    def cards(size):
        monkeypatch.setattr(memory_words, "find_card", lambda device: Card(torch.device("cpu"), size, "a machine"))

    config = load_config(recipe("sdxl"), ("model.memory=auto", "model.precision=bf16", "eval.prompts=emoji:held_out"))
    sizes = PassSizes(Weightless(config.model, torch.device("cpu")))
    cards(plan_memory(config, sizes).peak - 2**12)
    chosen = memory_words.settled(config, sizes.model.generator)
    assert chosen != config
    known = chosen.model_dump(mode="json")
    cards(2**40)
    assert memory_words.as_chosen(config, known, sizes.model.generator) == chosen


def test_a_card_that_is_not_here_is_planned_for(recipe):
    done = CliRunner().invoke(main, ["train", str(recipe("sd3")), "--dry-run", "--card", "12", "model.memory=auto"],
                              catch_exceptions=False)
    assert done.exit_code == 0 and "on a GPU of 12 GiB" in done.output and "it fits" in done.output
    assert "nothing had to be changed" in done.output and "device                cuda" in done.output
    refused = CliRunner().invoke(main, ["train", str(recipe("sd3")), "--card", "12"])
    assert refused.exit_code == 2 and "--card is for --dry-run" in refused.output
    assert find_card("cpu").bytes > 0


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
                                   RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")])
def test_the_innermost_moment_is_told(error):
    @memory_told("training on pairs")
    def train():
        with memory_told("decoding samples"):
            raise error

    with pytest.raises(OutOfMemory, match="while decoding samples, with .* GiB taken") as told:
        train()
    assert told.value.moment == "decoding samples"


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shapes"), memory_told("sampling"):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize("where, moment", [
    ("visalign.trainers.base.Trainer.backward", "training on pairs"),
    ("visalign.generators.base.Generator.decode_pixels", "decoding samples")])
def test_memory_that_ends_in_a_run_is_told_with_what_to_switch_on(where, moment, recipe, monkeypatch):
    def ended(*arguments, **named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(where, ended)
    monkeypatch.setitem(memory_plan.PROGRAM, "cpu", 0)  # which is most of a tiny model's run
    done = CliRunner().invoke(main, ["train", str(recipe("sdxl")), "model.memory=as_set"])
    assert done.exit_code == 1 and f"the memory ended while {moment}" in done.output, done.output
    assert "GiB less" in done.output and "the estimate for this run is" in done.output


def test_a_reward_without_memory_is_not_asked_again(monkeypatch):
    from visalign.config import RewardSettings
    from visalign.trainers.online.scoring import RewardSet

    rewards, asked = RewardSet(RewardSettings(models=["sharpness"]), "cpu", "image"), []

    def score(samples):
        asked.append(samples)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(rewards.terms[0].reward, "score", score)
    with pytest.raises(UserError, match="while scoring with sharpness"):
        rewards.score([])
    assert len(asked) == 1
