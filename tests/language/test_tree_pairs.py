"""Pairs of steps: where a planted reward puts them, their tokens, their table, and that they can be made again."""

import json

import pytest

from tests.tiny.languages import tiny_language_model, tiny_tokenizer
from visalign.config import TextFeedbackSettings
from visalign.data.text_pairs import TextPair, pair_of_row
from visalign.errors import UserError
from visalign.language import tree_pairs as made
from visalign.language.chat import encode_pair
from visalign.language.feedback import feedback_text_pairs, read_feedback, write_feedback
from visalign.language.sampling import Answerer, continuations_of
from visalign.media.conversations import begun_tokens, prompt_tokens
from visalign.rewards import load_reward

TALK = ({"role": "user", "content": "What is rain?"},)


def settings(**tree):
    more = tree.pop("more", {})
    given = {"prompts": "topics:train", "max_prompts": 3, "reward": "brevity", "max_tokens": 12} | more
    return TextFeedbackSettings(**given, tree={"simulations": 3, "width": 3, "depth": 3, "step": 3} | tree)


@pytest.fixture(scope="module")
def answerer():
    return Answerer(tiny_language_model(), tiny_tokenizer())


def pairs_of(answerer, given, seed=3):
    return feedback_text_pairs(answerer, given, [load_reward(given.reward)], seed, frozenset())


def test_a_reward_planted_on_the_second_step_gives_pairs_there_and_nowhere_else(answerer, monkeypatch):
    """Answers of three sentences, each of two kinds that are drawn evenly; only the second matters."""
    levels = [("One a.", "One b."), (" It is good.", " It is bad."), (" Then x.", " Then y.")]

    def scripted(answerer, talks, begun, seeds, given):
        found, done = [], {}
        for prefix in begun:
            place = done[prefix] = done.get(prefix, -1) + 1
            rest = levels[prefix.count("."):]
            found.append(("".join(kinds[place >> len(rest) - 1 - i & 1] for i, kinds in enumerate(rest)), True))
        return found

    monkeypatch.setattr(made, "continuations_of", scripted)
    given = settings(simulations=12, width=8, step="sentence", more={"reward": "contains:good", "min_gap": 0.5})
    pairs = pairs_of(answerer, given)
    assert {(pair.prefix, pair.chosen, pair.rejected) for pair in pairs} == {
        (first, " It is good.", " It is bad.") for first in levels[0]}
    assert len(pairs) == 6 and all((pair.strength, pair.chance) == (1.0, 1.0) for pair in pairs)
    assert all(pair.unfinished == {"chosen", "rejected"} for pair in pairs)


def test_self_evaluation_is_of_the_answer_up_to_the_step_and_counts_by_its_weight(answerer, monkeypatch):
    """Every answer comes to 0 by the first reward; half of them open with a step that the second likes, 2 x 1."""
    monkeypatch.setattr(made, "continuations_of", lambda answerer, talks, begun, seeds, given: [
        ("It is good. So be it." if i % 2 else "It is bad. That is good.", True) for i in range(len(begun))])
    given = settings(simulations=1, width=4, step="sentence", more={"reward": "contains:zzz"},
                     self_reward="contains:good", self_weight=2.0)
    pairs = feedback_text_pairs(answerer, given, [load_reward(each) for each in given.rewards], 0, frozenset())
    assert {(pair.chosen, pair.rejected, pair.strength) for pair in pairs} == {("It is good.", "It is bad.", 2.0)}


def test_pairs_do_not_depend_on_batches_and_follow_the_seed(answerer):
    first = pairs_of(answerer, settings())
    assert first == pairs_of(answerer, settings(more={"batch_size": 2})) != pairs_of(answerer, settings(), seed=4)
    assert any(pair.prefix for pair in first) and len(first) >= 3


def test_simulations_of_all_prompts_are_drawn_together(answerer, monkeypatch):
    sizes = []
    real = made.continuations_of
    monkeypatch.setattr(made, "continuations_of",
                        lambda a, talks, *rest: sizes.append(len(talks)) or real(a, talks, *rest))
    pairs_of(answerer, settings())
    assert sizes == [9, 9, 9]  # three prompts, three draws each, three times


