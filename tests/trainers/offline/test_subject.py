"""RPO for one subject: pairs of photographs and own pictures, halves that share nothing, labels that are drawn."""

import json
import shutil
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from tests.trainers.commands import UNMEASURED, WITHOUT_GRADIENT, fails, rows, run, weights
from visalign.config import ModelSettings
from visalign.config.load import build_objective
from visalign.data.preference_pair import PreferencePair
from visalign.generators import load_generator
from visalign.objectives import PairErrors
from visalign.objectives.rpo import SubjectRPO
from visalign.trainers.offline import loop
from visalign.trainers.offline.encoded_pairs import EncodedPair, PairBatch, digest_entry, standardised
from visalign.trainers.offline.noised import NoisedStates, conditioning_of

SUBJECT = {"photos": "emoji:subject", "captions": ["a sks animal", "sks face"], "token": "sks", "steps": 2,
           "prompts": ["a red sks animal", "a blue sks animal"], "reward": "tiny-clip"}


@pytest.fixture
def subject(recipe):
    """Writes recipes of one subject."""
    def write(base="sd3", /, data=None, **sections):
        data = {"path": None, "holdout": 0, "shared_noise": False, "subject": SUBJECT} | (data or {})
        return recipe(base, "rpo_subject", data=data, **{"eval": UNMEASURED} | sections)

    return write


@pytest.mark.parametrize("base", ["sd3", "sd15-v"])
def test_it_trains_every_weight_from_imitation_and_log_two(subject, tmp_path, base):
    run(subject(base))
    folder = tmp_path / "run"
    first, last = weights(folder, 2), weights(folder, 4)
    assert {name for name in first if torch.equal(first[name], last[name])} <= WITHOUT_GRADIENT
    trained = rows(folder)
    assert trained[0]["loss"] == pytest.approx(trained[0]["chosen_error"] + 0.693147, abs=1e-4)
    assert {row["label"] for row in trained} <= {0.0, 0.5, 1.0} and len({row["chosen_error"] for row in trained}) == 4
    table = pq.read_table(folder / "pairs.parquet").to_pylist()
    assert len(table) == 4 * 2 * 2 and {row["prompt"] for row in table} == set(SUBJECT["captions"])
    assert {row["rejected_prompt"] for row in table} == set(SUBJECT["prompts"])
    assert all((folder / row[side]).is_file() for row in table for side in ("chosen", "rejected"))
    assert all(0 < row["chosen_reward"] < 1 for row in table)


def test_both_rewards_are_of_the_pictures_prompt_without_the_word_for_the_subject(subject, tmp_path):
    from visalign.media.image_files import read_image
    from visalign.media.samples import Sample
    from visalign.rewards import load_reward

    run(subject(train={"steps": 1}))
    row = pq.read_table(tmp_path / "run" / "pairs.parquet").to_pylist()[-1]
    assert row["rejected_prompt"] == "a blue sks animal"
    samples = [Sample("a blue animal", read_image(tmp_path / "run" / row[side], "here"))
               for side in ("chosen", "rejected")]
    expected = (1 + load_reward("tiny-clip").score(samples).values.flatten()) / 2
    assert [row["chosen_reward"], row["rejected_reward"]] == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_run_that_was_cut_continues_to_the_same_bits(subject, tmp_path):
    options = {"model": {"lora": {"rank": 2, "alpha": 4, "dropout": 0.2}},
               "objective": {"name": "rpo_subject", "label_scale": 20}}
    for name in ("whole", "cut"):
        file = subject(name=f"{name}.yaml", output={"folder": str(tmp_path / name)}, **options)
        run(file)
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000004")
    table = (tmp_path / "cut" / "pairs.parquet").read_bytes()
    run(file, "--resume")
    assert (tmp_path / "cut" / "pairs.parquet").read_bytes() == table
    a, b = weights(tmp_path / "whole", 4), weights(tmp_path / "cut", 4)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [row["label"] for row in rows(tmp_path / "whole")] == [row["label"] for row in rows(tmp_path / "cut")]


