"""Renders and scores on disk: nothing twice, and rewards see what the user asked for."""

import pytest
import torch
from PIL import Image

from visalign.config.adapter import AdaptedGenerator
from visalign.config.online import RewardSettings
from visalign.errors import UserError
from visalign.language import renders
from visalign.language.renders import RenderStore, Wanted, read_lines_of, render_seeds
from visalign.media.samples import Sample
from visalign.rewards.base import RewardModel
from visalign.trainers.online.scoring import RewardBatch, RewardSet


class Painter:
    """Paints the number of a prompt's letters and the seed."""

    def __init__(self):
        self.batches = []

    def sample(self, prompts, seeds, **_):
        self.batches.append(list(zip(prompts, seeds, strict=True)))
        yield [Image.new("RGB", (8, 8), (len(prompt), seed % 256, 0)) for prompt, seed in self.batches[-1]]


class Letters(RewardModel):
    """The letters of the prompt that it is shown; nothing for one that begins with x."""

    calls = 0

    def score_batch(self, samples: list[Sample]):
        Letters.calls += len(samples)
        return torch.tensor([[float("nan") if each.prompt.startswith("x") else len(each.prompt)] for each in samples])


def batch_of(values):
    return RewardBatch(values, {0: "it begins with x"}, ~values.isfinite().all(1))


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(renders, "render_identity", lambda *_: "one")
    settings = AdaptedGenerator(model={"source": "any"}, steps=1, guidance_scale=1.0, batch_size=2)

    def make(share=1.0):
        return RenderStore(tmp_path, Painter(), settings, RewardSet(RewardSettings(
            models=("colourfulness",), retries=0, max_failures=share), "cpu", "image"))

    first = make()
    letters = Letters(name="letters")
    monkeypatch.setattr(RewardSet, "score", lambda self, samples: batch_of(letters.score(samples).values))
    Letters.calls = 0
    return first, make


WANTED = [Wanted("user asks", "fox", 1), Wanted("user asks", "fox", 2), Wanted("another", "fox", 1)]


def test_a_render_is_drawn_once_and_scored_once_for_each_user_s_prompt(store):
    """Nine letters and seven: rewards see what users wrote, not the fox. Two renders serve three."""
    first, make = store
    assert first.score(WANTED, "").tolist() == [[9.0], [9.0], [7.0]]
    assert first.generator.batches == [[("fox", 1), ("fox", 2)]] and Letters.calls == 3
    again = make()
    assert again.score([*WANTED, Wanted("another", "cat", 1)], "").flatten().tolist() == [9, 9, 7, 7]
    assert again.generator.batches == [[("cat", 1)]] and Letters.calls == 4 and (again.made, again.kept) == (1, 3)
    assert again.media(WANTED[1]).getpixel((0, 0)) == (3, 2, 0)


def test_what_has_no_score_stays_unknown(store):
    first, make = store
    assert torch.isnan(first.score([Wanted("x asks", "fox", 1)], "")).all()
    assert torch.isnan(make().score([Wanted("x asks", "fox", 1)], "")).all() and Letters.calls == 1


def test_more_unscored_renders_than_allowed_end_the_run(store):
    """One of four is a quarter, two are a half."""
    _, make = store
    four = [Wanted(prompt, "fox", 1) for prompt in ("x", "a", "b", "c")]
    assert make(0.25).score(four, "").isfinite().sum() == 3
    with pytest.raises(UserError, match=r"reward.max_failures 0.25: 2 of 4 renders have no score \(it begins with x\)"):
        make(0.25).score([*(each._replace(seed=2) for each in four[:3]), Wanted("xx", "fox", 2)], "")


def test_after_a_kill_batches_are_what_they_would_have_been(store, tmp_path):
    """Five renders in batches of two; the third batch was being noted when the run was killed: it alone is redone."""
    first, make = store
    wanted = [Wanted("p", name, 0) for name in "abcde"]
    first.render(wanted, "")
    text = (tmp_path / "renders.jsonl").read_text()
    (tmp_path / "renders.jsonl").write_text(text[:-20])
    second = make()
    second.render(wanted, "")
    assert first.generator.batches[2:] == second.generator.batches == [[("e", 0)]]
    assert (tmp_path / "renders.jsonl").read_text() == text


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\nnonsense\n{}\n")
    with pytest.raises(UserError, match="a.jsonl: is damaged; delete it and continue with --resume"):
        read_lines_of(tmp_path / "a.jsonl")
    assert read_lines_of(tmp_path / "b.jsonl") == []


def test_seeds_belong_to_the_prompt_and_the_run():
    seeds = render_seeds(0, "fox", 3)
    assert render_seeds(0, "fox", 2) == seeds[:2] and len({*seeds, *render_seeds(1, "fox", 3),
                                                         *render_seeds(0, "cat", 3)}) == 9


def test_another_weight_or_way_of_sampling_is_another_generator(pipelines):
    from visalign.config import ModelSettings
    from visalign.generators import load_generator

    generator = load_generator(ModelSettings(source=str(pipelines("sd3")), resolution=16), "cpu")
    one = renders.render_identity(generator, 2, 1.0)
    assert one == renders.render_identity(generator, 2, 1.0) != renders.render_identity(generator, 3, 1.0)
    with torch.no_grad():
        next(generator.pipeline.transformer.parameters()).view(-1)[0] += 1
    assert renders.render_identity(generator, 2, 1.0) != one
