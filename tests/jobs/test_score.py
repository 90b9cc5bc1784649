"""`visalign score` on real files: tables, galleries, resuming, several processes, and rewards that fail."""

import json
import os
import signal
import time

import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tests.programs import Program
from visalign.cli import main
from visalign.jobs import score as module
from visalign.media.samples import Video
from visalign.media.video_files import to_video_bytes
from visalign.rewards import load_reward


def invoke(*arguments):
    return CliRunner().invoke(main, ["score", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path):
    """Six images of mixed size and mode with prompts, a video, and two files that are broken."""
    root = tmp_path / "media"
    root.mkdir()
    sizes = [(64, 64), (40, 20), (7, 90), (64, 64), (300, 200), (16, 16)]
    for i, (size, mode) in enumerate(zip(sizes, ["RGB", "L", "RGBA", "P", "RGB", "1"], strict=True)):
        Image.new("RGB", size, (40 * i, 255 - 40 * i, 90)).convert(mode).save(root / f"{i}.png")
        (root / f"{i}.txt").write_text(f"a red fruit {i} – ünïcode 🍎" if i != 4 else "a red fruit " * 30)
    frames = [Image.new("RGB", (32, 32), (i, i, i)) for i in range(0, 200, 20)]
    (root / "6.mp4").write_bytes(to_video_bytes(Video(frames, 10.0)))
    (root / "6.txt").write_text("a grey square growing")
    (root / "7.png").write_bytes(b"nope")
    (root / "8.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    return root


def test_every_file_gets_a_row_every_reward_a_column_and_what_failed_a_reason(folder, tmp_path):
    out = tmp_path / "scores.parquet"
    result = invoke(folder, "-r", "tiny-clip,sharpness", "-o", out)
    assert result.exit_code == 0, result.output
    assert "9 rows" in result.output and "2 files unreadable" in result.output
    rows = pq.read_table(out).to_pylist()
    assert [row["path"] for row in rows] == [f"{i}.png" for i in range(6)] + ["6.mp4", "7.png", "8.mp4"]
    assert all(row["tiny-clip.alignment"] is not None for row in rows[:7]) and rows[6]["modality"] == "video"
    assert rows[7]["tiny-clip.alignment"] is None and "not a readable image" in rows[7]["error"]
    assert "8.mp4" in rows[8]["error"] and "cut to the model's 16 tokens" in rows[4]["remarks"]
    assert not (tmp_path / "scores.parquet.parts").exists()
    page = (tmp_path / "scores.html").read_text()
    assert "tiny-clip.alignment" in page and "data:image/webp" in page and "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_csv_and_jsonl_hold_the_rows_of_the_parquet(folder, tmp_path, ending):
    from visalign.data.readers import file_rows

    for suffix in (".parquet", ending):
        done = invoke(folder, "-r", "saturation", "-o", tmp_path / f"s{suffix}", "--no-gallery")
        assert done.exit_code == 0, done.output
    wanted, found = pq.read_table(tmp_path / "s.parquet").to_pylist(), [
        row for _, row in file_rows(tmp_path / f"s{ending}")]
    assert [row["path"] for row in found] == [row["path"] for row in wanted]
    values = [None if row.get("saturation.score") in (None, "") else float(row["saturation.score"]) for row in found]
    assert values == pytest.approx([row["saturation.score"] for row in wanted])


def test_values_are_those_of_the_reward_itself_and_videos_are_means_over_frames(folder, tmp_path):
    from visalign.data.generations import find_generations

    invoke(folder, "-r", "tiny-clip", "-o", tmp_path / "s.parquet", "--no-gallery")
    rows = {row["path"]: row["tiny-clip.alignment"] for row in pq.read_table(tmp_path / "s.parquet").to_pylist()}
    entries = {entry.path: entry for entry in find_generations(folder)}
    reward = load_reward("tiny-clip")
    assert rows["0.png"] == pytest.approx(reward.score([entries["0.png"].sample()]).values.item(), abs=1e-5)
    video = entries["6.mp4"].sample()
    frames = reward.score([video.with_media(frame) for frame in video.frames(8)]).values
    assert rows["6.mp4"] == pytest.approx(frames.mean().item(), abs=1e-5)


def test_a_prompts_markup_is_escaped_in_the_page(tmp_path):
    (tmp_path / "m").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "m" / "a.png")
    (tmp_path / "m" / "a.txt").write_text("<script>alert(1)</script>\"'")
    invoke(tmp_path / "m", "-r", "saturation", "-o", tmp_path / "s.parquet")
    assert "<script>alert" not in (tmp_path / "s.html").read_text()


def test_a_reward_that_fails_too_often_stops_the_run_with_its_reasons_and_keeps_the_rest(folder, tmp_path):
    out = tmp_path / "scores.parquet"
    result = invoke(folder, "-r", "saturation,ocr", "-o", out)
    assert (
        result.exit_code == 1 and "ocr: could not score 7 of 7" in result.output and "quotes no text" in result.output
    )
    assert len(result.output.strip().splitlines()[-1]) > 50 and not out.exists()
    same = invoke(folder, "-r", "saturation,ocr", "-o", out)
    assert same.exit_code == 1 and "could not score" in same.output  # stopping twice is not passing
    again = invoke(folder, "-r", "saturation,ocr", "-o", out, "--max-failures", 1)
    assert again.exit_code == 0 and len(pq.read_table(out)) == 9


def test_what_stopped_a_run_is_scored_again_and_earlier_failures_count_on(tmp_path, monkeypatch):
    from visalign.rewards.rules import Saturation

    monkeypatch.setattr(module, "CHUNK", 50)
    root, out, score = many(tmp_path, 200), tmp_path / "s.parquet", Saturation.score_batch
    calls = []

    def dies(self, samples):
        calls.append(len(samples))
        values = score(self, samples)
        values[: 2 if len(calls) == 1 else None] = float("nan")
        return values

    monkeypatch.setattr(Saturation, "score_batch", dies)  # 2 failures in the first chunk, then nothing but failures
    stopped = invoke(root, "-r", "saturation", "-o", out, "--no-gallery")
    assert stopped.exit_code == 1 and "52 of 100" in stopped.output
    monkeypatch.setattr(Saturation, "score_batch", score)  # it came back
    assert "could not score 2 of" in invoke(root, "-r", "saturation", "-o", out, "--max-failures", 0.001).output
    assert invoke(root, "-r", "saturation", "-o", out, "--no-gallery").exit_code == 0
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == 200 and sum(row["saturation.score"] is None for row in rows) == 2


def test_a_video_rule_on_images_is_missing_but_no_failure(folder, tmp_path):
    result = invoke(folder, "-r", "motion", "-o", tmp_path / "s.parquet")
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "s.parquet").to_pylist()
    assert [row["motion.score"] is not None for row in rows] == [False] * 6 + [True, False, False]
    assert "scores videos only" in rows[0]["remarks"]


