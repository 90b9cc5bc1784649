"""A run's export on the model hub, with its card; never its checkpoints, caches or data."""

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from visalign.errors import UserError
from visalign.evaluation.sources import run_config
from visalign.reports.before_after import BEFORE_AFTER
from visalign.storage.files import size_in_words
from visalign.storage.hub_files import hub_reason

PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.md", "*.png")
"""What may leave the machine."""


@dataclass(frozen=True)
class Upload:
    """repository: ORG/NAME. files: paths in it with the files that they are made of."""

    repository: str
    card: str
    files: dict[str, Path] = field(default_factory=dict)

    def described(self) -> str:
        """What is uploaded, one line a file."""
        lines = [f"{size_in_words(file.stat().st_size):>10}  {name}" for name, file in sorted(self.files.items())]
        return "\n".join([f"to {self.repository}", *lines, "", self.card])


def prepare(run: Path, repository: str, license_name: str | None = None) -> Upload:
    """What an upload of a run's export holds. Raises UserError for an unfinished run or an unusable name."""
    _check_name(repository)
    config, export = run_config(run), run / "export"
    if not (export / "README.md").is_file():
        raise UserError(f"run {run}: has no export yet; it is written when the training has ended")
    pipeline = export / "pipeline"
    roots = [export, pipeline] if pipeline.is_dir() else [export]
    files = {str(file.relative_to(root)): file for root in roots for file in sorted(root.rglob("*"))
             if file.is_file() and file.name != "README.md" and any(file.match(pattern) for pattern in PATTERNS)
             and not (root is export and pipeline in file.parents)}
    if (run / BEFORE_AFTER).is_file():
        files[BEFORE_AFTER] = run / BEFORE_AFTER
    return Upload(repository, _card(export / "README.md", repository, license_name, config.eval.listed,
                                    BEFORE_AFTER in files), files)


def _check_name(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        repository = ""
    if repository.count("/") != 1:
        raise UserError("push: name the repository as ORG/NAME, of letters, digits, '-', '_' and '.'")


def _card(file: Path, repository: str, license_name: str | None, prompts: tuple[str, ...], pictured: bool) -> str:
    """The export's card for its place on the hub."""
    from huggingface_hub import ModelCard

    card = ModelCard.load(file)
    card.data.license = license_name or card.data.license
    text = card.text
    for local in ("path/to/this/folder/pipeline", "path/to/this/folder"):
        text = text.replace(local, repository)
    if pictured:
        heading, _, rest = text.lstrip().partition("\n")
        text = f"{heading}\n\n![Samples before and after, same prompts and seeds]({BEFORE_AFTER})\n{rest}"
    if prompts:
        card.data.widget = [{"text": prompt} for prompt in prompts[:4]]
    card.text = text
    return str(card)


def push(upload: Upload, private: bool = False, hub=None) -> str:
    """Upload; returns the address. hub: an object like huggingface_hub.HfApi().

    Raises UserError when the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    hub = hub or HfApi()
    with tempfile.TemporaryDirectory() as folder:
        for name, file in upload.files.items():
            place = Path(folder, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                place.symlink_to(file.resolve())
            except OSError:  # where links are not allowed
                shutil.copyfile(file, place)
        Path(folder, "README.md").write_text(upload.card, encoding="utf-8")
        try:
            address = hub.create_repo(upload.repository, private=private, exist_ok=True)
            hub.upload_folder(repo_id=upload.repository, folder_path=folder, allow_patterns=list(PATTERNS),
                              commit_message="Aligned with visalign")
        except Exception as error:  # the hub raises many kinds of errors; `hub_reason` has the words
            raise UserError(f"push {upload.repository}: not uploaded ({hub_reason(error)})") from error
    return str(address)
