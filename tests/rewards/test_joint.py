"""The unified reward: shapes, modalities, saving and loading, both backbones."""

import json

import pytest
import torch
from PIL import Image

from visalign.config import JointSettings
from visalign.errors import UserError
from visalign.media.samples import Sample, Video
from visalign.rewards import load_reward
from visalign.rewards.joint.heads import KnownUsers
from visalign.rewards.joint.network import HierarchicalPool, TemporalPool, sinusoids
from visalign.rewards.joint.reward import build_network, save_reward

from .tiny_vlm import build_tiny_vlm

RED, BLUE = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
CLIP = Sample("a fruit moving left", Video([RED, BLUE, RED], 4.0))
SAMPLES = [Sample("a red fruit", RED), CLIP]
SETTINGS = {"dimensions": ("alignment", "quality", "motion"), "layers": (1, 3), "width": 32, "members": 3, "frames": 4}


def saved(folder, **changes):
    settings = JointSettings(**SETTINGS | changes)
    network = build_network(settings).eval()
    save_reward(
        folder,
        network,
        settings,
        {"mean": [0.5] * len(settings.dimensions), "std": [2.0] * len(settings.dimensions)},
        {},
    )
    return network


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_a_saved_reward_gives_the_networks_values_in_its_own_units(tuning, tmp_path):
    network = saved(tmp_path / "r", tuning=tuning)
    reward = load_reward(str(tmp_path / "r"))
    answer = reward.score(SAMPLES)
    with torch.no_grad():
        members = (network(**network.backbone.collate(SAMPLES)) - 0.5) / 2.0
    torch.testing.assert_close(answer.values[1], members[1].mean(0))
    torch.testing.assert_close(answer.spread[1], members[1].std(0, correction=0))
    torch.testing.assert_close(answer.values[0, :2], members[0, :, :2].mean(0))
    assert answer.values[0, 2].isnan() and answer.remarks[0] == "motion: videos only"
    assert reward.dimensions == ("alignment", "quality", "motion") and reward.logit_scale == (2.0,) * 3


def test_a_fully_tuned_reward_needs_nothing_but_its_folder(tmp_path):
    saved(tmp_path / "r", tuning="full")
    saved_settings = json.loads((tmp_path / "r" / "reward.json").read_text())
    assert saved_settings["model"]["source"] == "." and (tmp_path / "r" / "tokenizer.json").is_file()
    frozen = saved(tmp_path / "f", tuning="frozen")
    assert (tmp_path / "f" / "reward.safetensors").stat().st_size < (
        tmp_path / "r" / "reward.safetensors"
    ).stat().st_size
    assert not any(p.requires_grad for p in frozen.backbone.clip.parameters())


def test_a_batch_gives_what_single_samples_give():
    network = build_network(JointSettings(**SETTINGS)).eval()
    with torch.no_grad():
        together = network(**network.backbone.collate([*SAMPLES, Sample("x", BLUE)]))
        alone = torch.cat([network(**network.backbone.collate([s])) for s in [*SAMPLES, Sample("x", BLUE)]])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_the_order_of_frames_matters_and_padding_does_not():
    torch.manual_seed(0)
    pool = TemporalPool(8, 16, 4).eval()
    frames = torch.randn(1, 3, 8)
    mask = torch.tensor([[False, False, False]])
    padded = torch.cat([frames, torch.randn(1, 2, 8)], 1)
    long_mask = torch.tensor([[False, False, False, True, True]])
    torch.testing.assert_close(pool(frames, mask), pool(padded, long_mask), atol=1e-5, rtol=1e-4)
    assert (pool(frames, mask) - pool(frames.flip(1), mask)).abs().max() > 1e-3


def test_hierarchical_pooling_reads_every_layer_and_ignores_padding():
    torch.manual_seed(0)
    pool = HierarchicalPool([6, 10], 16, 4).eval()
    layers = [torch.randn(2, 5, 6), torch.randn(2, 5, 10)]
    for k in range(2):
        changed = [layer + 1.5 * torch.randn_like(layer) * (i == k) for i, layer in enumerate(layers)]
        assert (pool(changed) - pool(layers)).abs().max() > 1e-3
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[:, 3:] = True
    noisy = [torch.cat([layer[:, :3], torch.randn(2, 2, layer.shape[-1])], 1) for layer in layers]
    torch.testing.assert_close(pool(layers, mask), pool(noisy, mask), atol=1e-5, rtol=1e-4)


def plain_pool(residual):
    """Two layers, width 4, whose values are the tokens themselves and whose attention is by their own product."""
    torch.manual_seed(0)
    pool = HierarchicalPool([4, 4], 4, 1, residual).eval()
    pool.project = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
    for attend in (*pool.attend, pool.attend_last):
        attend.in_proj_weight.data = torch.eye(4).repeat(3, 1)
        attend.out_proj.weight.data = torch.eye(4)
    return pool


