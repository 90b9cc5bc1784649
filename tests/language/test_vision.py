"""Vision-language models: pictures of one colour, of which the right name is preferred."""

import itertools
import json

import pytest
import torch
from PIL import Image

from tests.rewards.tiny_vlm import build_tiny_vlm
from visalign.config import TextDataSettings
from visalign.config.load import load_config
from visalign.data.text_pairs import TextPair, read_text_pairs
from visalign.errors import UserError
from visalign.language.run import train_language
from visalign.language.vision import VisionCollator, hidden, vision_rows
from visalign.storage.language_models import load_language_model
from visalign.storage.run_folder import read_metrics

COLOURS = ("red", "green", "blue", "white")


@pytest.fixture(scope="session")
def tiny_vlm(of_all_workers):
    folder = of_all_workers / "tiny-vlm-lm"
    return folder if (folder / "model.safetensors").exists() else build_tiny_vlm(folder)


@pytest.fixture(scope="session")
def colours(of_all_workers):
    """Tables of pairs: the picture's colour is chosen, another one rejected; `shuffled` with the two pictures
    exchanged; `opa` with own, corrected and truth."""
    root = of_all_workers / "colours"
    root.mkdir(exist_ok=True)
    rows, turned, opa = [], [], []
    for right, wrong in itertools.permutations(COLOURS, 2):
        for shade in range(8):
            file = root / f"{right}-{shade}.png"
            Image.new("RGB", (28, 28), right).point(lambda v, s=shade: max(0, v - 6 * s)).save(file)
            row = {"prompt": "Which colour is this?", "chosen": right, "rejected": wrong}
            rows.append(row | {"image": file.name})
            turned.append(row | {"image": f"{wrong}-{shade}.png"})
            opa.append({"prompt": row["prompt"], "image": file.name, "own": wrong, "corrected": f"it is {right}",
                        "truth": right})
    for name, table in (("pairs", rows), ("shuffled", turned), ("opa", opa)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    return root


def recipe(tiny_vlm, table, out, *overrides):
    file = out.parent / "vlm.yaml"
    file.write_text(f"""
loop: language
model: {{source: {tiny_vlm}, vision: true, tuning: full, precision: fp32}}
data: {{path: {table}, holdout: 0.25}}
objective: {{name: dpo}}
optim: {{lr: 3.0e-3, schedule: constant}}
train: {{steps: 2, batch_size: 4}}
eval: {{max_prompts: 3, samples_per_prompt: 2, reward: brevity, max_tokens: 6}}
output: {{folder: {out}, trackers: []}}
""")
    return load_config(file, overrides)


def pair(path, chosen="red", rejected="blue", **numbers):
    return TextPair(({"role": "user", "content": "Which colour?"},), chosen, rejected, "row 1", images=(str(path),),
                    numbers=numbers)


def test_only_the_answer_and_its_end_are_learnt(tiny_vlm, colours, tmp_path):
    model = load_language_model(str(tiny_vlm), vision=True)
    rows = vision_rows(model, [pair(colours / "red-0.png"), pair(colours / "blue-1.png", "blue", "white")], None,
                       tmp_path, 512)
    batch = VisionCollator(model.processor, ("row", "strength"), 512)(rows)
    answers = [model.tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(
        batch["input_ids"], batch["completion_mask"], strict=True)]
    assert answers == [f"{text}<|im_end|>" for text in ("red", "blue", "blue", "white")]
    assert batch["row"].tolist() == [0, 1] and len(batch["image_grid_thw"]) == 4


def test_a_share_of_the_rejected_side_s_picture_is_hidden(tiny_vlm, colours, tmp_path):
    """128 of 256 blocks of a white picture are black; the chosen side's stays whole."""
    white = Image.new("RGB", (64, 64), "white")
    black = (torch.tensor(list(hidden(white, 0.5, seed=3).convert("L").getdata())) == 0).float().mean()
    assert black == 0.5 and hidden(white, 0.0, 3) is white
    model = load_language_model(str(tiny_vlm), vision=True)
    rows = vision_rows(model, [pair(colours / "white-0.png", "white", "white", masked=0.5)], None, tmp_path, 512)
    batch = VisionCollator(model.processor, ("row",), 512)(rows)
    whole, masked = batch["pixel_values"].chunk(2)
    assert (whole == whole[0, 0]).float().mean() > 0.3 and not torch.equal(whole, masked)
    assert torch.equal(*batch["input_ids"].chunk(2))


def test_what_cannot_be_is_said(tiny_vlm, colours, tmp_path):
    model = load_language_model(str(tiny_vlm), vision=True)
    with pytest.raises(UserError, match="row 1: has no image; with model.vision every row names one"):
        vision_rows(model, [TextPair(({"role": "user", "content": "?"},), "a", "b", "row 1")], None, tmp_path, 512)
    with pytest.raises(UserError, match="train.max_length 20: row 1 has .* tokens with its images"):
        vision_rows(model, [pair(colours / "red-0.png")], None, tmp_path, 20)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n")
    with pytest.raises(UserError, match="row 1"):
        vision_rows(model, [pair(broken)], None, tmp_path, 512)


def test_opa_s_rows_become_three_kinds_of_pairs_and_two_answers(tiny_vlm, colours, tmp_path):
    config = recipe(tiny_vlm, colours / "opa.jsonl", tmp_path / "sft", "data.opa={}", "objective.name=sft",
                    "train.steps=1")
    train_language(config)
    config = recipe(tiny_vlm, colours / "opa.jsonl", tmp_path / "dpo", "data.opa={masked_share: 0.5}",
                    "objective={name: dpo, anchor_weight: 0.2}", f"model.source={tmp_path / 'sft' / 'export'}")
    train_language(config)
    losses = [row["loss"] for row in read_metrics(tmp_path / "dpo") if row["kind"] == "train"]
    # log 2 and the anchor's 0.2 log 2, times the mean of four weights, of which k are 1 and the others 0.2
    k = (4 * losses[0] / (1.2 * 0.693147) - 0.8) / 0.8
    assert k == pytest.approx(round(k), abs=1e-3) and 0 <= k <= 4


@pytest.mark.slow
def test_colours_are_learnt_from_the_pictures(tiny_vlm, colours, tmp_path):
    """Held-out implicit accuracy above 0.9; with the two pictures exchanged below 0.1, so that pictures are used."""
    result = train_language(recipe(tiny_vlm, colours / "pairs.jsonl", tmp_path / "run", "train.steps=200",
                                   "train.batch_size=8", "optim.lr=1e-3"))
    assert result.implicit_accuracy > 0.9
    assert accuracy(tmp_path / "run" / "export", tiny_vlm, colours / "pairs.jsonl", tmp_path) > 0.9
    assert accuracy(tmp_path / "run" / "export", tiny_vlm, colours / "shuffled.jsonl", tmp_path) < 0.1


@torch.no_grad()
def accuracy(after, before, table, folder):
    """Share of pairs whose chosen answer gained more than the rejected one from one model to the other."""
    sums = []
    for source in (after, before):
        model = load_language_model(str(source), vision=True)
        rows = vision_rows(model, read_text_pairs(TextDataSettings(path=str(table))), None, folder, 512)
        batch = VisionCollator(model.processor, (), 512)(rows)
        mask = batch.pop("completion_mask")[:, 1:]
        logits = model.model(**batch).logits[:, :-1].log_softmax(-1)
        sums.append((logits.gather(-1, batch["input_ids"][:, 1:, None])[..., 0] * mask).sum(1))
    chosen, rejected = (sums[0] - sums[1]).chunk(2)
    return (chosen > rejected).float().mean().item()


def test_images_that_are_cut_into_squares_are_learnt_from_too(of_all_workers, colours, tmp_path):
    """SmolVLM's way of seeing (Idefics3): each pair has several squares, and pairs of other sizes other numbers."""
    from tests.tiny.vision_models import save_tiny_idefics

    folder = of_all_workers / "tiny-idefics"
    if not (folder / "model.safetensors").exists():
        save_tiny_idefics(folder)
    Image.new("RGB", (90, 30), "green").save(tmp_path / "wide.png")
    model = load_language_model(str(folder), vision=True)
    rows = vision_rows(model, [pair(colours / "red-0.png"), pair(tmp_path / "wide.png", "green", "white")], None,
                       tmp_path, 512)
    batch = VisionCollator(model.processor, (), 512)(rows)
    answers = [model.tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(
        batch["input_ids"], batch["completion_mask"], strict=True)]
    assert answers == [f" {text}<end_of_utterance>" for text in ("red", "green", "blue", "white")]
    config = recipe(folder, colours / "pairs.jsonl", tmp_path / "run", "model.tuning=lora",
                    "model.gradient_checkpointing=true")
    train_language(config)
    trained = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "train"]
    assert trained[0]["loss"] == pytest.approx(0.693147, abs=1e-4) and len(trained) == 2


