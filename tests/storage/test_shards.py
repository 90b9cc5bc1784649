"""Tensors in shards: written by several at once, never half, and missing again where a file is damaged."""

import itertools
import multiprocessing
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from visalign.storage import shards
from visalign.storage.shards import ShardStore

ENTRIES = {"a": {"latents": torch.randn(2, 3), "size": torch.tensor([5, 7])},
           "b": {"latents": torch.randn(4).bfloat16(), "mask": torch.tensor([True, False]), "one": torch.tensor(1.5)},
           "c": {"latents": torch.zeros(0, 3)}}


def filled(folder, entries=ENTRIES) -> ShardStore:
    store = ShardStore(folder)
    for key, entry in entries.items():
        store.put(key, entry)
    return store


def holds(store: ShardStore, entries=ENTRIES) -> bool:
    found = {key: store.get(key) for key in entries}
    return all(found[key] is not None and found[key].keys() == entry.keys() and
               all(torch.equal(found[key][name], tensor) for name, tensor in entry.items())
               for key, entry in entries.items())


def test_what_is_put_is_read_at_once_and_later_by_others(tmp_path):
    store, other = filled(tmp_path), ShardStore(tmp_path)
    store.note("name", "text")
    assert holds(store) and "a" in store and "a" not in other and not list(tmp_path.iterdir())
    store.flush()
    [file] = tmp_path.iterdir()
    assert "a/latents" in load_file(file) and holds(store)
    other.refresh()
    assert holds(other) and other.noted("name") == "text" and other.noted("else") is None and len(other) == 3
    store.flush()
    other.put("a", ENTRIES["a"])
    other.flush()
    assert list(tmp_path.iterdir()) == [file], "nothing is written twice"


def test_a_shard_is_written_at_its_size_number_or_age(tmp_path, monkeypatch):
    for limit in ("SHARD_BYTES", "SHARD_ENTRIES", "SHARD_SECONDS"):
        folder = tmp_path / limit
        folder.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(shards, limit, 2 if limit != "SHARD_SECONDS" else 0)
            filled(folder)
        assert len(list(folder.iterdir())) >= 1


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:50], lambda data: b"",
                                    lambda data: data + b"x", lambda data: b"\xff" + data[1:],
                                    lambda data: data.replace(b'"dtype"', b'"DTYPE"', 1)])
def test_a_damaged_shard_is_set_aside_and_the_others_are_read(tmp_path, capsys, damage):
    filled(tmp_path, {"a": ENTRIES["a"]}).flush()
    [file] = tmp_path.iterdir()
    filled(tmp_path, {"b": ENTRIES["b"]}).flush()
    file.write_bytes(damage(file.read_bytes()))
    store = ShardStore(tmp_path)
    assert "a" not in store and holds(store, {"b": ENTRIES["b"]})
    assert not file.exists() and file.with_name(f"{file.name}.damaged").exists()
    assert f"{file} is cut off or damaged" in capsys.readouterr().err
    store.put("a", ENTRIES["a"])
    store.flush()
    assert holds(ShardStore(tmp_path), {"a": ENTRIES["a"], "b": ENTRIES["b"]})


def test_an_entry_of_other_numbers_than_were_written_is_missing(tmp_path, capsys):
    filled(tmp_path, {"a": ENTRIES["a"]}).flush()
    [file] = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    store = ShardStore(tmp_path)
    assert "a" in store and store.get("a") is None and "a" not in store and "a" not in ShardStore(tmp_path)
    assert "is damaged" in capsys.readouterr().err


def test_files_of_others_are_left_alone_and_named(tmp_path, capsys):
    file = tmp_path / "shard-mine.safetensors"
    save_file({"a/latents": torch.ones(2)}, file)
    assert "a" not in ShardStore(tmp_path) and file.exists()
    assert f"{file} is not a file of this cache" in capsys.readouterr().err


def write_for_ever(folder):
    shards.SHARD_ENTRIES, store = 4, ShardStore(folder)
    for n in itertools.count():
        store.put(str(n), {"latents": torch.full((1000,), float(n))})


def test_a_killed_writer_loses_only_what_it_had_not_written(tmp_path):
    writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(tmp_path,))
    writer.start()
    deadline = time.time() + 60
    while len(list(tmp_path.glob("shard-*"))) < 5 and time.time() < deadline:
        time.sleep(0.01)
    writer.kill()
    writer.join()
    store = ShardStore(tmp_path)
    assert len(store) >= 20 and len(store) % 4 == 0
    assert all(torch.equal(store.get(str(n))["latents"], torch.full((1000,), float(n))) for n in range(len(store)))
    assert not list(tmp_path.glob("*.damaged"))


def test_what_killed_writers_left_is_removed_after_a_while(tmp_path, monkeypatch):
    left = tmp_path / ".tmp-1234-shard-1.safetensors"
    left.write_bytes(b"half")
    ShardStore(tmp_path)
    assert left.exists()
    monkeypatch.setattr(shards, "_ABANDONED_SECONDS", -1)
    ShardStore(tmp_path)
    assert not left.exists()
