"""What the images of a parquet file are is noted when it is first read; later starts read texts until one is wanted."""

import hashlib
import io
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from visalign.config import DataSettings
from visalign.data import table_media
from visalign.data.preferences import read_pairs
from visalign.data.table_media import TableMedia
from visalign.data.usable import check_pair_sources
from visalign.errors import UserError

ROWS = 150


def jpeg(number):
    content = io.BytesIO()
    Image.new("RGB", (24 + number % 3, 16), (number, 90, 200 - number)).save(content, "JPEG")
    return content.getvalue()


def write(file, first=0):
    """Pick-a-Pic's columns: one image as bytes, the other as `datasets` stores it; row groups of 40 rows."""
    table = pa.table({"caption": [f"a red fruit {i}" for i in range(ROWS)],
                      "jpg_0": [jpeg(first + i) for i in range(ROWS)],
                      "jpg_1": [{"bytes": jpeg(i + 1), "path": f"{i}.jpg"} for i in range(ROWS)],
                      "label_0": [float(i % 2) for i in range(ROWS)]})
    pq.write_table(table, file, row_group_size=40)


@pytest.fixture
def settings(tmp_path):
    write(tmp_path / "pairs.parquet")
    return DataSettings(path=str(tmp_path / "pairs.parquet"), cache=str(tmp_path / "cache"))


def read(settings, again=True):
    return list(read_pairs(settings, again=again))


def test_pairs_are_the_same_whether_their_bytes_are_read_or_known(settings, monkeypatch):
    plain, first, later = read(settings, again=False), read(settings), read(settings)
    assert all(isinstance(pair.chosen, bytes) for pair in first)
    assert all(isinstance(each, TableMedia) for pair in later for each in pair.stored())
    for one, other, known in zip(plain, first, later, strict=True):
        assert one == other and one.identity() == known.identity() and one.size() == known.size()
        assert (one.prompt, one.where) == (known.prompt, known.where)
    monkeypatch.setattr(table_media, "_HELD_BATCHES", 2)
    for place in (0, 70, 71, 30, 149, 1):  # forward, back, and across row groups
        assert later[place].chosen.read() == plain[place].chosen
        assert list(map(bytes, map(Image.Image.tobytes, later[place].media()))) == \
            [image.tobytes() for image in plain[place].media()]


def test_a_start_that_knows_a_table_reads_none_of_its_images(settings, monkeypatch):
    check_pair_sources(settings)
    monkeypatch.setattr(table_media._Table, "bytes_at", None)
    monkeypatch.setattr("visalign.data.usable.PROBED", 0)
    assert check_pair_sources(settings).pairs == len(read(settings)) == ROWS


def test_a_changed_table_is_noticed(settings, tmp_path):
    read(settings)
    [early, *_], file = read(settings), tmp_path / "pairs.parquet"
    before = file.stat()
    write(file, first=1)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as some copying programs leave it
    with pytest.raises(UserError, match="pairs.parquet: changed while it was read; start again"):
        early.rejected.read()
    new = read(settings)
    assert isinstance(new[0].chosen, bytes) and new[0].identity() != early.identity()


def test_notes_that_are_cut_off_or_cannot_be_kept_are_done_without(settings, tmp_path):
    read(settings)
    [notes] = (tmp_path / "cache" / "tables").iterdir()
    notes.write_bytes(notes.read_bytes()[:200])
    assert isinstance(read(settings)[0].chosen, bytes)
    blocked = settings.model_copy(update={"cache": str(tmp_path / "pairs.parquet")})  # a file where a folder should be
    assert [pair.identity() for pair in read(blocked)] == [pair.identity() for pair in read(blocked)]
    assert read(settings)[1].identity()[0] in {hashlib.sha256(jpeg(each)).hexdigest() for each in (1, 2)}
