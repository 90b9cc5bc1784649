import json
import math

import pytest
import torch
from safetensors.torch import load_file

from visalign.errors import UserError
from visalign.language.adapter_stages import Floors, best_rewrites, joined_adapters, ranked_pairs, scale_of
from visalign.language.evolve import Attempt

NAN = float("nan")
ANY = Floors(("a",), (-math.inf,))


def attempt(rewrite, score, refused=None, prompt="p"):
    return Attempt(prompt, rewrite, "sft", 0, (score,), score, refused)


def pairs(candidates, floors=ANY, gap=0.0):
    return [(a.rewrite, b.rewrite) for a, b in ranked_pairs(candidates, floors, gap)]


FIVE = [attempt(name, score) for name, score in (("a", 3.0), ("b", 2.5), ("c", 2.0), ("d", 1.0), ("e", NAN))]


def test_the_best_two_each_against_all_that_are_worse_by_more_than_the_gap():
    """Gap 1.4: 3 - 1 = 2 and 2.5 - 1 = 1.5 are more, 3 - 2 = 1 is not."""
    assert pairs(FIVE, gap=1.4) == [("a", "d"), ("b", "d")]
    assert pairs(FIVE) == [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")]
    assert pairs(FIVE, gap=2.0) == []


def test_only_what_passes_the_floors_and_the_gate_is_chosen():
    assert pairs(FIVE, Floors(("a",), (2.6,)), 1.4) == [("a", "d")]
    assert pairs([attempt("a", 3.0, "tags"), attempt("b", 2.5), attempt("c", 1.0)]) == [("b", "c")]
    assert pairs([attempt("a", 3.0), attempt("b", 1.0, "tags")]) == [("a", "b")]


def test_the_best_rewrite_of_each_prompt_that_passes():
    pools = {"p": FIVE, "q": [attempt("q", 0.1, prompt="q")], "r": [attempt("r", NAN, prompt="r")]}
    assert [each.rewrite for each in best_rewrites(pools, Floors(("a",), (0.5,)))] == ["a"]
    assert [each.rewrite for each in best_rewrites(pools, ANY)] == ["a", "q"]


def test_floors_that_nobody_passes_are_named_with_the_best_that_there_is():
    with pytest.raises(UserError, match=r"none of 4 rewrites passes a at least 4 \(the best rewrite has 3\)"):
        Floors(("a",), (4.0,)).check({"p": FIVE})
    with pytest.raises(UserError, match="no render of any rewrite has a score"):
        ANY.check({"p": [attempt("e", NAN)]})


def test_scales_of_loras():
    """alpha / r: 8 / 4; rsLoRA's alpha / sqrt(r): 8 / 2."""
    assert scale_of({"lora_alpha": 8, "r": 4}) == 2 and scale_of({"lora_alpha": 8, "r": 4, "use_rslora": True}) == 4


def test_one_adapter_does_what_two_do_after_each_other(tmp_path):
    """Two adapters of ranks 2 and 3, one of them rsLoRA, put on after each other, against the joined one of rank 5."""
    from peft import LoraConfig, PeftModel, get_peft_model

    from tests.tiny.languages import tiny_language_model

    model, folders = tiny_language_model(), []
    for i, (rank, rslora) in enumerate(((2, False), (3, True))):
        tuned = get_peft_model(model, LoraConfig(r=rank, lora_alpha=7, target_modules=["q_proj", "down_proj"],
                                                 use_rslora=rslora, task_type="CAUSAL_LM"))
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.1)
        folders.append(tmp_path / str(i))
        tuned.save_pretrained(folders[-1])
        model = tuned.merge_and_unload()
    joined_adapters(folders, "tiny", tmp_path / "joined")
    once = PeftModel.from_pretrained(tiny_language_model(), tmp_path / "joined").merge_and_unload()
    tokens = torch.arange(10)[None]
    assert torch.allclose(once(tokens).logits, model(tokens).logits, atol=1e-4)
    assert not torch.allclose(once(tokens).logits, tiny_language_model()(tokens).logits, atol=1e-2)
    assert json.loads((tmp_path / "joined" / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny"
    shapes = {name: tuple(weight.shape) for name, weight in load_file(
        tmp_path / "joined" / "adapter_model.safetensors").items()}
    assert {shape[0] for name, shape in shapes.items() if "lora_A" in name} == {5}