def test_a_vision_model_answers_prompts_that_show_images(tiny_vlm, colours, tmp_path):
    """As MOSSBench has them: the same question about two images is two prompts, also where the answers are read."""
    from visalign.config.language import AnswerSettings
    from visalign.data.generations import find_generations
    from visalign.language.generate import generate_answers

    rows = {str(i): {"image": f"{name}-0.png", "question": "Can I break this?", "pid": str(i),
                     "metadata": {"over": "type 1"}} for i, name in enumerate(COLOURS[:2])}
    (colours / "information.json").write_text(json.dumps(rows))
    settings = AnswerSettings(max_tokens=4, batch_size=4)
    samples = generate_answers(str(tiny_vlm), [f"mossbench:{colours}"], 2, settings, out=tmp_path / "out")
    entries = find_generations(tmp_path / "out")
    assert [entry.prompt for entry in entries] == ["Can I break this?"] * 4 == [each.prompt for each in samples]
    assert len({entry.group for entry in entries}) == 2 and entries[0].group == entries[1].group
    with pytest.raises(UserError, match="some show images and 'Why\\?' does not"):
        generate_answers(str(tiny_vlm), [samples[0].source_prompt, "Why?"], 1, settings)
    with pytest.raises(UserError, match="--revise: goes with prompts of words alone"):
        generate_answers(str(tiny_vlm), [f"mossbench:{colours}"], 1, settings, revise=1)