def test_shared_noise_is_the_run_as_it_was_and_its_opposite_is_not(recipe, tmp_path, monkeypatch):
    seen = []

    class Watched(NoisedStates):
        def draw(self, batch, t, noise, rngs):
            seen.append((t, noise))
            return super().draw(batch, t, noise, rngs)

    monkeypatch.setitem(loop.STATES, "noised", Watched)
    for name, data in (("plain", {}), ("shared", {"shared_noise": True}), ("own", {"shared_noise": False})):
        run(recipe(name=f"{name}.yaml", data=data, eval=UNMEASURED, output={"folder": str(tmp_path / name)},
                   train={"steps": 2}))
    plain, shared, own = (weights(tmp_path / name, 2) for name in ("plain", "shared", "own"))
    assert all(torch.equal(plain[name], shared[name]) for name in plain)
    assert not all(torch.equal(plain[name], own[name]) for name in plain)
    (t, noise), (first_t, first_noise) = (next(each for each in seen if len(each[0]) == many) for many in (4, 2))
    assert torch.equal(t[:2], first_t) and torch.equal(noise[:2], first_noise)  # of the chosen ones, as ever
    assert not torch.equal(t[2:], t[:2]) and not torch.equal(noise[2:], noise[:2])


@pytest.fixture(scope="module")
def generator(pipelines):
    torch.manual_seed(0)
    return load_generator(ModelSettings(source=str(pipelines("sd3")), precision="fp32", prompt_tokens=8), "cpu")


def test_halves_with_their_own_prompt_time_and_noise_are_as_if_alone(generator):
    torch.manual_seed(1)
    shape, one = generator.conventions.shape, torch.ones(2)
    texts = [generator.encode_prompts(words) for words in (["a cat", "a hat"], ["a fruit", "a dog"])]
    batch = PairBatch([], torch.randn(2, *shape), torch.randn(2, *shape), texts[0], one, one, one, one,
                      rejected_conditioning=texts[1])
    t, noise = torch.tensor([0.2, 0.9, 0.5, 0.1]), torch.randn(4, *shape)
    [state] = NoisedStates(generator, SubjectRPO(), None).draw(batch, t, noise, [])
    for part, x0, here in zip(state.apart(), (batch.chosen, batch.rejected), (slice(0, 2), slice(2, 4)), strict=True):
        assert torch.equal(part.x_t, generator.process.add_noise(x0, noise[here], t[here]))
        assert torch.equal(part.t, t[here])
    found = conditioning_of(generator, batch)
    for side, text in zip(("chosen", "rejected"), texts, strict=True):
        assert all(torch.equal(found[side][name], text[name]) for name in text)


def test_a_table_may_name_the_prompt_of_the_rejected_sample(recipe, pairs_file, tmp_path):
    lines = [json.loads(line) for line in pairs_file.read_text().splitlines()]

    def written(**more):
        pairs_file.write_text("\n".join(json.dumps(row | more) for row in lines))

    run(recipe(output={"folder": str(tmp_path / "alike")}, eval=UNMEASURED, train={"steps": 1}))
    written(rejected_prompt="something else")
    run(recipe(output={"folder": str(tmp_path / "unlike")}, eval=UNMEASURED, train={"steps": 1},
               data={"caption_dropout": 0.5}))
    run(recipe(output={"folder": str(tmp_path / "unlike-rpo")}, eval=UNMEASURED, train={"steps": 1},
               objective={"name": "rpo_subject"}))
    a, b = (json.loads((tmp_path / name / "data.json").read_text()) for name in ("alike", "unlike"))
    assert a["digest"] != b["digest"]
    written(rejected_prompt="something else", rejected=None)
    assert "has a 'rejected_prompt' and no 'rejected' sample" in fails(recipe(output={"folder": str(tmp_path / "no")}))
    written(rejected_prompt=7)
    assert "'rejected_prompt' is not text" in fails(recipe(output={"folder": str(tmp_path / "no")}))