def test_prompts_that_are_missing_are_a_failure_with_a_name(tmp_path):
    (tmp_path / "m").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "m" / "a.png")
    result = invoke(tmp_path / "m", "-r", "tiny-clip", "-o", tmp_path / "s.parquet")
    assert result.exit_code == 1 and "a.png: tiny-clip: no prompt" in result.output


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["nowhere"], "nowhere"),
        ([".", "-r", "tiny-clp"], "tiny-clip"),
        ([".", "-o", "x.xlsx"], "x.xlsx: a table ends in .parquet, .csv, .jsonl"),
        ([".", "-r", "saturation,saturation"], "two are named saturation"),
        ([], "SOURCE"),
    ],
)
def test_wrong_commands_end_in_one_sentence(arguments, word, folder, monkeypatch):
    monkeypatch.chdir(folder)
    result = invoke(*arguments)
    assert result.exit_code != 0 and word in result.output and "Traceback" not in result.output


def test_the_table_is_not_overwritten_and_unfinished_parts_are_not_mixed(folder, tmp_path):
    out = tmp_path / "s.parquet"
    invoke(folder, "-r", "saturation", "-o", out, "--no-gallery")
    assert "exists already" in invoke(folder, "-r", "saturation", "-o", out).output
    out.unlink()
    module.PartStore(out, {"source": "elsewhere"}, [], 0).open()
    assert "unfinished run" in invoke(folder, "-r", "saturation", "-o", out).output


def test_parts_made_with_other_settings_of_a_reward_or_other_prompts_are_not_mixed(folder, tmp_path):
    spec = tmp_path / "mine.yaml"
    spec.write_text("kind: jpeg\nquality: 90\n")
    command = (folder, "-r", f"{spec},ocr", "-o", tmp_path / "s.parquet")
    assert "could not score" in invoke(*command).output
    spec.write_text("kind: jpeg\nquality: 80\n")
    assert "unfinished run" in invoke(*command).output
    spec.write_text("kind: jpeg\nquality: 90\n")
    (folder / "0.txt").write_text("another prompt")
    assert "unfinished run" in invoke(*command).output


