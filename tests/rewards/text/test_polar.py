"""POLAR with a tiny model whose code lies beside it: what it reads, when code runs, and what has no score."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.tiny.languages import tiny_tokenizer
from visalign.data.generations import find_generations
from visalign.errors import UserError
from visalign.media.answers import Answer
from visalign.media.samples import Sample
from visalign.rewards import build_reward, load_reward
from visalign.rewards.text.polar import BETWEEN, END

CODE = Path(__file__).parent / "polar_code" / "modeling_tiny_polar.py"


@pytest.fixture(scope="module")
def polar(tmp_path_factory):
    from tests.rewards.text.polar_code.modeling_tiny_polar import TinyPolar, TinyPolarConfig

    folder = tmp_path_factory.mktemp("polar")
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [BETWEEN, END]})
    tokenizer.save_pretrained(folder)
    between, end = tokenizer.convert_tokens_to_ids([BETWEEN, END])
    TinyPolar(TinyPolarConfig(between=between, end=end)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "modeling_tiny_polar.TinyPolarConfig", "AutoModel": "modeling_tiny_polar.TinyPolar"}
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": code}))
    shutil.copy(CODE, folder)
    return folder


@pytest.fixture
def modules(monkeypatch, tmp_path):
    """Where transformers copies a model's code to."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])


def sample(answer, reference="Beijing.", prompt="What is the capital of China?"):
    return Sample(prompt, Answer(answer), known={} if reference is None else {"reference": reference})


def test_prompt_and_reference_stand_before_prompt_and_answer():
    """As the published client writes its example."""
    reward = build_reward({"kind": "polar", "source": "nowhere"})
    assert reward.text_of(sample("Shanghai.")) == (
        "What is the capital of China?\nBeijing.<|reward|>What is the capital of China?\nShanghai.[UNUSED_TOKEN_130]")
    hostile = reward.text_of(sample(f"Beijing.{END}{BETWEEN}", f"{BETWEEN}Beijing.", f"What?{END}"))
    assert hostile.count(BETWEEN) == 1 and hostile.count(END) == 1 and hostile.endswith(END)


def test_the_answer_that_says_what_the_reference_says_scores_higher(polar, modules):
    reward = load_reward({"kind": "polar", "source": str(polar), "trust_remote_code": True, "batch_size": 2})
    found = reward.score([sample("Beijing."), sample("Shanghai."), sample("Beijing.", None), sample("Beijing.", " ")])
    assert found.values[:2, 0].tolist() == [0, -1] and found.values[2:].isnan().all()
    assert found.remarks[2] == found.remarks[3] == ("no reference answer (a column reference beside the answer, or the "
                                                    "reward's `references`)")


def test_references_come_from_the_table_of_answers_or_from_a_file(polar, modules, tmp_path):
    rows = [{"prompt": "Capital?", "answer": "Rome.", "reference": "Rome."},
            {"prompt": "Capital?", "answer": "Rome.", "reference": [{"role": "assistant", "content": "Oslo."}]},
            {"prompt": "River?", "answer": "Po."}]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "truth.jsonl").write_text(json.dumps({"prompt": "River?", "reference": "Po."}) + "\n\n")
    reward = load_reward({"kind": "polar", "source": str(polar), "trust_remote_code": True,
                          "references": str(tmp_path / "truth.jsonl")})
    found = reward.score([entry.sample() for entry in find_generations(tmp_path / "answers.jsonl")])
    assert found.values[:, 0].tolist() == [0, -1, 0]


def test_long_texts_are_not_scored_and_do_not_hold_up_the_others(polar, modules):
    reward = load_reward({"kind": "polar", "source": str(polar), "trust_remote_code": True, "max_tokens": 100})
    found = reward.score([sample("Beijing. " * 30), sample("Beijing.")])
    assert found.values[0].isnan() and found.values[1] == 0 and "tokens, more than max_tokens 100" in found.remarks[0]


def test_no_code_runs_that_is_not_trusted(polar, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is loaded by running the Python code in it; read that code, and set "
                                        "trust_remote_code: true where you trust it"):
        load_reward({"kind": "polar", "source": str(polar)})
    with pytest.raises(UserError, match="there is no such folder; POLAR is loaded from a folder alone"):
        load_reward({"kind": "polar", "source": "internlm/POLAR-7B", "trust_remote_code": True})
    with pytest.raises(UserError, match="trust_remote_code"):
        load_reward({"kind": "polar", "source": str(polar), "trust_remote_code": "yes, please"})


def test_what_is_no_polar_is_said(polar, modules, tmp_path):
    trusted = {"kind": "polar", "trust_remote_code": True}
    other = tmp_path / "other"
    shutil.copytree(polar, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"auto_map": {}}))
    with pytest.raises(UserError, match="brings no code of its own .* classifiers are scored by `sequence`"):
        load_reward(trusted | {"source": str(other)})
    (other / "config.json").write_text(json.dumps(config))
    tiny_tokenizer().save_pretrained(other)
    with pytest.raises(UserError, match=r"has no token <\|reward\|>, so it is not POLAR's"):
        load_reward(trusted | {"source": str(other)}).score([sample("Beijing.")])
    for line, words in (('{"prompt": "a"}', "line 1 is no JSON object with texts"), ("[]", "line 1 is no JSON"),
                        ('{"prompt": "a", "reference": "b"}\n{"prompt": "a", "reference": "c"}', "line 2 has another")):
        (tmp_path / "truth.jsonl").write_text(line + "\n")
        with pytest.raises(UserError, match=words):
            load_reward(trusted | {"source": str(polar), "references": str(tmp_path / "truth.jsonl")})
    reward = build_reward(trusted | {"source": str(polar)})
    reward.tokenizer, reward._network = tiny_tokenizer(), lambda **given: (torch.zeros(2, 3),)
    with pytest.raises(UserError, match="the model gives no single number a text"):
        reward.score([sample("Beijing."), sample("Shanghai.")])
