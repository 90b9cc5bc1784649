"""Sources cut into partitions: shards, tables, folders here and at URLs, read as a folder of the same files is."""

import io
import json
import tarfile
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from visalign.data.generations import find_generations
from visalign.data.packed import entries_of_tar
from visalign.data.partitions import partitions_of
from visalign.errors import UserError
from visalign.storage.locations import Location


def png(i: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (8, 8), (40 * i, 90, 200)).save(sink, "PNG")
    return sink.getvalue()


def archive(file, members: dict[str, bytes]):
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


@pytest.fixture
def folder(tmp_path):
    """Five images with prompts beside them, and one that is broken."""
    root = tmp_path / "folder"
    root.mkdir()
    for i in range(6):
        (root / f"{i}.png").write_bytes(png(i) if i < 5 else b"nope")
        (root / f"{i}.txt").write_text(f"prompt {i % 2}")
    return root


def read(parts) -> list[tuple]:
    """(path, prompt, colour or error) of everything in some partitions."""
    found = []
    for part in parts.each:
        for entry in part.entries():
            try:
                found.append((entry.path, entry.prompt, entry.sample().media.getpixel((0, 0))))
            except UserError:
                found.append((entry.path, entry.prompt, "unreadable"))
    return found


def test_shards_tables_and_urls_give_what_the_folder_gives(folder, tmp_path):
    alone = partitions_of(str(folder), 4)
    expected = read(alone)
    assert len(alone.each) == 2 and expected[1] == ("1.png", "prompt 1", (40, 90, 200))
    assert expected[5][2] == "unreadable"
    assert read(partitions_of(f"file://{folder}", 4)) == expected

    files = {name: (folder / name).read_bytes() for name in sorted(p.name for p in folder.iterdir())}
    (tmp_path / "tars").mkdir()
    for half in (0, 1):
        archive(tmp_path / "tars" / f"{half}.tar", {n: d for n, d in files.items() if int(n[0]) // 3 == half})
    shards = partitions_of(str(tmp_path / "tars"), 4)
    assert len(shards.each) == 2 and read(shards) == expected and "2 .tar" in shards.kinds

    rows = [{"image": {"bytes": files[f"{i}.png"], "path": f"{i}.png"}, "prompt": f"prompt {i % 2}"} for i in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet", row_group_size=4)
    table = partitions_of(str(tmp_path / "t.parquet"), 99)
    assert len(table.each) == 2 and read(table) == expected

    store = f"memory://{uuid.uuid4().hex}"
    for name, data in files.items():
        Location(store).child(name).write(data)
    assert read(partitions_of(store, 4)) == expected
    pq.write_table(pa.table({"image": [f"{i}.png" for i in range(6)] + ["../x.png"], "prompt": ["prompt 0"] * 7}),
                   tmp_path / "named.parquet")
    Location(store).child("tables/named.parquet").write((tmp_path / "named.parquet").read_bytes())
    named = partitions_of(f"{store}/tables", 4, media_root=store)
    assert [colour for *_, colour in read(named)] == [colour for *_, colour in expected] + ["unreadable"]


def test_webdataset_json_names_and_damage(tmp_path):
    said = json.dumps({"caption": "a hat", "seed": 7}).encode()
    file = archive(tmp_path / "s.tar", {"a/x_1.png": png(1), "a/x_1.json": said, "a/red_hat-2.png": png(2),
                                        "a/red_hat-2.cls": b"3"})
    first, second = entries_of_tar(Location(file), "auto+names")
    assert (first.path, first.prompt, first.seed) == ("a/x_1.png", "a hat", 7) and second.prompt == "red hat"
    whole = file.read_bytes()
    for cut, why in ((1024, "ends in the middle"), (1300, "ends in the middle"), (600, "not a readable archive")):
        file.write_bytes(whole[:cut])
        *_, last = entries_of_tar(Location(file), "auto")
        assert why in last.problem


def test_a_partition_is_known_by_what_it_is_of(folder):
    before = partitions_of(str(folder), 4)
    assert before.name() == partitions_of(str(folder), 4).name() != partitions_of(str(folder), 3).name()
    stamps = [part.stamp() for part in before.each]
    (folder / "5.png").write_bytes(png(9))
    after = partitions_of(str(folder), 4)
    assert after.name() == before.name()
    assert [part.stamp() == stamp for part, stamp in zip(after.each, stamps, strict=True)] == [True, False]


def test_a_table_among_images_is_no_source_and_an_empty_archive_a_row(folder, tmp_path):
    pq.write_table(pa.table({"path": ["1.png"]}), folder / "scores.parquet")
    assert partitions_of(str(folder), 9).kinds == "6 .png"
    [entry] = entries_of_tar(Location(archive(tmp_path / "e.tar", {"readme.txt": b""})), "auto")
    assert "holds no image" in entry.problem
    [part] = partitions_of(str(folder), 9).each
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="does not see it"):
        list(part.entries())


def test_prompts_stay_whole_where_a_reward_compares(folder, tmp_path):
    parts = partitions_of(str(folder), 2, grouped=True)
    assert [{e.prompt for e in part.entries()} for part in parts.each] == [{"prompt 0"}, {"prompt 1"}]
    archive(tmp_path / "s.tar", {"x.png": png(1)})
    with pytest.raises(UserError, match="compares within a prompt"):
        partitions_of(str(tmp_path / "s.tar"), 2, grouped=True)


@pytest.mark.parametrize(("source", "said"), [
    ("nothing.tar", "no such file"), ("memory://nowhere/at/all", "holds no image"), ("s4://bucket", "not known"),
    ("broken.parquet", "not a readable parquet")])
def test_a_source_that_cannot_be_read_is_one_sentence(source, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nope PAR1")
    with pytest.raises(UserError, match=said):
        partitions_of(source, 4)


def test_a_manifest_of_paths_is_read_as_before(folder, tmp_path):
    pq.write_table(pa.table({"image": ["1.png", "../secret.png"], "prompt": ["p", "q"]}), folder / "m.parquet")
    part, = partitions_of(str(folder / "m.parquet"), 4).each
    listed = find_generations(folder / "m.parquet")
    assert list(part.entries()) == list(listed) and "outside" in listed[1].problem
