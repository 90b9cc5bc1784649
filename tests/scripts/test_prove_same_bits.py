"""What the comparison of two trees calls the same; the trainings themselves are run by hand."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "prove_same_bits.py"
MADE = {"torch": "2.9", "processor": "x86_64 AVX2"}


@pytest.fixture(scope="module")
def same_bits():
    spec = importlib.util.spec_from_file_location("prove_same_bits", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_run(folder, name="lora.weight", change=0.0):
    """A run of two checkpoints and an export."""
    for step, shift in ((2, 5.0), (10, 0.0)):
        place = folder / "checkpoints" / f"step-{step:08d}"
        place.mkdir(parents=True)
        save_file({name: torch.arange(4.0) + shift + change, "half": torch.ones(2, 2, dtype=torch.bfloat16)},
                  place / "trainable.safetensors")
    (folder / "export").mkdir()
    save_file({"scalar": torch.tensor(3.0)}, folder / "export" / "weights.safetensors")
    return folder


def record(same_bits, run, **made):
    return {"made with": MADE | made, "trained": {"offline": same_bits.tensors_of(run)}}


def test_the_last_checkpoint_and_the_export_are_read(same_bits, tmp_path):
    found = same_bits.tensors_of(write_run(tmp_path / "run"))
    assert sorted(key.rpartition(" ")[0] for key in found) == ["bfloat16 [2, 2]", "float32 [4]", "float32 []"]
    assert same_bits.digest(torch.arange(4.0)) in found


def test_other_names_are_the_same_and_other_bits_are_not(same_bits, tmp_path):
    before = record(same_bits, write_run(tmp_path / "a"))
    renamed = record(same_bits, write_run(tmp_path / "b", name="adapter.weight"), torch="2.10")
    assert same_bits.differences(before, renamed) == []
    changed = record(same_bits, write_run(tmp_path / "c", change=1e-6), torch="2.10")
    line, circumstance = same_bits.differences(before, changed)
    assert line.startswith("offline: 1 of 3 tensors are gone and 1 are new") and "lora.weight" in line
    assert circumstance == "made with another torch: 2.9, then 2.10"


def test_values_read_as_another_type_or_shape_are_not_the_same(same_bits):
    values = torch.arange(4.0)
    assert len({same_bits.digest(each) for each in (values, values.view(2, 2), values.view(torch.int32))}) == 3
    assert same_bits.digest(values[::2]) == same_bits.digest(torch.tensor([0.0, 2.0]))


def test_a_training_of_which_nothing_is_known_is_a_difference(same_bits, tmp_path):
    known = record(same_bits, write_run(tmp_path / "run"))
    assert same_bits.differences({"made with": MADE, "trained": {"offline": {}}},
                                 {"made with": MADE, "trained": {"offline": {}}})
    assert same_bits.differences({"made with": MADE, "trained": {}}, known)