def test_what_follows_a_beginning_is_drawn_from_its_tokens_and_keeps_its_spaces(answerer):
    """The likeliest tokens after a beginning are those that the whole answer has there."""
    given = settings().model_copy(update={"temperature": 0.0, "max_tokens": 10})
    whole, _ = continuations_of(answerer, [TALK], [""], [0], given)[0]
    cut = len(" tell")
    assert whole.startswith(" tell") and len(answerer.tokenizer(" tell")["input_ids"]) == 1
    assert begun_tokens(answerer.tokenizer, TALK, whole[:cut]) == prompt_tokens(answerer.tokenizer, TALK) + \
        answerer.tokenizer(whole[:cut])["input_ids"]
    for mixed in ([whole[:cut]], [whole[:cut], ""]):
        assert continuations_of(answerer, [TALK] * len(mixed), mixed, range(len(mixed)), given)[0][0] == whole[cut:]


def part(chosen=" And salt.", rejected=" No.", prefix="Rain is long.", unfinished=("chosen", "rejected")):
    return TextPair(TALK, chosen, rejected, "row", prefix=prefix, unfinished=frozenset(unfinished))


def test_the_tokens_are_the_template_s_the_prefix_s_and_the_step_s_and_only_the_step_is_learnt():
    tokenizer = tiny_tokenizer()
    row = encode_pair(tokenizer, part(unfinished=("chosen",)), 0, None)

    def of(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    template = of("<|im_start|>user\nWhat is rain?<|im_end|>\n<|im_start|>assistant\n")
    assert row["prompt_ids"] == template + of("Rain is long.")
    assert row["chosen_ids"] == of(" And salt.") and row["rejected_ids"] == [*of(" No."), tokenizer.eos_token_id]
    ending = encode_pair(tokenizer, part(chosen="", unfinished=("rejected",)), 0, None)
    assert ending["chosen_ids"] == [tokenizer.eos_token_id]


def test_a_token_that_begins_in_the_prefix_is_of_the_step():
    """' honey' is one token: of the beginning ' ho' it would be others, which no whole answer has."""
    tokenizer = tiny_tokenizer()
    row = encode_pair(tokenizer, part("ney", "k", "tell about ho"), 0, None)
    for side, text in (("chosen", "tell about honey"), ("rejected", "tell about hok")):
        assert row["prompt_ids"] + row[f"{side}_ids"] == begun_tokens(tokenizer, TALK, text)
    assert tokenizer.decode(row["chosen_ids"]) == " honey" and tokenizer.decode(row["rejected_ids"]) == " hok"


def test_pairs_of_a_tree_are_the_tokens_that_were_drawn_from(answerer):
    tokenizer = answerer.tokenizer
    for pair in pairs_of(answerer, settings(more={"max_tokens": 24})):
        row = encode_pair(tokenizer, pair, 0, None)
        drawn_from = begun_tokens(tokenizer, pair.messages, pair.prefix)
        assert row["prompt_ids"] == drawn_from[:len(row["prompt_ids"])]
        for side in ("chosen", "rejected"):
            end = [] if side in pair.unfinished else [tokenizer.eos_token_id]
            whole = begun_tokens(tokenizer, pair.messages, pair.whole(getattr(pair, side)))
            assert row["prompt_ids"] + row[f"{side}_ids"] == whole + end


def test_the_table_of_pairs_keeps_prefixes_and_is_a_set_of_pairs(answerer, tmp_path):
    pairs = [part(), part("x", "y", "")]
    write_feedback(pairs, tmp_path)
    again = read_feedback(tmp_path)
    assert [(pair.prefix, pair.chosen, pair.unfinished) for pair in again] == [
        ("Rain is long.", " And salt.", {"chosen", "rejected"}), ("", "x", {"chosen", "rejected"})]
    row = json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[0])
    read = pair_of_row(row, "row 1", True, tmp_path)
    assert (read.prefix, read.unfinished, read.messages) == (pairs[0].prefix, pairs[0].unfinished, pairs[0].messages)
    (tmp_path / "pairs.jsonl").write_text(json.dumps({name: value for name, value in row.items() if name != "prefix"}))
    assert read_feedback(tmp_path)[0].prefix == ""  # as written before there were prefixes


@pytest.mark.parametrize(("row", "words"), [
    ({"prefix": 3}, "row 1: 'prefix' is int 3; the text is expected"),
    ({"unfinished": "chosen"}, "row 1: 'unfinished' is chosen; a list of the sides"),
    ({"unfinished": ["left"]}, "row 1: 'unfinished' is .*; a list of the sides")])
