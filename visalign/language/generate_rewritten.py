"""`visalign generate --rewrite`: prompts rewritten by a language model before they are sampled."""

from pathlib import Path

from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.language.rewriting import Rewritten, find_rewriter, load_rewriter
from visalign.language.trl import check_trl
from visalign.media.source_images import is_edit
from visalign.sampling.folder import drawing_of, write_generations
from visalign.storage.language_models import locate_language_model


def generate_rewritten(model: ModelSettings, prompts: list[str], folder: Path, source: Path, *, device: str = "auto",
                       **options) -> tuple[int, list[Rewritten]]:
    """As `generate_to_folder`, each prompt rewritten first; returns how many files, and the prompts as they were used.

    source: a run of `visalign lm adapt` or its export. In samples.jsonl `prompt` is the user's, which rewards see,
    `rewrite` what was sampled, and `fell_back` why a rewrite was not used. Raises UserError.
    """
    check_trl("--rewrite")
    locate_language_model(str(find_rewriter(source)[0]), "--rewrite")
    drawing, prompts = drawing_of(model, prompts, **options)
    prompts = list(dict.fromkeys(prompts))
    if drawing.asking:
        raise UserError("--goal: goes with the user's own prompts, not with --rewrite; leave one of them out")
    if any(map(is_edit, prompts)):
        raise UserError("--rewrite: prompts of edits, which name source images, are not rewritten; leave it out")
    if (folder / "samples.jsonl").exists():
        raise UserError(f"output {folder}: already holds generations; choose another folder with --out")
    generator = drawing.load(device)
    rewritten = load_rewriter(source, generator, device).rewrite(prompts)
    columns = {each.prompt: {"rewrite": each.used, "fell_back": each.refused} for each in rewritten}
    count = write_generations(lambda: generator, prompts, folder, drawing.identity() | {"rewriter": str(source)},
                              samples=drawing.samples, steps=drawing.steps, guidance_scale=drawing.guidance_scale,
                              seed=drawing.seed, video_format=drawing.video_format, rewritten=columns)
    return count, rewritten
