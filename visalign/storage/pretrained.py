"""Networks and tokenizers of transformers from a user's folder: every file present, every weight loaded.

Without the tokenizer's files a library silently builds another tokenizer, and every number changes.
"""

from pathlib import Path

from torch import nn

from visalign.errors import UserError, notice
from visalign.storage.weights import check_keys, check_loaded, quiet_reports, read_json, some

SETTINGS = "tokenizer_config.json"
VOCABULARIES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",), ("spiece.model",),
                ("tokenizer.model",), ("sentencepiece.bpe.model",))
"""Sets of files; one of them holds a tokenizer's vocabulary."""
TOKENIZER_FILES = (SETTINGS, *(name for names in VOCABULARIES for name in names), "special_tokens_map.json",
                   "added_tokens.json")


def check_tokenizer(source: str | Path, where: str) -> None:
    """Raise UserError starting with `where` when `source` is a folder without the files of a tokenizer."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return  # a hub id
    if not any(all((folder / name).is_file() for name in names) for names in VOCABULARIES) and not _of_bytes(folder):
        raise UserError(f"{where}: {folder} has no tokenizer; of its files, tokenizer.json (or "
                        f"{' with '.join(VOCABULARIES[1])}) is missing")
    if not (folder / SETTINGS).is_file():
        raise UserError(f"{where}: {folder} has no {SETTINGS}, which says how its tokenizer pads and cuts")


def _of_bytes(folder: Path) -> bool:
    """Whether the tokenizer's settings say that its tokens are bytes, for which there is no vocabulary."""
    file = folder / SETTINGS
    return file.is_file() and read_json(file, f"tokenizer {file}").get("tokenizer_class") == "ByT5Tokenizer"


def check_processor(source: str | Path, where: str) -> None:
    """As `check_tokenizer`, and the image processor must be there too."""
    folder = Path(source).expanduser()
    check_tokenizer(folder, where)
    names = ("preprocessor_config.json", "processor_config.json")
    if folder.is_dir() and not any((folder / name).is_file() for name in names):
        raise UserError(f"{where}: {folder} has no preprocessor_config.json, which says how images are prepared")


def load_whole(kind: type, source: str | Path, where: str, **options) -> nn.Module:
    """A network by `kind.from_pretrained`, on the CPU, in evaluation mode, with every tensor loaded and finite.

    Raises UserError starting with `where`. Pickled weights are refused.
    """
    with quiet_reports():
        try:
            module, info = kind.from_pretrained(source, use_safetensors=True, output_loading_info=True,
                                                ignore_mismatched_sizes=True, **options)
        except Exception as error:  # hub, file and shape errors of many kinds; to the user all mean the same
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"{where}: transformers could not load {source} ({reason})") from error
    where = f"{where}: {source}"
    check_keys({**info, "unexpected_keys": ()}, where)
    beside = [name for name in info["unexpected_keys"] if not name.endswith("position_ids")]
    if beside:
        notice(f"{where}: {len(beside)} tensors that this model has no place for are ignored: {some(beside)}")
    check_loaded(module, where)
    return module.eval()