def many(tmp_path, count=600):
    root = tmp_path / "many"
    root.mkdir()
    for i in range(count):
        Image.new("RGB", (16, 16), (i % 256, i // 3 % 256, 99)).save(root / f"{i:04d}.png")
    return root


def test_a_killed_run_keeps_its_rows_and_continues(tmp_path):
    root, out = many(tmp_path), tmp_path / "s.parquet"
    code = (
        "import sys, time; from visalign.rewards.rules import Saturation; score = Saturation.score_batch\n"
        "Saturation.score_batch = lambda self, s: (time.sleep(0.05), score(self, s))[1]\n"
        "from visalign.cli import main; "
        "main(['score', sys.argv[1], '-r', 'saturation', '-o', sys.argv[2], '--no-gallery'])"
    )
    process = Program(code, root, out, output=tmp_path / "said")
    parts, started = tmp_path / "s.parquet.parts", time.time()
    while not list(parts.glob("part-*")) and time.time() - started < 90:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = {part: part.stat().st_mtime_ns for part in parts.glob("part-*")}
    assert kept and not out.exists()
    seen = []
    original = module.score_chunk
    try:
        module.score_chunk = lambda entries, chunk, *rest: seen.extend(chunk) or original(entries, chunk, *rest)
        assert invoke(root, "-r", "saturation", "-o", out, "--no-gallery").exit_code == 0
    finally:
        module.score_chunk = original
    rows = pq.read_table(out).to_pylist()
    assert [row["path"] for row in rows] == [f"{i:04d}.png" for i in range(600)]
    assert 0 < len(seen) < 600 and all(row["saturation.score"] is not None for row in rows)


def test_two_processes_share_the_work_and_give_the_same_table(tmp_path, two_processes):
    root = many(tmp_path)
    alone, shared = tmp_path / "one.parquet", tmp_path / "two.parquet"
    assert invoke(root, "-r", "saturation", "-o", alone, "--no-gallery").exit_code == 0
    code = (
        "import sys; from accelerate import PartialState; state = PartialState(cpu=True)\n"
        "assert state.num_processes == 2\n"
        "from visalign.jobs import score; write = score.PartStore.write\n"
        "score.PartStore.write = lambda self, t: (print('rows', len(t), state.process_index), write(self, t))[1]\n"
        "from visalign.cli import main; main(sys.argv[1:])"
    )
    output = two_processes(
        code, "score", root, "-r", "saturation", "-o", shared, "--device", "cpu", "--no-gallery"
    )
    assert {line.split()[-1] for line in output.splitlines() if line.startswith("rows")} == {"0", "1"}
    assert pq.read_table(alone).equals(pq.read_table(shared))


def test_rewards_that_compare_see_whole_prompts():
    from visalign.data.generations import Entry
    from visalign.rewards.vlm import VlmComparison

    reward = VlmComparison(url="http://127.0.0.1:1/v1", cache=None)
    entries = [Entry(str(i), None, f"p{i % 3}") for i in range(700)]
    chunks = list(module.in_chunks(entries, [reward]))
    assert sorted(i for chunk in chunks for i in chunk) == list(range(700)) and len(chunks) > 1
    for prompt in ("p0", "p1", "p2"):
        assert len({k for k, chunk in enumerate(chunks) for i in chunk if entries[i].prompt == prompt}) == 1


def test_list_names_every_reward():
    output = CliRunner().invoke(main, ["list", "rewards"]).output
    assert "pickscore" in output and "tiny-reward" in output and "flicker" in output


def test_a_nan_never_becomes_a_zero(folder, tmp_path, monkeypatch):
    from visalign.rewards.rules import Saturation

    monkeypatch.setattr(Saturation, "score_batch", lambda self, samples: torch.full((len(samples), 1), float("nan")))
    invoke(folder, "-r", "saturation", "-o", tmp_path / "s.parquet", "--max-failures", 1)
    rows = pq.read_table(tmp_path / "s.parquet").to_pylist()
    assert all(row["saturation.score"] is None for row in rows) and "not a finite number" in rows[0]["remarks"]
    json.dumps(rows)


def test_memory_does_not_grow_with_the_number_of_files(tmp_path, monkeypatch):
    """At most three chunks of decoded images exist at once."""
    alive, most = [0], [0]
    original = module.read_or_explain

    def counted(entry):
        alive[0] += 1
        most[0] = max(most[0], alive[0])
        return original(entry)

    monkeypatch.setattr(module, "read_or_explain", counted)
    monkeypatch.setattr(module, "CHUNK", 50)
    real = module.score_chunk
    monkeypatch.setattr(
        module,
        "score_chunk",
        lambda e, chunk, *rest: (real(e, chunk, *rest), alive.__setitem__(0, alive[0] - len(chunk)))[0],
    )
    assert invoke(many(tmp_path), "-r", "saturation", "-o", tmp_path / "s.parquet", "--no-gallery").exit_code == 0
    assert most[0] <= 150