def test_replacing_the_query_a_shallow_layer_is_heard_only_in_what_the_next_is_asked():
    first, other, equal = torch.randn(1, 3, 4), torch.randn(1, 3, 4), torch.ones(1, 3, 4)
    replacing, adding = plain_pool(False), plain_pool(True)
    # equal tokens answer alike whatever they are asked: 1 from the traveller, 1 from the second query
    torch.testing.assert_close(replacing([first, equal]), torch.full((1, 4), 2.0))
    read = torch.nn.functional.scaled_dot_product_attention(adding.shallow_query, first, first)[:, 0]
    torch.testing.assert_close(adding([first, equal]), 2 + adding.shallow_query[:, 0] + read)
    assert (adding([first, equal]) - adding([other, equal])).abs().max() > 1e-2
    unequal = torch.randn(1, 3, 4)
    assert (replacing([first, unequal]) - replacing([other, unequal])).abs().max() > 1e-3


def test_an_old_folder_reads_layers_as_it_was_trained(tmp_path):
    saved(tmp_path / "r", residual=False)
    assert not load_reward(str(tmp_path / "r")).network.backbone.pool.residual
    written = json.loads((tmp_path / "r" / "reward.json").read_text())
    for name in ("residual", "ideal_points", "general"):  # as an older visalign wrote it
        del written["model"][name]
    (tmp_path / "r" / "reward.json").write_text(json.dumps(written))
    assert load_reward(str(tmp_path / "r")).network.backbone.pool.residual


def test_sinusoids_tell_places_apart():
    codes = sinusoids(torch.linspace(0, 1, 9), 12)
    assert codes.shape == (9, 12) and torch.cdist(codes, codes)[~torch.eye(9, dtype=torch.bool)].min() > 0.1
    assert sinusoids(torch.zeros(1), 7).shape == (1, 7)


@pytest.mark.parametrize("layers", [(), (0, 1)])
def test_a_vision_language_model_is_a_backbone(tmp_path, layers):
    folder = build_tiny_vlm(tmp_path / "vlm")
    network = saved(tmp_path / "r", backbone="vlm", source=str(folder), tuning="lora", layers=layers, frames=2)
    answer = load_reward(str(tmp_path / "r")).score(SAMPLES)
    with torch.no_grad():
        raw = network(**network.backbone.collate(SAMPLES)).mean(1)
    torch.testing.assert_close(answer.values[1], (raw[1] - 0.5) / 2.0, atol=1e-4, rtol=1e-4)
    network(**network.backbone.collate(SAMPLES)).sum().backward()
    assert network.backbone.questions.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "spoil, word",
    [
        (lambda f: (f / "reward.json").write_text("{"), "not readable as JSON"),
        (lambda f: (f / "reward.json").write_text("{}"), "not a unified reward's settings"),
        (lambda f: (f / "reward.safetensors").write_bytes(b"x"), "cannot be read"),
        (lambda f: (f / "reward.safetensors").unlink(), "no reward.safetensors"),
    ],
)
def test_broken_folders_are_named(spoil, word, tmp_path):
    saved(tmp_path / "r", tuning="frozen")
    spoil(tmp_path / "r")
    with pytest.raises(UserError, match=word):
        load_reward(str(tmp_path / "r")).score(SAMPLES)


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"dimensions": ("a", "a"), "video_only": ()}, "twice"),
        ({"dimensions": ("a",)}, "video_only"),
        ({"width": 30, "attention_heads": 4}, "multiple"),
        ({"residual": False}, "model.layers names none"),
        ],
)
def test_impossible_networks_are_refused(settings, word):
    with pytest.raises(ValueError, match=word):
        JointSettings(**settings)


def test_a_tower_whose_weights_use_another_activation_keeps_it(tmp_path):
    import open_clip

    from visalign.rewards.joint.reward import copy_tower_files

    clip = open_clip.create_model("ViT-S-32-alt", load_weights=False, force_quick_gelu=True)
    network = type("Network", (), {"backbone": type("Backbone", (), {"clip": clip})})
    copy_tower_files("ViT-S-32-alt/openai", tmp_path, network)
    again = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False)
    assert any(isinstance(m, open_clip.transformer.QuickGELU) for m in again.modules())
    assert again.state_dict().keys() == clip.state_dict().keys()


def test_blocks_that_do_not_exist_are_named(tmp_path):
    with pytest.raises(UserError, match="block 7, but tiny-clip has the blocks 0 to 3"):
        build_network(JointSettings(**SETTINGS | {"layers": (1, 7)}))
    folder = str(build_tiny_vlm(tmp_path))
    with pytest.raises(UserError, match="block 2"):
        build_network(JointSettings(**SETTINGS | {"backbone": "vlm", "source": folder, "layers": (2,)}))


@pytest.mark.parametrize("head", [{}, {"ideal_points": {"prototypes": 2}}, {"variational": {"size": 4}},
                                  {"groups": {"count": 2}}, {"general": {"blocks": 1}}])
def test_every_head_says_what_it_reads(head):
    """Normed: of mean 0 and variance 1, at the start of training."""
    settings = JointSettings(dimensions=("quality",), video_only=(), width=16, members=2, **head)
    network = build_network(settings, users=KnownUsers(("user-0", "user-1"), 2, (1, 1)))
    seen = network.backbone(**network.backbone.collate(SAMPLES))
    with torch.no_grad():
        read = network.heads.read_as(seen).flatten(1)
    assert read.shape == (len(SAMPLES), network.backbone.features)
    torch.testing.assert_close(read.mean(1), torch.zeros(len(SAMPLES)), atol=1e-4, rtol=0)
    torch.testing.assert_close(read.std(1, correction=0), torch.ones(len(SAMPLES)), atol=1e-2, rtol=0)
