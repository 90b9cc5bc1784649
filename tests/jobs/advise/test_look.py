"""What is seen of data of every kind, and what cannot be read."""

import json

import pytest
from PIL import Image

from visalign.errors import UserError
from visalign.jobs.advise import look as looking
from visalign.jobs.advise.look import Look, look_at


def seen(source, *names):
    look = look_at(str(source))
    return tuple(getattr(look, name) for name in names)


def test_pairs(table, pairs):
    file = table([*pairs(6), {"prompt": "x", "tie": True}])
    assert seen(file, "kind", "modality", "rows", "pairs", "prompts", "ties", "rewards", "whole") == (
        "pairs", "image", 6, 6, 6, 1, False, True)


def test_what_pairs_carry(table, pairs):
    file = table(pairs(6, chosen_reward=lambda n: 1.0 + n, rejected_reward=lambda n: 0.1, strength=lambda n: n,
                       chance=lambda n: 0.9, user=lambda n: "ann" if n < 4 else "bob"))
    assert seen(file, "rewards", "strengths", "chances", "users") == (True, True, True, (4, 2))
    half = table(pairs(6, chosen_reward=lambda n: 1.0, rejected_reward=lambda n: 0.5 if n else None), "half.jsonl")
    assert seen(half, "rewards", "strengths", "chances", "users") == (False, False, False, ())


def test_repeated_and_reversed_pairs_are_counted(table, pairs):
    [row] = pairs(1)
    turned = row | {"chosen": row["rejected"], "rejected": row["chosen"]}
    assert seen(table([row, row, turned, row]), "duplicates", "contradictory") == (2, 1)


def test_shapes(table, images, pairs):
    assert seen(table(pairs(6)), "shapes") == (False,)
    for name in ("red", "blue"):
        Image.new("RGB", (32, 16)).save(images / f"{name}.png")
    assert seen(table(pairs(6)), "shapes") == (True,)


@pytest.mark.parametrize("label, kind, good, bad", [
    (lambda n: n % 2 == 0, "thumbs", 3, 3), (lambda n: "up", "thumbs", 6, 0), (lambda n: "down", "thumbs", 0, 6),
    (lambda n: "class 7", "images", 0, 0)])
def test_thumbs(table, singles, label, kind, good, bad):
    assert seen(table(singles(6, label=label)), "kind", "good", "bad", "pairs") == (kind, good, bad, 0)


def test_ratings_of_different_prompts_have_a_middle(table, singles):
    file = table(singles(5, VQ=lambda n: float(n), TA=lambda n: float(n)))
    assert seen(file, "kind", "rows", "good_from", "dimensions", "pairs") == ("ratings", 5, 2.0, ("VQ", "TA"), 0)


def test_ratings_of_one_prompt_are_compared(table, singles):
    rows = [row | {"prompt": "a thing"} for row in singles(4, VQ=lambda n: float(n))]
    assert seen(table(rows), "kind", "rows", "pairs", "prompts") == ("ratings", 4, 6, 1)


def test_comparisons_in_dimensions_of_ones_own(table):
    rows = [{"prompt": f"p {n}", "a": "red.png", "b": "blue.png", "charm": "a", "calm": "tie"} for n in range(3)]
    assert seen(table(rows), "kind", "pairs", "dimensions") == ("pairs", 3, ("charm", "calm"))


def test_items_of_a_reward(table, singles):
    assert seen(table(singles(4, quality=lambda n: "good" if n else "bad")), "kind", "dimensions") == (
        "items", ("quality",))


def test_a_folder_of_captioned_images(folder):
    assert seen(folder, "kind", "modality", "rows", "prompts") == ("images", "image", 6, 6)


def test_a_few_images_of_which_none_has_a_caption_are_photographs(tmp_path):
    for number in range(4):
        Image.new("RGB", (16, 16), (9 * number, 0, 0)).save(tmp_path / f"{number}.png")
    assert seen(tmp_path, "kind", "rows", "folder") == ("photographs", 4, True)
    (tmp_path / "0.txt").write_text("a dog\n")
    assert seen(tmp_path, "kind", "rows", "broken") == ("images", 1, 3)


def test_edits_and_videos(table, pairs, video_pairs_file):
    assert seen(table(pairs(3, source=lambda n: "white.png")), "kind", "edits") == ("pairs", True)
    assert seen(video_pairs_file, "kind", "modality", "dimensions") == ("pairs", "video", ("VQ", "MQ", "TA"))


