"""PickScore, HPS v2.1, aesthetic predictor, ImageReward: tiny random models in the published layouts, scores computed
again without visalign."""

import json
import pickle

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms.functional import InterpolationMode, resize, to_tensor

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.rewards.openclip import EMBEDDED_CLIPS, letterboxed

TINY = str(EMBEDDED_CLIPS["tiny-clip"])
IMAGE = Image.effect_noise((40, 32), 80).convert("RGB")
SAMPLES = [Sample("a red fruit", IMAGE), Sample("a cat face", IMAGE.rotate(90))]


@pytest.fixture(scope="module")
def pickscore_folder(tmp_path_factory):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("pickscore")
    tokenizer = CLIPTokenizer.from_pretrained(TINY)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_pickscore_is_logit_scale_times_cosine(pickscore_folder):
    from transformers import CLIPModel, CLIPProcessor

    model, processor = (
        CLIPModel.from_pretrained(pickscore_folder).eval(),
        CLIPProcessor.from_pretrained(pickscore_folder),
    )
    inputs = processor(
        text=[s.prompt for s in SAMPLES], images=[s.image for s in SAMPLES], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(**inputs).logits_per_image.diagonal()
    torch.testing.assert_close(load_reward(f"pickscore:{pickscore_folder}").score(SAMPLES).values[:, 0], expected)
    scaled = load_reward({"kind": "pickscore", "source": str(pickscore_folder), "scaled": True}).score(SAMPLES)
    torch.testing.assert_close(scaled.values[:, 0], expected / 26)


def test_pickscore_says_when_a_prompt_was_cut(pickscore_folder):
    answer = load_reward(f"pickscore:{pickscore_folder}").score([Sample("red apple " * 20, IMAGE)])
    assert answer.remarks == {0: "prompt cut to the model's 16 tokens"}


def by_hand(image, normalize):
    """An image whose longer side becomes 64, centred on black before it is normalised."""
    scale = 64 / max(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    whole = torch.zeros(3, 64, 64)
    left, top = (64 - width) // 2, (64 - height) // 2
    pixels = resize(to_tensor(image), [height, width], InterpolationMode.BICUBIC)
    whole[:, top : top + height, left : left + width] = pixels
    return normalize(whole)


def test_hpsv2_sees_the_whole_image_on_black():
    preprocess = open_clip.image_transform(4, is_train=False, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    wide = Image.new("RGB", (8, 3), "white")  # scaled by 1/2: 4 x 2 (1.5 goes to the even number), one row of black
    found = letterboxed(preprocess, [wide], "x")[0]
    assert found.shape == (3, 4, 4)
    assert (found[:, [0, 3]] == -1).all() and (found[:, 1:3] - 1).abs().max() < 1e-5
    thin = letterboxed(preprocess, [Image.new("RGB", (1, 900), "white"), Image.new("L", (4, 2), 255)], "x")
    assert (thin[0, 0, :, 1] - 1).abs().max() < 1e-5 and (thin[0, 0, :, 2:] == -1).all()
    assert (thin[1, :, [0, 3]] == -1).all()  # a side of 4 already is padded as well


def test_hpsv2_is_a_hundred_times_the_cosine_of_the_checkpoints_own_weights(tmp_path):
    torch.manual_seed(5)
    model = open_clip.create_model(f"local-dir:{TINY}", load_weights=False)
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "HPS_v2.1_compressed.pt")
    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{TINY}")
    tokens = open_clip.get_tokenizer(f"local-dir:{TINY}")([s.prompt for s in SAMPLES])
    with torch.no_grad():
        image = model.eval().encode_image(torch.stack([by_hand(s.image, *preprocess.transforms[-1:]) for s in SAMPLES]))
        expected = 100 * F.cosine_similarity(image, model.encode_text(tokens))
    reward = load_reward({"kind": "hpsv2", "source": str(tmp_path), "architecture": TINY})
    torch.testing.assert_close(reward.score(SAMPLES).values[:, 0], expected, atol=1e-4, rtol=1e-4)
    features, texts = reward.features([s.image for s in SAMPLES]), reward.prompt_features([s.prompt for s in SAMPLES])
    torch.testing.assert_close(100 * (features * texts[0]).sum(-1), expected, atol=1e-4, rtol=1e-4)
    assert len(texts[1]) == len(SAMPLES)
    for sample, value in zip(SAMPLES, expected, strict=True):  # wide, high and square images
        pixels = to_tensor(sample.image.convert("RGB"))[None].requires_grad_(True)
        found = reward.score_pixels(pixels, [sample.prompt])
        assert found.item() == pytest.approx(value.item(), abs=0.02)
        assert torch.autograd.grad(found.sum(), pixels)[0].abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in reward.network.parameters())
    relative = load_reward({"kind": "relative", "of": {"kind": "hpsv2", "source": str(tmp_path), "architecture": TINY},
                            "good": "yellow", "bad": "blue"})
    assert relative.score(SAMPLES).values.isfinite().all()


def test_aesthetic_is_the_mlp_on_the_unit_embedding(tmp_path):
    torch.manual_seed(6)
    layers = torch.nn.Sequential(
        torch.nn.Linear(128, 12),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(12, 6),
        torch.nn.Dropout(0.1),
        torch.nn.Linear(6, 4),
        torch.nn.Linear(4, 1),
    )
    file = tmp_path / "sac+logos+ava1-l14-linearMSE.pth"
    torch.save({f"layers.{k}": v for k, v in layers.state_dict().items()}, file)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{TINY}")
    with torch.no_grad():
        embedding = model.eval().encode_image(torch.stack([preprocess(s.image) for s in SAMPLES]))
        expected = layers.eval()(embedding / embedding.norm(dim=-1, keepdim=True))
    for source in (file, tmp_path):
        reward = load_reward({"kind": "aesthetic", "source": str(source), "clip": "tiny-clip"})
        torch.testing.assert_close(reward.score(SAMPLES).values, expected)


class Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize("content", ["code", "broken", "other"])
def test_pickles_with_code_broken_files_and_other_weights_are_refused(content, tmp_path, capsys):
    file = tmp_path / "sac+logos+ava1-l14-linearMSE.pth"
    if content == "code":
        file.write_bytes(pickle.dumps({"layers.0.weight": Evil()}))
    elif content == "broken":
        file.write_bytes(b"PK\x03\x04 truncated")
    else:
        torch.save({"head.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(UserError, match=str(file).replace("+", r"\+")):
        load_reward({"kind": "aesthetic", "source": str(file), "clip": "tiny-clip"}).score(SAMPLES)
    assert "never run" not in capsys.readouterr().out


def original_names(blip) -> dict[str, torch.Tensor]:
    """A Blip's weights as the published checkpoint names them."""
    names = [
        ("vision.embeddings.class_embedding", "visual_encoder.cls_token"),
        ("vision.embeddings.position_embedding", "visual_encoder.pos_embed"),
        ("vision.embeddings.patch_embedding", "visual_encoder.patch_embed.proj"),
        ("vision.encoder.layers.", "visual_encoder.blocks."),
        ("vision.post_layernorm", "visual_encoder.norm"),
        (".self_attn.qkv", ".attn.qkv"),
        (".self_attn.projection", ".attn.proj"),
        (".layer_norm1", ".norm1"),
        (".layer_norm2", ".norm2"),
        ("text.", "text_encoder."),
    ]
    found = {}
    for key, value in blip.state_dict().items():
        for ours, theirs in names:
            key = key.replace(ours, theirs) if not (ours == "text." and not key.startswith("text.")) else key
        found[key if key.startswith("mlp.") else f"blip.{key}"] = value
    return found | {"blip.text_encoder.embeddings.position_ids": torch.arange(40)[None]}


@pytest.fixture(scope="module")
def imagereward_folder(tmp_path_factory):
    from transformers import BertTokenizerFast

    from visalign.rewards.imagereward import Blip

    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("imagereward")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *["a", "red", "fruit", "cat", "face"],
        *"bcdefghijklmnopqrstuvwxyz",
    ]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    med = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "vocab_size": len(words),
    }
    (folder / "med_config.json").write_text(json.dumps(med))
    shapes = {
        "vision.embeddings.patch_embedding.weight": (64, 3, 8, 8),
        "vision.embeddings.position_embedding": (1, 17, 64),
        "vision.encoder.layers.1.x": (1,),
        "vision.encoder.layers.0.mlp.fc1.weight": (96, 64),
        "text.embeddings.word_embeddings.weight": (len(words), 16),
        "mlp.layers.0.weight": (12, 16),
        "mlp.layers.2.weight": (6, 12),
        "mlp.layers.4.weight": (1, 6),
    }
    blip = Blip(med, {name: torch.zeros(shape) for name, shape in shapes.items()}).eval()
    torch.save(original_names(blip), folder / "ImageReward.pt")
    return folder, blip


def test_imagereward_is_the_standardised_mlp_on_the_first_token(imagereward_folder):
    from torchvision import transforms
    from transformers import BertTokenizerFast

    folder, blip = imagereward_folder
    reward = load_reward({"kind": "imagereward", "source": str(folder), "tokenizer": None})
    pixels = transforms.Compose(
        [
            transforms.Resize(32, interpolation=3),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    tokens = BertTokenizerFast.from_pretrained(folder)(
        [s.prompt for s in SAMPLES], padding="max_length", max_length=35, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        seen = blip.vision(torch.stack([pixels(s.image) for s in SAMPLES])).last_hidden_state
        read = blip.text(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=seen,
            is_decoder=False,
        ).last_hidden_state[:, 0]
        expected = (blip.mlp["layers"](read) - 0.16717362830052426) / 1.0333394966054072
    torch.testing.assert_close(reward.score(SAMPLES).values, expected, atol=1e-5, rtol=1e-5)


def test_its_vision_encoder_computes_what_the_original_blocks_compute(imagereward_folder):
    _, blip = imagereward_folder
    weights = {k.removeprefix("blip.visual_encoder."): v for k, v in original_names(blip).items() if "visual" in k}
    pixels = torch.randn(1, 3, 32, 32)
    x = F.conv2d(pixels, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=8)
    x = torch.cat([weights["cls_token"], x.flatten(2).transpose(1, 2)], 1) + weights["pos_embed"]

    def norm(x, name):
        return F.layer_norm(x, (64,), weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    for i in range(2):
        q, k, v = F.linear(
            norm(x, f"blocks.{i}.norm1"), weights[f"blocks.{i}.attn.qkv.weight"], weights[f"blocks.{i}.attn.qkv.bias"]
        ).chunk(3, -1)
        mixed = (q @ k.transpose(1, 2) * 64**-0.5).softmax(-1) @ v  # one head of 64
        x = x + F.linear(mixed, weights[f"blocks.{i}.attn.proj.weight"], weights[f"blocks.{i}.attn.proj.bias"])
        hidden = F.gelu(
            F.linear(
                norm(x, f"blocks.{i}.norm2"), weights[f"blocks.{i}.mlp.fc1.weight"], weights[f"blocks.{i}.mlp.fc1.bias"]
            )
        )
        x = x + F.linear(hidden, weights[f"blocks.{i}.mlp.fc2.weight"], weights[f"blocks.{i}.mlp.fc2.bias"])
    with torch.no_grad():
        torch.testing.assert_close(blip.vision(pixels).last_hidden_state, norm(x, "norm"), atol=1e-5, rtol=1e-4)
