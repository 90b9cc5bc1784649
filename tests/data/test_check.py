"""`visalign data check`."""

import json

from visalign.config import DataSettings
from visalign.data.check import check_pairs


def test_counts_broken_rows_duplicates_and_draws_a_sheet(tmp_path, pairs_file):
    rows = pairs_file.read_text().splitlines()
    (tmp_path / "half.png").write_bytes((tmp_path / "red-chosen.png").read_bytes()[:40])
    rows += [rows[0], "nonsense", json.dumps({"prompt": "x", "tie": True}),
             json.dumps({"prompt": "y", "chosen": "half.png", "rejected": "half.png"}),
             json.dumps({"prompt": "z", "chosen": "red-chosen.png", "rejected": "red-chosen.png"})]
    pairs_file.write_text("\n".join(rows))
    summary = check_pairs(DataSettings(path=str(pairs_file)), tmp_path / "sheet.png")
    assert (summary.pairs, summary.ties, summary.duplicates, summary.same_image) == (8, 1, 1, 1)
    assert len(summary.broken) == 2
    assert "line 8" in summary.broken[0] and "line 10" in summary.broken[1]
    assert summary.sheet.stat().st_size > 1000
    assert "24x20" in summary.text()


def test_thumbs_are_counted(tmp_path, pairs_file):
    def said(*labels):
        (tmp_path / "thumbs.jsonl").write_text("".join(
            json.dumps({"prompt": "a", "image": "red-chosen.png", "label": label}) + "\n" for label in labels))
        return check_pairs(DataSettings(path=str(tmp_path / "thumbs.jsonl"))).text()

    assert "4 images or videos with captions; 0 pairs" in said(True, "down", "good", "cat")
    assert "thumbs (column label): 2 good, 1 bad, 1 whose label is neither, for objective diffusion_kto" in said(
        True, "down", "good", "cat")
    assert "thumbs (column label): 2 good, 0 bad, for the recipe sft_folder" in said(1, 1)
    assert "thumbs (column label): 0 good, 1 bad, which nothing learns from without good ones" in said("down")
    assert "2 whose label is neither; they are learnt from as captioned images" in said("cat", "dog")
    assert "column label" not in check_pairs(DataSettings(path=str(pairs_file))).text()
