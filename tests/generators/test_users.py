"""The second term of attention, by which a network is told of a user, on networks of every kind."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators import load_generator
from visalign.generators.base import Guidance
from visalign.generators.files.sketching import check_user_adapter
from visalign.generators.users import (
    USER,
    USER_FILES,
    UserAdapter,
    UserAttention,
    interpolated,
    normalised,
    read_user_adapter,
    write_user_adapter,
)
from visalign.rewards.users import pair_tokens

KINDS = ["tiny-sd3", "tiny-sdxl"]


def loaded(name, **settings):
    return load_generator(ModelSettings(source=name, precision="fp32", **settings), "cpu")


def asked(generator, count=2, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *generator.latent_shape(), generator=rng)
    t = generator.process.times_at(torch.linspace(0.3, 0.8, count))
    return x, t, generator.encode_prompts(["a red fruit", "a dog", "a cat face"][:count])


def tokens(generator, *shape, seed=1):
    return torch.randn(*shape, generator.user_term.width, generator=torch.Generator().manual_seed(seed))


def moved(generator, std=0.05):
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in generator.user_term.weights().items():
            if name.endswith("to_v.weight"):
                weight.copy_(std * torch.randn(weight.shape, generator=rng))


def pictures(generator, prompts=("a dog", "a cat face"), scale=1.0):
    drawn = next(iter(generator.sample(list(prompts), [0, 1][:len(prompts)], steps=3, guidance_scale=scale)))
    return [np.asarray(each) for each in drawn]


def test_the_hand_number():
    """One head of one number: Q = 1, u = (0, ln 3), W_k' = W_v' = 1: (1/4) 0 + (3/4) ln 3 = 0.823959."""
    term = UserAttention(1, 1, 1, 1, torch.device("cpu"))
    nn.init.ones_(term.to_k.weight)
    nn.init.ones_(term.to_v.weight)
    user = torch.tensor([[[0.0], [math.log(3)]]])
    assert term(torch.ones(1, 1, 1), user).item() == pytest.approx(0.823959, abs=1e-6)
    assert term(torch.ones(1, 1, 1), torch.zeros(1, 2, 1)).item() == 0


def test_it_is_a_second_attention_of_every_head():
    torch.manual_seed(0)
    term = UserAttention(6, 2, 8, 4, torch.device("cpu"))
    nn.init.normal_(term.to_v.weight)
    query, user = torch.randn(3, 5, 8), torch.randn(3, 4, 6)
    keys, values = user @ term.to_k.weight.T, user @ term.to_v.weight.T
    for head in range(2):
        own, out = slice(4 * head, 4 * head + 4), slice(2 * head, 2 * head + 2)
        expected = torch.softmax(query[..., own] @ keys[..., own].mT / 2, -1) @ values[..., out]
        torch.testing.assert_close(term(query, user)[..., out], expected)


def test_tokens_of_a_pair():
    found = pair_tokens(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0]))
    torch.testing.assert_close(found, math.sqrt(2) * torch.tensor([0.0, 1.0, 0.6, 0.8]))
    assert pair_tokens(torch.ones(4), torch.ones(4))[:4].abs().max() == 0  # nothing is preferred between equals


@pytest.mark.parametrize("name", [*KINDS, "tiny-wan"])
def test_it_begins_as_the_base_to_the_bit_and_only_it_learns(name):
    generator = loaded(name)
    x, t, prompts = asked(generator)
    with torch.no_grad():
        base = generator.predict(x, t, prompts)
    parameters = generator.make_trainable("user", user_features="tiny-clip")
    user = {USER: tokens(generator, 2, 4)}
    prediction = generator.predict(x, t, prompts | user)
    assert torch.equal(prediction, base) and torch.equal(generator.predict(x, t, prompts), base)
    prediction.square().mean().backward()
    learning = {id(p) for p in parameters}
    assert all((p.grad is not None) == (id(p) in learning) for p in generator.denoiser.parameters())
    assert {name for name, _ in generator.trainable_parameters()} == generator.user_term.weights().keys()
    for layer, weight in generator.user_term.weights().items():
        assert bool(weight.grad.abs().max() > 0) == layer.endswith("to_v.weight"), layer


@pytest.mark.parametrize("name", KINDS)
def test_order_rows_and_reference(name):
    generator = loaded(name)
    x, t, prompts = asked(generator)
    base = generator.predict(x, t, prompts)
    generator.make_trainable("user", user_features="tiny-clip")
    moved(generator)
    user = tokens(generator, 2, 4)
    with torch.no_grad():
        told = generator.predict(x, t, prompts | {USER: user})
        assert (told - base).abs().max() > 1e-2
        mixed = generator.predict(x, t, prompts | {USER: user[:, [2, 0, 3, 1]]})
        torch.testing.assert_close(mixed, told, atol=1e-5, rtol=1e-4)
        first = torch.stack([torch.zeros_like(user[0]), user[1]])
        half = generator.predict(x, t, prompts | {USER: first})
        assert torch.equal(half[0], base[0])
        torch.testing.assert_close(half[1], told[1], atol=1e-5, rtol=1e-4)
        assert torch.equal(generator.predict(x, t, prompts), base)
        with generator.reference():
            assert torch.equal(generator.predict(x, t, prompts | {USER: user}), base)
        generator.set_adapter_strength(0.0)
        assert torch.equal(generator.predict(x, t, prompts | {USER: user}), base)


@pytest.mark.parametrize("attention", ["native", "math"])
@pytest.mark.parametrize("name", KINDS)
def test_recomputed_blocks_are_for_the_same_users(name, attention):
    """Several passes before the backward, each for others."""
    found = []
    for checkpointing in (False, True):
        generator = loaded(name, attention=attention)
        x, t, prompts = asked(generator)
        torch.manual_seed(0)
        parameters = generator.make_trainable("user", user_features="tiny-clip", gradient_checkpointing=checkpointing)
        moved(generator)
        passes = [generator.predict(x, t, prompts | {USER: tokens(generator, 2, 4, seed=seed)}) for seed in (3, 4)]
        with generator.reference():
            generator.predict(x, t, prompts)
        (passes[0].square().mean() + 2 * passes[1].square().mean()).backward()
        found.append([parameter.grad for parameter in parameters])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_sampling_is_for_the_user_on_the_conditional_branch_alone(name):
    """By the pipeline as by hand: u + s (c - u), of which c alone is told of the user."""
    generator = loaded(name)
    before = {scale: pictures(generator, scale=scale) for scale in (1.0, 3.0)}
    generator.make_trainable("user", user_features="tiny-clip")
    moved(generator)
    user = {"a dog": tokens(generator, 4), "a cat face": torch.zeros(4, generator.user_term.width)}
    for scale, own in before.items():
        assert all(np.array_equal(a, b) for a, b in zip(own, pictures(generator, scale=scale), strict=True))
        generator.user_of = user.__getitem__
        dog, cat = pictures(generator, scale=scale)
        generator.user_of = None
        assert not np.array_equal(dog, own[0]) and np.array_equal(cat, own[1])
    x, t, prompts = asked(generator)
    negative = generator.encode_negatives(["a red fruit", "a dog"])
    told = prompts | {USER: torch.stack([user["a dog"]] * 2)}
    with torch.no_grad():
        wanted, plain = generator.predict(x, t, told), generator.predict(x, t, negative)
        torch.testing.assert_close(generator.predict(x, t, told, Guidance(3.0, negative)),
                                   plain + 3 * (wanted - plain), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_pipeline_tells_the_calls_of_its_network_apart(scale):
    generator, seen = loaded("tiny-sd3"), []
    generator.make_trainable("user", user_features="tiny-clip")
    user = tokens(generator, 4)
    generator.user_of = lambda prompt: user
    generator.denoiser.transformer_blocks[0].register_forward_pre_hook(
        lambda *_: seen.append(generator.user_term.tokens))
    pictures(generator, ["a dog"], scale)
    assert len(seen) == 3 and generator.user_term.tokens is None
    place = generator.conventions.wanted_place
    for told in seen:
        assert torch.equal(told[place if scale > 1 else 0], user)
        assert scale == 1 or told[1 - place].abs().max() == 0


def test_a_file_is_written_and_read_again(tmp_path):
    generator = loaded("tiny-sd3")
    generator.make_trainable("user", user_features="tiny-clip")
    moved(generator)
    user = tokens(generator, 4)
    generator.user_of = lambda prompt: user
    wanted = pictures(generator)
    about = UserAdapter("tiny-clip", 4, generator.user_term.width)
    written = write_user_adapter(generator.user_term, tmp_path, about)
    assert [file.name for file in written] == list(USER_FILES) and read_user_adapter(tmp_path) == about
    check_user_adapter(ModelSettings(source="tiny-sd3"), tmp_path)
    other = loaded("tiny-sd3")
    base = pictures(other)
    other.load_user_adapter(tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(base, pictures(other), strict=True))
    other.user_of = lambda prompt: user
    assert all(np.array_equal(a, b) for a, b in zip(wanted, pictures(other), strict=True))
    with pytest.raises(UserError, match="has one already"):
        other.load_user_adapter(tmp_path)
    other.unload_adapter()
    assert all(np.array_equal(a, b) for a, b in zip(base, pictures(other), strict=True))
    assert not any("user" in name.split(".") for name, _ in other.denoiser.named_modules())


def test_files_that_do_not_fit(tmp_path):
    generator = loaded("tiny-sd3")
    with pytest.raises(UserError, match=r"has no user_adapter.json; give a run with model.tuning user"):
        generator.load_user_adapter(tmp_path)
    generator.make_trainable("user", user_features="tiny-clip")
    write_user_adapter(generator.user_term, tmp_path, UserAdapter("tiny-clip", 4, generator.user_term.width))
    with pytest.raises(UserError, match="is of users .* and no LoRA"):
        loaded("tiny-sd3").load_adapter(tmp_path)
    other = loaded("tiny-sdxl")
    with pytest.raises(UserError, match="is not for this model"):
        other.load_user_adapter(tmp_path)
    assert other.user_term is None and not any("user" in name.split(".") for name, _ in other.denoiser.named_modules())
    weights = load_file(tmp_path / USER_FILES[0])
    save_file({name: weight[:2].contiguous() for name, weight in weights.items()}, tmp_path / USER_FILES[0])
    with pytest.raises(UserError, match="is not for this model"):
        check_user_adapter(ModelSettings(source="tiny-sd3"), tmp_path)
    for said in ({"features": "tiny-clip", "context": 0, "width": 256}, {"features": "tiny-clip"}):
        (tmp_path / USER_FILES[1]).write_text(json.dumps(said))
        with pytest.raises(UserError, match="features, context and width alone"):
            read_user_adapter(tmp_path)


def test_a_network_without_such_an_attention_is_refused():
    from visalign.generators.users import UserTerm

    with pytest.raises(UserError, match="has no attention that reads the text .*; use model.tuning=lora"):
        UserTerm(nn.Linear(2, 2), 4, "APipeline")


def test_queries_are_normalised_as_their_network_does():
    class Attended(nn.Module):
        heads = 2

    attention = Attended()
    query = torch.randn(1, 3, 8)
    assert normalised(attention, query) is query
    attention.norm_q = nn.RMSNorm(8)
    torch.testing.assert_close(normalised(attention, query), attention.norm_q(query))
    attention.norm_q = nn.RMSNorm(4)
    torch.testing.assert_close(normalised(attention, query),
                               torch.cat([attention.norm_q(query[..., :4]), attention.norm_q(query[..., 4:])], -1))


def test_between_two_users():
    one, other = torch.zeros(2, 3), torch.ones(2, 3)
    assert [interpolated(one, other, share).mean().item() for share in (0.0, 0.25, 1.0)] == [0, 0.25, 1]
    with pytest.raises(ValueError, match="users of 2 and of 1 pairs cannot be mixed"):
        interpolated(one, other[:1], 0.5)
