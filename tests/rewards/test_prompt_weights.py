"""Rewards weighed by the prompt: identities, a planted dependence, and files that do not fit."""

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.rewards.prompt_weights import PromptWeights, fit_prompt_weights

RED, GREY = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "grey")


def planted(count: int, seed: int = 0):
    """Prompts of two kinds; in one the first reward decides, in the other the second."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.rand(count, generator=generator) < 0.5
    features = torch.where(kind[:, None], torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    a, b = torch.randn(2, count, 2, generator=generator)
    decides = torch.where(kind, (a - b)[:, 0], (a - b)[:, 1])
    return a, b, decides > 0, features


def right(weights: PromptWeights, a, b, won, features) -> float:
    return ((weights.combine(a, features) > weights.combine(b, features)) == won).float().mean().item()


def test_without_a_head_weights_are_the_same_and_without_a_bias_equal():
    weights = PromptWeights(torch.zeros(2, 3), torch.zeros(2), torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1.0]))
    features = torch.eye(3)
    assert torch.equal(weights.of(features), torch.full((3, 2), 0.5))
    # (3 - 1) / 2 = 1 and 2: half of each
    assert weights.combine(torch.tensor([[3.0, 2.0]]).expand(3, 2), features).tolist() == [1.5] * 3
    leaning = weights._replace(bias=torch.tensor([0.0, 3.0]).log_softmax(-1))
    assert torch.allclose(leaning.of(features), leaning.bias.exp().expand(3, 2))


def test_a_planted_dependence_on_the_prompt_is_found():
    train, test = planted(400), planted(400, seed=1)
    by_prompt, alike = fit_prompt_weights(*train), fit_prompt_weights(*train, by_prompt=False)
    assert not alike.head.any() and right(by_prompt, *test) > 0.97
    assert right(alike, *test) < 0.85
    weights = by_prompt.of(torch.eye(2))
    assert weights[0, 0] > 0.9 and weights[1, 1] > 0.9
    scaled = [1000 * part + 5 if place < 2 else part for place, part in enumerate(train)]
    torch.testing.assert_close(fit_prompt_weights(*scaled).head, by_prompt.head, atol=0.05, rtol=0.02)


def test_a_constant_reward_is_refused():
    a, b, won, features = planted(20)
    a[:, 1] = b[:, 1] = 3
    with pytest.raises(ValueError, match="reward 2 is the same for all samples"):
        fit_prompt_weights(a, b, won, features)


@pytest.fixture
def file(tmp_path):
    save_file({"head": torch.zeros(2, 128), "bias": torch.tensor([0.0, 0.0]), "mean": torch.zeros(2),
               "std": torch.ones(2)}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def spec(file, **settings):
    return {"kind": "prompt_weighted", "of": ["saturation", "contrast"], "file": str(file),
            "prompts_by": "tiny-clip"} | settings


def width() -> int:
    return load_reward("tiny-clip").prompt_features(["a"])[0].shape[1]


def test_as_a_reward_it_is_the_mean_where_weights_are_equal(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file({"head": torch.zeros(2, width()), "bias": torch.zeros(2), "mean": torch.zeros(2), "std": torch.ones(2)},
              file)
    reward = load_reward(spec(file))
    assert reward.held_bytes() == load_reward("tiny-clip").held_bytes()
    values = reward.score([Sample("a red ball", RED), Sample("a cat", GREY)]).values.flatten().tolist()
    assert values == pytest.approx([0.5, 0.0], abs=1e-6)  # saturation 1 and 0, contrast 0


def test_mistakes_end_in_one_sentence(tmp_path, file):
    told = {
        "set file to what": spec("") | {"file": ""},
        "cannot be read|no such file|not there|missing": spec(tmp_path / "none.safetensors"),
        "weighs 2 rewards, and `of` has 3": spec(file, of=["saturation", "contrast", "sharpness"]),
        "prompts_by must be a CLIP model": spec(file, prompts_by="saturation"),
        "neither a known reward": spec(file, prompts_by="nothing"),
    }
    for words, each in told.items():
        with pytest.raises(UserError, match=words):
            load_reward(each)
    save_file({"direction": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="holds direction; expected head, bias, mean, std"):
        load_reward(spec(tmp_path / "other.safetensors"))
    save_file({"head": torch.zeros(2, 7), "bias": torch.zeros(2), "mean": torch.zeros(2), "std": torch.ones(2)},
              tmp_path / "narrow.safetensors")
    with pytest.raises(UserError, match="has 7 numbers and the features of tiny-clip have"):
        load_reward(spec(tmp_path / "narrow.safetensors"))
