"""HPSv3 and VideoReward on a tiny Qwen2-VL in the published layouts, computed again without visalign."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.transforms.functional import InterpolationMode, pil_to_tensor, resize

from visalign.errors import UserError
from visalign.media.samples import Sample, Video
from visalign.rewards import load_reward
from visalign.rewards.qwen_heads import even_count, fit_frame, merged, smart_size

from .tiny_vlm import build_tiny_vlm

IMAGE = Image.effect_noise((60, 40), 80).convert("RGB")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_tiny_vlm(tmp_path_factory.mktemp("qwen"))


def old_name(key: str) -> str:
    """The names of the transformers release the checkpoints were written with."""
    return key.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


def tuned(base, tokens, head):
    """A model that knows the tokens and whose weights moved, its state under the old names, its processor."""
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

    torch.manual_seed(9)
    model = Qwen2VLForConditionalGeneration.from_pretrained(base)
    processor = AutoProcessor.from_pretrained(base)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    state = {old_name(k): v.clone() for k, v in model.state_dict().items()}
    return model.eval(), state | {f"rm_head.{k}": v for k, v in head.state_dict().items()}, processor


def test_hpsv3_is_the_ranknet_head_at_the_reward_token(base, tmp_path):
    head = torch.nn.Sequential(
        torch.nn.Linear(32, 10),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.05),
        torch.nn.Linear(10, 6),
        torch.nn.ReLU(),
        torch.nn.Linear(6, 2),
    ).eval()
    model, state, processor = tuned(base, ["<|Reward|>"], head)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "HPSv3.safetensors")
    (tmp_path / "instruction.txt").write_text("Rate {prompt} now: <|Reward|> END")
    reward = load_reward(
        {
            "kind": "hpsv3",
            "source": str(tmp_path),
            "base": str(base),
            "precision": "fp32",
            "template": str(tmp_path / "instruction.txt"),
        }
    )
    reward.pixels = 56 * 56
    answer = reward.score([Sample("a cat", IMAGE), Sample("a longer prompt", IMAGE)])

    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Rate a cat now: <|Reward|> END"}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    width, height = smart_size(60, 40, 56 * 56, 56 * 56)
    inputs = processor(
        text=[text],
        images=[IMAGE.resize((width, height), Image.Resampling.BICUBIC)],
        return_tensors="pt",
        images_kwargs={"do_resize": False},
    )
    token = processor.tokenizer.convert_tokens_to_ids("<|Reward|>")
    with torch.no_grad():
        hidden = model.model(**inputs).last_hidden_state[0, (inputs["input_ids"][0] == token)]
        mu, log_sigma = head(hidden)[0]
    assert answer.values[0, 0] == pytest.approx(mu.item(), abs=1e-4)
    assert answer.spread[0, 0] == pytest.approx(log_sigma.exp().item(), abs=1e-4)
    assert answer.values[1, 0] != answer.values[0, 0]


@pytest.mark.parametrize("lora", [False, True])
def test_videoreward_standardises_each_token_and_sums(base, tmp_path, lora):
    tokens = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")
    head = torch.nn.Linear(32, 1, bias=False)
    model, state, processor = tuned(base, tokens, head)
    home = tmp_path / "checkpoint-12"
    home.mkdir()
    if lora:
        key = "model.layers.0.self_attn.q_proj"
        a, b = torch.randn(2, 32), torch.randn(32, 2)
        adapted = model.model.language_model.layers[0].self_attn.q_proj.weight
        with torch.no_grad():
            adapted.add_(4 / 2 * b @ a)  # alpha / rank
        prefixed = {f"base_model.model.{k.replace(key + '.', key + '.base_layer.')}": v for k, v in state.items()}
        state = prefixed | {
            f"base_model.model.{key}.lora_A.default.weight": a,
            f"base_model.model.{key}.lora_B.default.weight": b,
        }
    torch.save(state, home / "model.pth")
    (tmp_path / "model_config.json").write_text(
        json.dumps(
            {
                "data_config": {"fps": 2.0, "max_frame_pixels": 448 * 448},
                "model_config": {"model_name_or_path": str(base)},
                "peft_lora_config": {"lora_r": 2, "lora_alpha": 4},
                "inference_config": {
                    "VQ_mean": 1.0,
                    "VQ_std": 2.0,
                    "MQ_mean": -0.5,
                    "MQ_std": 4.0,
                    "TA_mean": 0.2,
                    "TA_std": 0.5,
                },
            }
        )
    )
    (tmp_path / "instruction.txt").write_text("Judge {prompt}: " + " ".join(tokens))
    reward = load_reward(
        {
            "kind": "videoreward",
            "source": str(tmp_path),
            "precision": "fp32",
            "template": str(tmp_path / "instruction.txt"),
        }
    )
    frames = [IMAGE.rotate(10 * i) for i in range(8)]
    answer = reward.score([Sample("a cat runs", Video(frames, 4.0)), Sample("a cat", IMAGE)])
    assert "scores videos only" in answer.remarks[1] and answer.values[1].isnan().all()

    # a frame of 60 x 40 grows to the least area: 100,352 / 2,400 is 6.4664 squared, 388 x 258.7 in steps of 28 upwards
    shown = [resize(pil_to_tensor(frames[i]), [280, 392], InterpolationMode.BICUBIC) for i in (0, 2, 5, 7)]
    text = processor.apply_chat_template(
        [
            {
                "role": "user",
                "content": [{"type": "video"}, {"type": "text", "text": "Judge a cat runs: " + " ".join(tokens)}],
            }
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    inputs = processor(
        text=[text], videos=[shown], return_tensors="pt", videos_kwargs={"do_resize": False, "do_sample_frames": False}
    )
    with torch.no_grad():
        logits = head(model.model(**inputs).last_hidden_state)[0, :, 0]
    ids = inputs["input_ids"][0]
    raw = [logits[ids == processor.tokenizer.convert_tokens_to_ids(token)].item() for token in tokens]
    expected = [(raw[0] - 1) / 2, (raw[1] + 0.5) / 4, (raw[2] - 0.2) / 0.5]
    assert answer.values[0].tolist() == pytest.approx([*expected, sum(expected)], abs=2e-4)


def test_templates_and_weights_that_do_not_fit_are_named(base, tmp_path):
    (tmp_path / "instruction.txt").write_text("no placeholder")
    spec = {"kind": "hpsv3", "source": str(tmp_path), "base": str(base), "template": str(tmp_path / "instruction.txt")}
    with pytest.raises(UserError, match="has no {prompt}"):
        load_reward(spec)
    (tmp_path / "instruction.txt").write_text("{prompt} <|Reward|>")
    with pytest.raises(UserError, match="HPSv3.safetensors"):
        load_reward(spec)
    save_file(
        {"rm_head.weight": torch.zeros(2, 32), "model.layers.9.x": torch.zeros(2)}, tmp_path / "HPSv3.safetensors"
    )
    with pytest.raises(UserError, match="layers.9.x is missing"):
        load_reward(spec).score([Sample("a", IMAGE)])


def test_lora_products_are_scaled_and_embedded_names_are_today():
    change = merged(
        {
            "base_model.model.visual.q.base_layer.weight": torch.ones(2, 2),
            "base_model.model.visual.q.lora_A.default.weight": torch.ones(1, 2),
            "base_model.model.visual.q.lora_B.default.weight": torch.full((2, 1), 3.0),
        },
        0.5,
    )
    assert list(change) == ["model.visual.q.weight"] and (change["model.visual.q.weight"] == 2.5).all()


@pytest.mark.parametrize(
    "size, least, most, expected",
    [
        ((56, 28), 0, 10**6, (56, 28)),
        ((60, 40), 3136, 3136, (84, 56)),
        ((10, 10), 3136, 10**6, (56, 56)),
        ((1000, 1000), 0, 448 * 448, (448, 448)),
    ],
)
def test_smart_size_keeps_to_multiples_and_areas(size, least, most, expected):
    assert smart_size(*size, least, most) == expected


@pytest.mark.parametrize(
    "total, fps, rate, asked, expected",
    [
        (81, 16.0, 2.0, None, 10),  # 10.1 frames are 5.06 pairs
        (28, 8.0, 2.0, None, 8),  # 7 frames are 3.5 pairs, which round to 4, not down to 3
        (20, 8.0, 2.0, None, 4),  # 5 frames are 2.5 pairs, and halves go to the even number
        (8, 8.0, 2.0, None, 4),  # one second has 2, the least is 4
        (5, 8.0, 2.0, None, 4),
        (3, 8.0, 2.0, None, 2),  # never more than the video has, in pairs
        (40, 8.0, 2.0, 7, 8),
        (5, 8.0, 2.0, 7, 5),
    ],
)
def test_videoreward_looks_at_pairs_of_frames(total, fps, rate, asked, expected):
    assert even_count(total, fps, rate, asked) == expected


def test_a_frame_has_the_least_area_and_sharp_edges_are_not_clipped_between_passes():
    assert smart_size(320, 240, 100_352, 448 * 448) == (392, 280)  # 320 x 240 is 1.1431 squared short: 365.8 x 274.3
    frame = Image.new("RGB", (64, 64))
    assert fit_frame(frame, 100_352, 448 * 448).size == (336, 336)  # the root of 100,352 is 316.8


def test_a_video_of_one_frame_is_refused(tmp_path):
    (tmp_path / "model_config.json").write_text('{"data_config": {}, "model_config": {"model_name_or_path": "x"}}')
    (tmp_path / "t.txt").write_text("{prompt} <|VQ_reward|> <|MQ_reward|> <|TA_reward|>")
    spec = {"kind": "videoreward", "source": str(tmp_path), "template": str(tmp_path / "t.txt"), "base": "a/b"}
    answer = load_reward(spec).score([Sample("a", Video([IMAGE], 8.0))])
    assert answer.values.isnan().all() and "one frame" in answer.remarks[0]


def test_another_way_of_taking_frames_is_refused(tmp_path):
    settings = {"data_config": {"sample_type": "multi_pts"}, "model_config": {"model_name_or_path": "x/y"}}
    (tmp_path / "model_config.json").write_text(json.dumps(settings))
    (tmp_path / "t.txt").write_text("{prompt} <|VQ_reward|> <|MQ_reward|> <|TA_reward|>")
    with pytest.raises(UserError, match="multi_pts"):
        load_reward({"kind": "videoreward", "source": str(tmp_path), "template": str(tmp_path / "t.txt")})
