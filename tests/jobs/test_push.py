"""What leaves the machine: the export and its card, nothing else; by way of a stand-in for the hub."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub.errors import LocalTokenNotFoundError
from huggingface_hub.utils import filter_repo_objects
from PIL import Image

from tests.generators.test_export import trained
from visalign.cli import main
from visalign.errors import UserError
from visalign.generators.export.exporting import export
from visalign.jobs.push import prepare, push
from visalign.storage.run_folder import RunFolder


class StandIn:
    """Keeps repositories in a folder, choosing files with the hub's own rule."""

    def __init__(self, folder: Path):
        self.folder, self.private = folder, {}

    def create_repo(self, repo_id, *, private, exist_ok):
        self.private[repo_id] = private
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, commit_message):
        names = [str(file.relative_to(folder_path)) for file in Path(folder_path).rglob("*") if file.is_file()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):
            (self.folder / repo_id / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(folder_path, name), self.folder / repo_id / name)


@pytest.fixture
def run(recipe, tmp_path):
    def made(tuning):
        config, generator = trained(recipe, "sd15", tuning)
        folder = RunFolder(tmp_path / "run", config).path
        export(generator, folder / "export", config, {"reward change": "+0.12"})
        Image.new("RGB", (8, 8)).save(folder / "before_after.png")
        (folder / "checkpoints" / "optimizer.pt").write_bytes(b"secret")
        return folder

    return made


def test_a_lora_is_uploaded_with_a_card_that_loads_it_from_there(run, tmp_path):
    hub, folder = StandIn(tmp_path / "hub"), run("lora")
    assert push(prepare(folder, "me/aligned", "openrail++"), True, hub) == "https://hub.example/me/aligned"
    there = tmp_path / "hub" / "me" / "aligned"
    assert {str(file.relative_to(there)) for file in there.rglob("*") if file.is_file()} == {
        "README.md", "before_after.png", "lora_kohya.safetensors", "pytorch_lora_weights.safetensors"}
    assert hub.private == {"me/aligned": True}
    card = (there / "README.md").read_text()
    for words in ("license: openrail++", 'load_lora_weights("me/aligned")', "+0.12", "(before_after.png)"):
        assert words in card
    assert str(tmp_path) not in card


def test_a_full_fine_tune_is_a_pipeline_at_the_root_of_its_repository(run, tmp_path):
    from diffusers import DiffusionPipeline

    hub = StandIn(tmp_path / "hub")
    push(prepare(run("full"), "me/whole"), False, hub)
    there = tmp_path / "hub" / "me" / "whole"
    assert (there / "model.safetensors").is_file() and (there / "unet" / "config.json").is_file()
    assert 'from_pretrained("me/whole")' in (there / "README.md").read_text()
    DiffusionPipeline.from_pretrained(there)


def test_what_cannot_be_uploaded_is_said_in_a_sentence(run, tmp_path):
    folder = run("lora")
    with pytest.raises(UserError, match="push: name the repository as ORG/NAME"):
        prepare(folder, "no-owner")

    class Closed(StandIn):
        def create_repo(self, *args, **options):
            raise LocalTokenNotFoundError("no token")

    with pytest.raises(UserError, match=r"push me/x: not uploaded \(nobody is signed in; `hf auth login`"):
        push(prepare(folder, "me/x"), hub=Closed(tmp_path))
    shown = CliRunner().invoke(main, ["push", str(folder), "me/x", "--dry-run"])
    assert shown.exit_code == 0 and "lora_kohya.safetensors" in shown.output
    shutil.rmtree(folder / "export")
    with pytest.raises(UserError, match="has no export yet"):
        prepare(folder, "me/x")
