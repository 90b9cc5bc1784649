"""What a run learns from: what is held out, that a resumed run finds the same data, and rows left out together."""

import contextlib
import json
from types import SimpleNamespace

import pytest
import torch

from visalign.config import DataSettings
from visalign.data.preference_pair import PreferencePair
from visalign.data.usable import BrokenRows
from visalign.errors import UserError
from visalign.trainers.offline import encoded_pairs as encoding
from visalign.trainers.offline.encoded_pairs import check_items, encode_pairs
from visalign.trainers.order import check_holdout, keep_digest, split_by_prompt


def test_a_prompt_is_wholly_on_one_side():
    items = [SimpleNamespace(prompt=f"p{i % 50}") for i in range(200)]
    train, held_out = split_by_prompt(items, 0.3)
    assert len(train) + len(held_out) == 200
    assert not {i.prompt for i in train} & {i.prompt for i in held_out}


def test_holding_out_everything_is_refused_with_a_way_out():
    with pytest.raises(UserError, match="1 prompt; take a smaller share, or 0"):
        check_holdout(["only"], 0.9999999)
    check_holdout(["only"], 0.0)


def test_changed_data_is_found_at_resume(tmp_path):
    run = SimpleNamespace(path=tmp_path, is_main=True)
    keep_digest(run, [("a", "k1"), ("b", "k2")], "pairs")
    assert json.loads((tmp_path / "data.json").read_text())["pairs"] == 2
    keep_digest(run, [("a", "k1"), ("b", "k2")], "pairs")
    with pytest.raises(UserError, match="3 pairs instead of 2"):
        keep_digest(run, [("a", "k1"), ("b", "k2"), ("c", "k3")], "pairs")
    with pytest.raises(UserError, match="another order"):
        keep_digest(run, [("b", "k2"), ("a", "k1")], "pairs")


class _Cache:
    """Keys are the bytes themselves."""

    generator = SimpleNamespace(shape=SimpleNamespace(frames=None), check_media=lambda media, where: None,
                                speed_of=lambda media: 1.0, text_encoders=dict, text_of=str, by_size=False,
                                working_at=lambda size: contextlib.nullcontext())

    def prompt_key(self, prompt):
        return prompt

    def media_key(self, media):
        return media.tobytes()

    def known(self, identity):
        return None

    def holds(self, keys):
        return True

    def nothing(self, *given):
        pass

    add_media = add_prompts = remember = share = find_shared = nothing


@pytest.fixture
def three(pairs_file):
    """Three pairs, the second cut off."""
    folder = pairs_file.parent
    half = (folder / "red-chosen.png").read_bytes()[:40]
    good = [(folder / f"{name}.png").read_bytes() for name in ("red-chosen", "red-rejected")]
    return [PreferencePair("a", *good, "line 1"), PreferencePair("b", half, good[0], "line 2"),
            PreferencePair("c", *good, "line 3")]


def accelerator(rank=0, world=1):
    return SimpleNamespace(process_index=rank, num_processes=world, is_main_process=rank == 0,
                           device=torch.device("cpu"), wait_for_everyone=lambda: None)


def test_a_cut_off_image_ends_the_run_or_is_left_out(three):
    with pytest.raises(UserError, match="line 2.*data.on_error=skip"):
        encode_pairs(three, _Cache(), accelerator(), BrokenRows(DataSettings(path="p")))
    broken = BrokenRows(DataSettings(path="p", on_error="skip", max_skipped=0.5))
    items = encode_pairs(three, _Cache(), accelerator(), broken)
    assert [item.where for item in items] == ["line 1", "line 3"] and len(broken.found) == 1
    check_items("p", items, broken, compared=True)


def test_what_another_process_cannot_read_ends_this_one_too(three, monkeypatch):
    monkeypatch.setattr(encoding, "gather_object", lambda own: [*own, (1, "line 2: cut off")])
    with pytest.raises(UserError, match="line 2: cut off"):
        encode_pairs(three, _Cache(), accelerator(0, 2), BrokenRows(DataSettings(path="p")))


def test_equal_pixels_are_one_image_whatever_the_files(three):
    items = encode_pairs([PreferencePair("a", three[0].chosen, three[0].chosen, "line 1")], _Cache(), accelerator(),
                         BrokenRows(DataSettings(path="p")))
    with pytest.raises(UserError, match="same image in all 1 pairs"):
        check_items("p", items, BrokenRows(DataSettings(path="p")), compared=True)
