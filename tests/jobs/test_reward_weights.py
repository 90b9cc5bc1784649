"""`visalign reward fit-weights` from end to end."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from visalign.cli import main
from visalign.media.samples import Sample, to_bytes
from visalign.rewards import load_reward


def invoke(*arguments):
    return CliRunner().invoke(main, ["reward", "fit-weights", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Of a face the more saturated image is better, of a fruit the one with more contrast; the other reward is at
    random."""
    rng, rows = np.random.default_rng(0), []
    for i in range(48):
        face = i % 2 == 0
        sides = []
        for better in (True, False):
            wanted, other = (0.7, 0.3)[not better], rng.uniform(0.2, 0.8)
            colour, contrast = (wanted, other) if face else (other, wanted)
            pixels = np.full((16, 16, 3), 128.0)
            pixels[:, :8] += 100 * contrast
            pixels[:, 8:] -= 100 * contrast
            pixels[..., 2] *= 1 - colour
            sides.append(to_bytes(Image.fromarray(pixels.clip(0, 255).astype(np.uint8))))
        rows.append({"prompt": f"{'smiling face' if face else 'green apple'} number {i}", "a": sides[0], "b": sides[1],
                     "alignment": "a"})
    file = tmp_path_factory.mktemp("weights") / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def test_what_counts_follows_the_prompt(table, tmp_path):
    out = tmp_path / "w.safetensors"
    done = invoke(table, "-r", "saturation,contrast", "-o", out)
    assert done.exit_code == 0, done.output
    assert "48 pairs; accuracy on held-out prompts" in done.output
    first = dict(line.split(" (")[0].split(" counts most for ") for line in done.output.splitlines()
                 if "counts most" in line)
    assert "smiling face" in first["saturation.score"] and "green apple" in first["contrast.score"]
    reward = load_reward({"kind": "prompt_weighted", "of": ["saturation", "contrast"], "file": str(out),
                          "prompts_by": "tiny-clip"})
    red, striped = Image.new("RGB", (16, 16), "red"), Image.fromarray(np.repeat(np.array(
        [[0] * 8 + [255] * 8] * 16, np.uint8)[..., None], 3, 2))
    face, apple = (reward.score([Sample(f"{what} number 3", each) for each in (red, striped)]).values.flatten()
                   for what in ("smiling face", "green apple"))
    assert face[0] > face[1] and apple[1] > apple[0]


def test_mistakes_end_in_one_sentence(table, tmp_path):
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(table).slice(0, 6), few)
    told = {
        (table, "-r", "saturation"): "saturation.score is the only one",
        (few, "-r", "saturation,contrast"): "6 prompts have a decided pair that all rewards score, and at least 20",
        (table, "-r", "saturation,contrast", "--prompts-by", "sharpness"): "has no features of images and prompts",
        (table, "-r", "saturation,contrast", "-o", tmp_path / "w.pt"): "what is written is a .safetensors file",
        (table, "-r", "saturation,jpeg", "--dimension", "nothing"): "no label in any of the dimensions nothing",
    }
    for arguments, words in told.items():
        out = () if "-o" in arguments else ("-o", tmp_path / "w.safetensors")
        done = invoke(*arguments, *out)
        assert done.exit_code == 1 and words in done.output, (arguments, done.output)
        assert not (tmp_path / "w.safetensors").exists()