@pytest.mark.parametrize("name, content", [
    ("p.txt", "a cat\na dog\n"), ("p.csv", "prompt\na cat\na dog\n"), ("p.json", '["a cat", "a dog"]'),
    ("p.jsonl", '{"Caption": "a cat"}\n{"Caption": "a dog"}\n')])
def test_prompts(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert seen(tmp_path / name, "kind", "rows", "asked", "edits") == ("prompts", 2, "a cat", False)


def test_embedded_sets():
    assert seen("emoji:train", "kind", "edits") == ("prompts", False)
    assert seen("emoji-edits:train", "kind", "edits") == ("prompts", True)
    assert seen("emoji:pairs", "kind", "pairs") == ("pairs", 1880)


def test_prompts_of_edits(table):
    rows = [{"prompt": f"make it {n}", "source": "red.png"} for n in range(3)]
    assert seen(f"edit:{table(rows)}", "kind", "edits") == ("prompts", True)
    assert seen(table(rows), "kind", "edits") == ("prompts", True)


def test_votes(table):
    rows = [{"prompt": "a cat", "a_seed": 1, "b_seed": 2, "choice": "a"}]
    assert seen(table(rows), "kind", "rows") == ("votes", 1)


def test_text(table, texts):
    assert seen(table(texts), "kind", "modality", "pairs", "images") == ("text pairs", "text", 8, False)
    shown = [row | {"image": "red.png"} for row in texts]
    assert seen(table(shown), "kind", "images") == ("text pairs", True)
    answers = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in texts]
    assert seen(table(answers), "kind", "rows") == ("text answers", 8)
    labelled = [row | {"label": number % 2} for number, row in enumerate(answers)]
    assert seen(table(labelled), "kind", "good", "bad") == ("text labels", 4, 4)
    asked = {"role": "user", "content": "a?"}
    talks = [{"messages": [asked, {"role": "assistant", "content": "b"}, asked]}]
    assert seen(table(talks), "kind", "rows") == ("dialogues", 1)
    assert seen(table([{"question": "a?", "right": "b", "wrong": "c"}]), "kind") == ("persuasion",)
    corrected = [{"prompt": "a?", "image": "red.png", "own": "a", "corrected": "b", "truth": "c"}]
    assert seen(table(corrected), "kind", "images") == ("corrected", True)


def test_only_the_first_rows_of_long_tables_are_looked_at(table, pairs, singles, monkeypatch):
    monkeypatch.setattr(looking, "MOST_ROWS", 4)
    assert seen(table(pairs(6)), "rows", "whole") == (4, False)
    assert seen(table(pairs(4)), "rows", "whole") == (4, True)
    assert seen(table(singles(6, label=lambda n: n < 2)), "kind", "rows", "good") == ("thumbs", 4, 2)
    monkeypatch.setattr(looking, "LARGE_TABLES", 10)
    monkeypatch.setattr(looking, "FEWER_ROWS", 2)
    assert seen(table(pairs(6)), "rows", "whole") == (2, False)


def test_nothing_is_decoded(table, images, pairs):
    file = table(pairs(6))
    for image in images.glob("*.png"):
        image.write_bytes(image.read_bytes()[:60])  # the header is whole
    assert seen(file, "kind", "pairs") == ("pairs", 6)


def test_broken_rows_are_counted_and_the_first_is_named(table, pairs):
    file = table([*pairs(4), {"prompt": "x", "chosen": "nowhere.png", "rejected": "red.png"}])
    broken, first = seen(file, "broken", "first_broken")
    assert broken == 1 and "nowhere.png, which does not exist" in first


@pytest.mark.parametrize("name, content, words", [
    ("x.jsonl", '{"prompt": "a", "chosen": "no.png", "rejected": "no.png"}\n', "no.png, which does not exist"),
    ("x.jsonl", '{"left": 1, "right": 2}\n', "its columns (left, right) are not those of a known preference set"),
    ("x.jsonl", "", "holds no row"), ("x.xlsx", "abc", "unknown kind of file '.xlsx'"),
    ("x.txt", "", "holds no prompt"),
    ("x.csv", "a,a\n1,2\n", "two columns named 'a'"), (None, None, "there is no such file or folder")])
def test_what_cannot_be_read_ends_with_the_reader_s_own_sentence(tmp_path, name, content, words):
    if name:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        look_at(str(tmp_path / (name or "gone.jsonl")))
    assert words in str(error.value)


def test_a_folder_without_anything_is_refused(tmp_path):
    with pytest.raises(UserError, match="the folder holds no table"):
        look_at(str(tmp_path))


def test_a_look_is_data_alone():
    assert json.dumps(vars(Look("x", "pairs"))) and Look("x", "pairs") == Look("x", "pairs")
