"""Whole runs of a tiny language model: every method, resuming to the same bits, and what is refused before loading."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from visalign.errors import UserError
from visalign.language.run import train_language
from visalign.storage.language_models import load_language_model
from visalign.storage.run_folder import read_metrics


def rows_of(config, kind):
    return [row for row in read_metrics(config_folder(config)) if row["kind"] == kind]


def config_folder(config):
    from pathlib import Path

    return Path(config.output.folder)


def test_dpo_learns_pairs_and_leaves_a_page_a_verdict_and_an_adapter(recipe):
    config = recipe("train.steps=8", "eval.every=4", "output.trackers=[tensorboard]", "eval.features=minilm",
                    "guard={action: warn, every: 4, max_prompts: 2, samples_per_prompt: 2}")
    result = train_language(config)
    trained, held = rows_of(config, "train"), rows_of(config, "held_out")
    assert trained[0]["loss"] == pytest.approx(0.693147, abs=1e-5)  # policy = reference: log 2
    assert trained[-1]["loss"] < 0.3 and result.implicit_accuracy == 1.0
    assert [row["step"] for row in held] == [0, 4, 8] and held[-1]["likelihoods"]["pairs"] > 0
    assert held[0]["held_out/kl_per_answer"] == pytest.approx(0, abs=1e-5) != held[-1]["held_out/kl_per_answer"]
    assert held[-1]["held_out/top_entropy"] > 0 and -1 <= held[-1]["held_out/gradient_cosine"] <= 1
    folder = config_folder(config)
    assert [row["verdict"]["word"] for row in rows_of(config, "guard")][0] and list((folder / "logs").glob("events*"))
    page = (folder / "report.html").read_text()
    assert "Before and after, same seeds" in page and held[0]["prompts"][0] in page
    assert json.loads((folder / "verdict.json").read_text())["word"] == result.verdict.word
    assert (folder / "export" / "adapter_model.safetensors").is_file()
    again = load_language_model(str(folder))
    assert again.described.endswith(f"with {folder}") and "base_model" in (folder / "export/README.md").read_text()


@pytest.mark.parametrize("overrides", [
    ("objective.name=sft",), ("objective.name=simpo",), ("objective.name=cpl",),
    ("objective={name: dpo, dynamic_labels: 0.1, soft_labels: 1.0, sft_weight: 0.1}",),
    ("model.tuning=full", "model.lora={}"),
    ("model.lora.kind=dora", "train.gradient_accumulation=2"), ("objective.name=kto",), ("objective.name=srpo",),
    ("objective={name: power, dynamic_labels: 0.1}",), ("objective.name=sparse_po",),
    ("objective={name: sparse_po, mask: activations}",),
])
def test_methods_and_kinds_of_tuning_run_from_start_to_finish(recipe, overrides):
    config = recipe("train.steps=2", *overrides)
    train_language(config)
    losses = [row["loss"] for row in rows_of(config, "train")]
    assert len(losses) == 2 and all(map(torch.isfinite, map(torch.tensor, losses)))


def test_pairs_with_answers_alike_are_left_out_and_goals_double_the_rest(recipe, tmp_path, capsys):
    rows = [{"prompt": f"Tell me about {i}.", "chosen": "Yes.", "rejected": "No, no.", "chosen_reward": i,
             "rejected_reward": -i - 1} for i in range(20)]
    (tmp_path / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_language(recipe("train.steps=2", f"data.path={tmp_path / 'scored.jsonl'}", "data.drop_ches=0.25",
                          "data.goals={}"))
    assert "10 of 40 pairs are left out, whose answers are alike" in capsys.readouterr().err


@pytest.mark.parametrize("teachers", [("aligned",), ("aligned", "before"), ("aligned", "reversed")])
def test_a_model_learns_from_teachers(recipe, tiny_lm, teachers):
    name = {"aligned": "dckd", "before": "adpa", "reversed": "align_distil"}[teachers[-1]]
    given = ", ".join(f"{each}: {tiny_lm}" for each in teachers)
    config = recipe("train.steps=2", f"objective.name={name}", f"model.teachers={{{given}}}")
    train_language(config)
    assert len(rows_of(config, "train")) == 2


def test_answers_with_labels_teach_kto(recipe, tmp_path):
    rows = [{"prompt": f"Tell me about {i}.", "completion": "Yes." if i % 2 else "No, no.", "label": i % 2 == 1}
            for i in range(20)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = recipe("train.steps=2", "objective.name=kto", f"data.path={tmp_path / 'labels.jsonl'}")
    train_language(config)
    assert "desirable" in rows_of(config, "train")[0]
    rows[3].pop("label")
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="neither rejected nor label in every row"):
        train_language(recipe("objective.name=kto", f"data.path={tmp_path / 'labels.jsonl'}", out="other"))


@pytest.mark.parametrize("more", [
    (), ("objective={name: dpo, dynamic_labels: 0.2}",), ("objective.name=sparse_po",),
    ("objective={name: dpo, forward_rate: learn}",)])
def test_a_run_that_is_continued_ends_with_the_same_bits(recipe, more):
    whole = recipe("train.steps=4", *more, out="whole")
    train_language(whole)
    first = recipe("train.steps=2", *more, out="parts")
    train_language(first)
    rest = recipe("train.steps=4", *more, out="parts")
    train_language(rest, resume=True)
    weights = [load_file(config_folder(each) / "export" / "adapter_model.safetensors") for each in (whole, rest)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [row["step"] for row in rows_of(rest, "train")] == [1, 2, 3, 4]


def test_an_unfinished_checkpoint_is_deleted_and_the_one_before_is_taken(recipe, capsys):
    config = recipe("train.steps=2", "output.checkpoint_every=1")
    train_language(config)
    folder = config_folder(config)
    (folder / "checkpoints" / "checkpoint-2" / "trainer_state.json").unlink()
    train_language(config, resume=True)
    assert "checkpoint-2: is incomplete" in capsys.readouterr().err
    assert [row["step"] for row in rows_of(config, "train")] == [1, 2]


@pytest.mark.parametrize(("overrides", "words"), [
    (("train.trl={beta: 0.2}",), r"train.trl.beta: is decided by objective.beta"),
    (("train.trl={bta: 0.2}",), r"train.trl.bta: DPOConfig of TRL has no such field \(did you mean 'beta'"),
    (("train.trl={learning_rate: 1.0}",), "train.trl.learning_rate: is decided by settings of this recipe"),
    (("optim.name=muon", "model.tuning=full", "model.lora={}"), "optim.name muon: is not among the optimisers"),
    (("eval.reward=sharpness",), "reward sharpness: scores images, not text"),
    (("objective={name: dpo, margin_of: {relevance: 0.2}}",), "needs the reward 'chosen.relevance'"),
    (("objective.name=adpa",), "model.teachers: objective adpa learns from aligned, before"),
    (("model.teachers={aligned: nowhere}",), "model.teachers.aligned nowhere: there is no such folder"),
    (("train.max_length=4",), "train.max_length 4: 24 of 24 pairs"),
    (("model.source=tiny-sd3",), "there is no such folder; a language model is a folder of transformers"),
    (("data.path=nowhere.jsonl",), "there is no such file"),
    (("guard.action=stop", "guard.every=2"), "guard.action is on, but eval.features is not set"),
])
def test_what_cannot_be_is_said_in_one_sentence(recipe, overrides, words):
    with pytest.raises(UserError, match=words):
        train_language(recipe(*overrides))


def test_one_program_may_run_in_several_precisions(recipe):
    for number, precision in enumerate(("fp32", "bf16", "fp32")):
        config = recipe(f"model.precision={precision}", "train.steps=1", out=f"run-{number}")
        train_language(config)
        assert (Path(config.output.folder) / "verdict.json").is_file()
