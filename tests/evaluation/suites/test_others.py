"""BLIP-VQA, text and flickering: totals by hand; BLIP's P(yes) is what its own `generate` thinks."""

import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from visalign.data.suites import SuitePrompt, read_suite
from visalign.errors import UserError
from visalign.evaluation.suites import SUITE_SCORERS, build_scorer
from visalign.evaluation.suites.compbench import MOST_PHRASES, BlipAnswers, CompBench
from visalign.evaluation.suites.flicker import VBenchFlicker
from visalign.evaluation.suites.text import ShownText, TextRead, text_read
from visalign.media.samples import Sample, Video


def test_the_product_over_noun_phrases_and_the_mean_over_images(monkeypatch):
    scorer = CompBench()
    chunks = [SimpleNamespace(text=text) for text in ("a green bench", "a red car")]
    scorer.language = lambda prompt: SimpleNamespace(noun_chunks=iter(chunks if prompt else chunks * 10))
    scorer.blip = SimpleNamespace(yes=lambda image, question: {"a green bench?": 0.5, "a red car?": 0.8}[question])
    image = Sample("x", Image.new("RGB", (8, 8)))
    assert scorer.score(SuitePrompt("a green bench and a red car", "0"), image) == pytest.approx(0.4)
    assert scorer.score(SuitePrompt("", "0"), image) == pytest.approx(0.4**(MOST_PHRASES // 2))  # eight phrases at most
    [figure] = scorer.figures([None, None], [[0.4, 0.8], [0.3]])
    assert figure.value.value == pytest.approx(0.5) and figure.headline and figure.count == 3


def tiny_blip(folder):
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForQuestionAnswering,
        BlipImageProcessor,
        BlipProcessor,
    )

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "a", "red", "cat", "?", "yes", "no"]
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(text_config={**size, "vocab_size": len(words), "encoder_hidden_size": 16, "bos_token_id": 5,
                                     "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3, "projection_dim": 16,
                                     "max_position_embeddings": 32},
                        vision_config={**size, "image_size": 32, "patch_size": 8}, projection_dim=16)
    BlipForQuestionAnswering(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}),
                  BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})).save_pretrained(folder)


def test_p_yes_is_that_of_blip_s_first_word(tmp_path):
    torch.manual_seed(0)
    tiny_blip(tmp_path)
    blip, image = BlipAnswers(str(tmp_path), "cpu"), Image.new("RGB", (40, 30), "red")
    given = blip.processor(images=image, text="a red cat?", return_tensors="pt")
    made = blip.model.generate(**given, max_new_tokens=1, do_sample=False, output_scores=True,
                               return_dict_in_generate=True)
    assert blip.yes(image, "a red cat?") == pytest.approx(float(made.scores[0][0][blip.words].softmax(0)[0]), abs=1e-6)
    assert blip.yes(image, "a red cat?") != blip.yes(image, "a cat?")


def test_what_blip_vqa_lacks_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match="needs the package spacy: pip install spacy"):
        CompBench().check([])

    def load(name):
        raise OSError(name)

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load, __spec__=object()))
    with pytest.raises(UserError, match="spaCy's model en_core_web_sm is not here; fetch it with `python -m spacy"):
        CompBench().check([])
    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=lambda name: None, __spec__=object()))
    with pytest.raises(UserError, match="vqa: ./none is neither a folder nor a hub id"):
        CompBench(vqa="./none").check([])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="the model nobody/blip is not here.*fetch it with `hf download nobody/blip`"):
        CompBench(vqa="nobody/blip").check([])


def test_text_by_hand():
    """Quoted HELLO WORLD: read as "hello wrld" one letter is missing and one word of two is right."""
    assert text_read("hello  wrld", "HELLO World") == TextRead(1, 1, 2)
    assert text_read("World hello world", "hello world") == TextRead(6, 2, 2)
    figures = {each.name: each.value.value for each in ShownText().figures([None, None], [
        [TextRead(0, 2, 2), TextRead(4, 1, 2)], [TextRead(8, 0, 1)]])}
    # ED 12 / 3 = 4, CR 1 / 3, WAC 3 / 5: 1 - 4 * (2 / 3) * (2 / 5) / 100
    assert figures["edit distance (ED)"] == 4 and figures["complete (CR)"] == pytest.approx(1 / 3)
    assert figures["words (WAC)"] == 0.6 and figures["text score"] == pytest.approx(1 - 4 * 2 / 3 * 0.4 / 100)
    with pytest.raises(UserError, match="quotes no text that could be read"):
        ShownText().check([SuitePrompt("a sign", "0")])


def test_flicker_by_hand():
    """Frames of 0, 51 and 51 of 255: changes 0.2 and 0, 1 less their mean is 0.9."""
    frames = [Image.new("RGB", (4, 4), (value, value, value)) for value in (0, 51, 51)]
    assert VBenchFlicker().score(SuitePrompt("x", "x"), Sample("x", Video(frames, 8.0))) == pytest.approx(0.9)
    with pytest.raises(UserError, match="one frame has no change"):
        VBenchFlicker().score(SuitePrompt("x", "x"), Sample("x", Video(frames[:1], 8.0)))


def test_vbench_s_prompts_are_those_of_the_dimension(tmp_path):
    rows = [{"prompt_en": "a lake", "dimension": ["temporal_flickering"]},
            {"prompt_en": "a cat", "dimension": ["color"]}, {"prompt_en": "a lake", "dimension": ["scene"]}]
    (tmp_path / "info.json").write_text(json.dumps(rows))
    _, items = read_suite(f"vbench:{tmp_path / 'info.json'}")
    assert [item.prompt for item in items] == ["a lake", "a cat"]
    assert [item.prompt for item in VBenchFlicker().used(items)] == ["a lake"]
    with pytest.raises(UserError, match="no prompt of x is of the dimension temporal_flickering"):
        VBenchFlicker(path="x").used(items[1:])
    assert VBenchFlicker().used([SuitePrompt("a", "a")]) == [SuitePrompt("a", "a")]


@pytest.mark.parametrize("name", SUITE_SCORERS)
def test_every_scorer_is_built_by_its_suite_s_name(name):
    assert isinstance(build_scorer(name, "p", {}, "cpu"), SUITE_SCORERS[name]) and math.isfinite(
        SUITE_SCORERS[name].frames)
