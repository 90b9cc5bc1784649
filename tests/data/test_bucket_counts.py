"""How many images each bucket gets, in `data check --buckets` and `--dry-run`."""

import pytest
from click.testing import CliRunner

from visalign.cli import main
from visalign.data.bucket_counts import bucket_lines, check_sizes
from visalign.errors import UserError
from visalign.media.buckets import Buckets

SIXTEEN = Buckets.around(16**2, 8)


def test_a_histogram_has_a_line_for_each_size_that_holds_images():
    lines = bucket_lines({(16, 16): 20, (8, 32): 5, None: 2}, SIXTEEN)
    assert lines[0].endswith("5 of up to 256 pixels, sides from 8 to 32 in steps of 8; height x width")
    assert [line.split() for line in lines[1:]] == [["8x32", "5", "#" * 10], ["16x16", "20", "#" * 40],
                                                    ["too", "small", "2", "left", "out"]]
    assert bucket_lines({}, SIXTEEN)[1].split() == ["8x24,", "8x32,", "16x16,", "24x8,", "32x8"]


def test_too_few_of_every_size_and_too_small_ones_are_refused():
    check_sizes({(16, 16): 4, (8, 32): 1, None: 9}, SIXTEEN, 4)
    with pytest.raises(UserError, match="takes 5, and the most common size has 4"):
        check_sizes({(16, 16): 4, None: 9}, SIXTEEN, 5)


def test_both_commands_say_it(recipe, pairs_file, tmp_path):
    told = CliRunner().invoke(main, ["data", "check", str(pairs_file), "--buckets", "512", "--sheet",
                                     str(tmp_path / "sheet.png")])
    assert "17 of up to 262,144 pixels" in told.output and "448x576" in told.output, told.output  # 20 x 24 pixels
    dry = CliRunner().invoke(main, ["train", str(recipe("sdxl")), "--dry-run", "data.buckets=true"])
    assert "5 of up to 256 pixels" in dry.output and "16x16         6 ###" in dry.output, dry.output
