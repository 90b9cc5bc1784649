import pytest

from visalign.data.embedded_images import emoji_captions
from visalign.data.polite import POLITE_FORMS
from visalign.data.prompts import read_prompts
from visalign.errors import UserError
from visalign.language.rewrite_rules import plain_prompt


@pytest.mark.parametrize("name", POLITE_FORMS)
def test_each_caption_in_one_form_and_no_caption_on_both_sides(name):
    train, held = read_prompts(f"{name}:train"), read_prompts(f"{name}:held_out")
    captions = [read_prompts(f"{name.removeprefix('polite-')}:{split}") for split in ("train", "held_out")]
    assert list(map(plain_prompt, train)) == captions[0] and list(map(plain_prompt, held)) == captions[1]
    assert not {*map(plain_prompt, train)} & {*map(plain_prompt, held)}
    starts = {form.partition("{")[0] for form in POLITE_FORMS[name]}
    assert all(any(prompt.startswith(start) for prompt in train) for start in starts)


def test_another_split_is_refused():
    assert read_prompts("polite-emoji:train", 1)[0].count(emoji_captions("train")[0]) == 1
    with pytest.raises(UserError, match="prompts polite-emoji:test: polite prompts have the splits train and held_out"):
        read_prompts("polite-emoji:test")