def test_a_prompt_of_its_own_stays_with_its_sample():
    pair = PreferencePair("a", b"1", b"2", "here", rejected_prompt="b", chosen_reward=1.0, rejected_reward=0.0)
    turned = pair.swapped()
    assert (turned.prompt, turned.rejected_prompt, turned.chosen) == ("b", "a", b"2") and turned.swapped() == pair
    assert pair.sample(None).prompt == "b" and replace(pair, rejected_prompt=None).sample(None).prompt == "a"
    item = EncodedPair("a", "k a", "1", "2", "here", 1.0, 0.5, 0.25)
    unlike = replace(item, rejected_prompt=("b", "k b"))
    assert item.prompt_keys_at(0, 1) == ("k a", "k a") and unlike.prompt_keys_at(0, 1) == ("k a", "k b")
    assert digest_entry(item) != digest_entry(unlike)
    assert standardised([item], "none") == [item]


def test_labels_are_drawn_anew_at_every_visit_and_by_place_alone(recipe, pairs_file, tmp_path, monkeypatch):
    seen = {}

    def keeping(self, errors: PairErrors):
        if errors.coin is not None:
            seen.setdefault(len(seen), errors.coin.tolist())
        return usual(self, errors)

    usual = SubjectRPO.__call__
    monkeypatch.setattr(SubjectRPO, "__call__", keeping)
    run(recipe("sd3", "rpo_subject", eval=UNMEASURED, train={"steps": 4}))
    first, seen = dict(seen), seen
    seen.clear()
    run(recipe("sd3", "rpo_subject", eval=UNMEASURED, train={"steps": 4}, output={"folder": str(tmp_path / "again")}))
    assert seen == first and len({value for batch in first.values() for value in batch}) == 8


@pytest.mark.parametrize("change, said", [
    ({"photos": "nowhere"}, "data.subject.photos nowhere: there is no such folder"),
    ({"prompts": []}, "data.subject.prompts"),
    ({"token": "zwx"}, "data.subject.token zwx is not in the caption 'a sks animal'"),
    ({"reward": "colourfulness"}, "data.subject.reward: colourfulness has no lowest or no highest value"),
    ({"captions": []}, "data.subject.captions"), ({"samples_per_prompt": 0}, "data.subject.samples_per_prompt")])
def test_what_makes_no_pairs_is_said_before_a_model_is_loaded(subject, change, said):
    assert said in fails(subject(data={"subject": SUBJECT | change}))


def test_photographs_that_cannot_be_read(subject, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    given = {"subject": SUBJECT | {"photos": str(folder)}}
    assert "holds no image" in fails(subject(data=given))
    (folder / "1.png").write_bytes(b"none")
    assert f"data.subject.photos {folder / '1.png'}" in fails(subject(data=given))


def test_what_does_not_go_with_a_subject_or_noise_of_each_half(subject, recipe):
    assert "data.holdout" in fails(subject(data={"holdout": 0.1}))
    assert "data.swap" in fails(subject(data={"swap": True}))
    assert "set exactly one of" in fails(subject(data={"path": "pairs.jsonl"}))
    assert "eval.prompts: data.subject holds out no prompts" in fails(subject(eval=UNMEASURED | {"prompts": None}))
    single = subject(objective={"name": "sft"})
    assert "objective sft learns from one sample" in fails(single)
    assert "recipe subject_sft" in fails(single, "data.shared_noise=true")
    own = {"data": {"shared_noise": False}}
    assert "weighting derived" in fails(recipe(objective={"name": "flow_dpo", "weighting": "derived"}, **own))
    assert "noise that is drawn" in fails(recipe("sd3", "flow_inpo", **own))
    assert build_objective({"name": "flow_dpo"}).states == "noised"