def test_parts_that_cannot_be_are_refused(row, words, tmp_path):
    with pytest.raises(UserError, match=words):
        pair_of_row({"prompt": "a", "chosen": "b", "rejected": "c"} | row, "row 1", True, tmp_path)


def test_parts_of_answers_are_not_revised():
    with pytest.raises(UserError, match=r"row: both sides continue one beginning \('prefix'\)"):
        encode_pair(tiny_tokenizer(), part(), 0, None, revised=True)


def test_steps_that_are_all_worth_the_same_say_what_to_change(answerer):
    with pytest.raises(UserError, match=r"reward contains.* tells no two steps after one beginning apart, in \d+ beg"):
        pairs_of(answerer, settings(more={"reward": "contains:zzz"}))


def test_what_a_reward_cannot_score_is_left_out_and_too_much_of_it_ends_the_run(answerer, monkeypatch, capsys):
    """A third of the answers has no score, and no step of theirs is in a pair; then all have none."""
    from visalign.rewards.text.rules import Brevity

    monkeypatch.setattr(made, "continuations_of", lambda answerer, talks, begun, seeds, given: [
        (("Short.", "This is long.", "Unknown.")[i % 3], True) for i in range(len(begun))])
    measure = Brevity.measure
    unknown = {"Unknown."}
    monkeypatch.setattr(Brevity, "measure", lambda self, sample: float(
        "nan") if sample.answer in unknown else measure(self, sample))
    pairs = pairs_of(answerer, settings(simulations=1, step="sentence"))
    assert {(pair.chosen, pair.rejected) for pair in pairs} == {("Short.", "This is long.")}
    assert pairs[0].unfinished == frozenset() and "has no score for some answers" in capsys.readouterr().err
    unknown |= {"Short.", "This is long."}
    with pytest.raises(UserError, match="reward brevity has no score for 9 of 9 answers .*, more than half"):
        pairs_of(answerer, settings(simulations=1, step="sentence"))


def test_a_table_of_steps_is_data_of_other_runs_and_of_reward_models(answerer, tmp_path, tiny_lm):
    """The rows of another run from the table are the rows of this one; a reward model reads the answers so far."""
    from visalign.config import TextDataSettings
    from visalign.config.language_reward import LanguageRewardConfig
    from visalign.data.text_pairs import read_text_pairs
    from visalign.language.chat import encode_pairs_of_text
    from visalign.language.data_check import check_text_pairs
    from visalign.language.reward_model import reward_rows
    from visalign.storage.language_models import load_language_model

    pairs = pairs_of(answerer, settings())
    write_feedback(pairs, tmp_path)
    data = TextDataSettings(path=str(tmp_path / "pairs.jsonl"))
    read = read_text_pairs(data)
    both = [encode_pairs_of_text(answerer.tokenizer, each, None, 500, 0.0, "pairs") for each in (pairs, read)]
    assert both[0] == both[1] and any(pair.prefix for pair in read)
    assert "0 contradict" in check_text_pairs(data).text()
    config = LanguageRewardConfig(model={"source": str(tiny_lm)}, data=data)
    row = reward_rows(config, load_language_model(str(tiny_lm)), [part(unfinished=())])[0]
    assert answerer.tokenizer.decode(row["chosen_ids"]).endswith("assistant\nRain is long. And salt.<|im_end|>\n")


def test_a_template_that_opens_an_answer_otherwise_when_it_stands_is_followed():
    """As templates do that put an empty thought before what is to be answered, and none into answers."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\n{%", "assistant\n(thought)\n{%")
    assert tokenizer.decode(prompt_tokens(tokenizer, TALK)).endswith("assistant\n(thought)\n")
    row = encode_pair(tokenizer, part(unfinished=()), 0, None)
    said = [*TALK, {"role": "assistant", "content": "Rain is long. And salt."}]
    whole = tokenizer.apply_chat_template(said, return_dict=True)["input_ids"]
    assert row["prompt_ids"] + row["chosen_ids"] == whole[:len(row["prompt_ids"]) + len(row["chosen_ids"])]
    assert tokenizer.decode(row["prompt_ids"]).endswith("assistant\nRain is long.")
