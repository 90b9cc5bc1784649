"""`visalign generate`: prompts to images or videos on disk, in a form that other verbs read."""

import functools
import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from visalign.config import ModelSettings
from visalign.data.edits import kept_source
from visalign.data.leaves import leaf_at
from visalign.data.prompts import read_prompts
from visalign.errors import UserError, notice
from visalign.generators import load_generator, locate_model
from visalign.generators.base import Generator
from visalign.generators.files.locating import sampling_for
from visalign.generators.files.sketching import check_adapter, check_user_adapter
from visalign.generators.lora.files import digest_of
from visalign.generators.lora.layers import one_kind
from visalign.generators.lora.negative import check_beside, check_negative
from visalign.generators.users import find_user_adapter
from visalign.guidance import Guided, Guiding, load_guide
from visalign.guidance.network import GUIDE_FILES, find_guide, read_head
from visalign.media.kinds import is_image_name, is_video_name
from visalign.media.samples import Media
from visalign.media.source_images import content_of, is_edit, notes_of, put_into, split_prompt, words_of
from visalign.media.video_files import read_media, save_sheet, write_media
from visalign.sampling.branching import Branched, Branching
from visalign.sampling.feedback import samples_at
from visalign.sampling.goals import asking_for, known_goals
from visalign.sampling.seeds import place_seed
from visalign.sampling.users import ForUser
from visalign.storage.files import write_atomically, written

GRID_ROWS = 100
"""Prompts in the overview; a taller one helps nobody."""


SOURCES = "sources"
"""The folder in a sample folder for the source images of edits."""
TOGETHER = 32
"""Samples that are drawn again together when one of them is missing: the batch in which a sample is drawn may change
its last digit, so a command that was killed draws whole batches, as it would have done."""


@dataclass(frozen=True)
class Following:
    """A guide's folder, and how it is followed."""

    guide: Path
    guiding: Guiding

    def check(self) -> None:
        """Raise UserError when there is no such guide or it lacks a dimension."""
        self.guiding.check(read_head(find_guide(self.guide)).dimensions)

    def identity(self) -> dict:
        """What makes samples that follow it what they are."""
        stamp = (find_guide(self.guide) / GUIDE_FILES[1]).stat().st_mtime_ns
        return {"guide": str(self.guide), "weights of the guide": stamp, **asdict(self.guiding)}


@dataclass(frozen=True)
class Negative:
    """The LoRA that the unconditional branch of guidance has, and how much of the other LoRA it is without."""

    lora: Path
    less: float = 0.0

    @property
    def where(self) -> str:
        return f"negative adapter {self.lora}"

    def check_scale(self, guidance_scale: float) -> None:
        """Raise UserError where this guidance scale leaves it without a branch."""
        if guidance_scale <= 1:
            raise UserError(f"{self.where}: at guidance scale {guidance_scale:g} there is no unconditional branch for "
                            "it; give --guidance-scale above 1")

    def check_fit(self, model: ModelSettings, lora: Path | None) -> None:
        """Raise UserError where it cannot be for this model and this other LoRA."""
        where = self.where
        if self.less and lora is None:
            raise UserError(f"{where}: a negative scale of {self.less:g} takes so much of the model's LoRA off, and "
                            "there is none; leave it out, or give a LoRA")
        try:
            found = check_adapter(model, self.lora)
        except UserError as error:
            raise UserError(f"negative adapter: {error}") from None
        check_negative(found, where)
        if lora:
            layers = [each for part in check_adapter(model, lora).values() for each in part.values()]
            check_beside(one_kind(layers, f"lora {lora}"), self.less, where)

    def identity(self) -> dict:
        """What makes samples that are led away from it what they are."""
        return {"negative adapter": str(self.lora), "weights of the negative adapter": digest_of(self.lora),
                "negative scale": self.less}


@dataclass(frozen=True)
class Drawing:
    """What draws samples: a model, with a LoRA, following a guide; `samples` of each prompt from `seed` on. asking:
    what prompts are put into (`put_into`). negative: what guidance leads away from. user: whom they are for, where
    `lora` is an adapter of users. branching: at which steps samples of a prompt part, where they grow as trees."""

    model: ModelSettings
    lora: Path | None
    following: Following | None
    video_format: str | None
    samples: int
    steps: int
    guidance_scale: float
    seed: int
    asking: str | None = None
    negative: Negative | None = None
    user: ForUser | None = None
    branching: Branching | None = None

    def load(self, device: str) -> Generator:
        generator = load_generator(self.model, device)
        if self.lora and find_user_adapter(self.lora):
            generator.load_user_adapter(self.lora)
        elif self.lora:
            generator.load_adapter(self.lora)
        if self.user:
            self.user.tell(generator, self.lora)
        if self.negative:
            generator.load_negative_adapter(self.negative.lora, self.negative.less)
        if self.branching:
            return Branched(generator, self.branching)
        guide = self.following
        return Guided(generator, load_guide(guide.guide, generator), guide.guiding) if guide else generator

    def identity(self) -> dict:
        """What makes its generator what it is."""
        own = {"model": self.model.model_dump(mode="json"), "lora": str(self.lora), "video_format": self.video_format}
        asked = {"asking": self.asking} if self.asking else {}
        others = [each.identity() for each in (self.following, self.negative) if each]
        others += [self.user.identity(self.lora)] if self.user else []
        others += [{"branches": list(self.branching.steps)}] if self.branching else []
        return functools.reduce(operator.or_, others, own | asked)


def drawing_of(model: ModelSettings, prompts: list[str], *, lora: Path | None = None, samples: int = 4,
               steps: int | None = None, guidance_scale: float | None = None, seed: int = 0,
               following: Following | None = None, video_format: str | None = None,
               goal: str | None = None, negative: Negative | None = None, user: ForUser | None = None,
               branching: Branching | None = None) -> tuple[Drawing, list[str]]:
    """What draws these prompts (texts, or one @file), and the prompts; nothing is loaded yet.

    Steps and guidance are the model's own where they are None. goal: the score that a model is asked for which learnt
    to be asked. Raises UserError for what cannot be drawn.
    """
    if len(prompts) == 1 and prompts[0].startswith("@"):
        prompts = read_prompts(prompts[0][1:])
    locate_model(model).family.check_prompts(prompts, "prompt")
    if following:
        following.check()
    if user:
        user.check(lora)
    if user and following:
        raise UserError("generate: --guide and --user cannot be followed together yet; give one of them")
    if lora and find_user_adapter(lora):
        check_user_adapter(model, lora)
        if user is None:
            notice(f"{lora}: is of users, and nobody is named, so these are the model's own samples; add --user PAIRS")
    elif lora:
        check_adapter(model, lora)
    place = lora or Path(model.source).expanduser()
    if goal is None and known_goals(place):
        notice(f"{place}: learnt to be asked for a score, and these prompts ask for none; add --goal best")
    sampling = sampling_for(model, steps, guidance_scale)
    if negative:
        negative.check_scale(sampling.guidance_scale)
        negative.check_fit(model, lora)
    if branching:
        branching.check(sampling.steps, samples)
    return Drawing(model, lora, following, video_format, samples, sampling.steps, sampling.guidance_scale,
                   seed, goal and asking_for(goal, place), negative, user, branching), prompts


def generate_to_folder(model: ModelSettings, prompts: list[str], folder: Path, *, device: str = "auto",
                       **options) -> int:
    """Sample a model into a folder; see `drawing_of` for the options and `write_generations`."""
    drawing, prompts = drawing_of(model, prompts, **options)
    return write_generations(functools.partial(drawing.load, device), prompts, folder, drawing.identity(),
                             samples=drawing.samples, steps=drawing.steps, guidance_scale=drawing.guidance_scale,
                             seed=drawing.seed, video_format=drawing.video_format, asking=drawing.asking,
                             branches=drawing.branching.steps if drawing.branching else ())


def write_generations(load: Callable[[], Generator], prompts: list[str], folder: Path, identity: dict, *, samples: int,
                      steps: int, guidance_scale: float, seed: int, video_format: str | None = None,
                      rewritten: Mapping[str, dict] | None = None, asking: str | None = None,
                      branches: tuple[int, ...] = ()) -> int:
    """Write media files, `grid.png`, `settings.json` and `samples.jsonl` (prompt, file, seed, and of edits the copies
    of their source images); returns how many.

    The same call continues where an earlier one was killed; `samples.jsonl` appears when all are there. identity: what
    makes the generator that `load` gives what it is. rewritten: {prompt: columns of samples.jsonl}, of which `rewrite`
    is drawn in the prompt's place. asking: what prompts are put into before they are drawn, as `identity` says, too;
    samples.jsonl has it as `rewrite`. branches: before which steps the samples part that `load`'s generator grows as
    trees, as `identity` says, too; samples.jsonl says which leaf each is. Raises UserError when the folder holds other
    generations.
    """
    prompts, rewritten = list(dict.fromkeys(prompts)), rewritten or {}
    drawn = [rewritten[prompt]["rewrite"] if prompt in rewritten else prompt for prompt in prompts]
    settings = identity | {"prompts": list(map(content_of, prompts)), "samples": samples, "steps": steps,
                           "guidance_scale": guidance_scale, "seed": seed} | ({"rewritten": drawn} if rewritten else {})
    file = folder / "settings.json"
    if (folder / "samples.jsonl").exists():
        raise UserError(f"output {folder}: already holds generations; choose another folder with --out")
    if file.exists() and written(file) != settings:
        raise UserError(f"output {folder}: holds unfinished generations of another command; finish that one, delete "
                        "them, or choose another folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(settings).encode())
    except OSError as error:
        raise UserError(f"output {folder}: cannot be created ({error.strerror})") from None
    count = len(prompts) * samples
    names = {int(file.stem): file.name for file in folder.iterdir() if re.fullmatch(r"\d{5,}(\.\w+)?", file.name)
             and (file.is_dir() or is_image_name(file) or is_video_name(file))}
    broken = {number // TOGETHER for number in range(count) if number not in names}
    missing = [number for number in range(count) if number // TOGETHER in broken]
    generator = load()
    generator.check_prompts(drawn, "prompt")
    for number, sample in samples_at(generator, drawn, samples, missing, steps=steps, guidance_scale=guidance_scale,
                                     seed=seed, label="generating", asking=asking):
        names[number] = write_media(sample.media, folder / f"{number:05d}", video_format).name
    rows = [sample_row(prompt, folder) | asked_row(prompt, asking) | rewritten.get(prompt, {}) for prompt in prompts]
    sheet: list[tuple[str, list[Media]]] = []
    for i, row in enumerate(rows[:GRID_ROWS]):
        files = [*row.get("sources", ()), *(names[i * samples + k] for k in range(samples))]
        sheet.append((row["prompt"], [read_media(folder / file, "grid") for file in files]))
    save_sheet(sheet, folder / "grid.png")
    lines = [json.dumps(rows[number // samples] | {"file": names[number], "seed": place_seed(seed, number)}
                        | (leaf_at(number % samples, branches).as_row() if branches else {}))
             for number in range(count)]
    write_atomically(folder / "samples.jsonl", ("\n".join(lines) + "\n").encode())
    return count


def asked_row(prompt: str, asking: str | None) -> dict:
    """What samples.jsonl says of a prompt that was put into `asking`."""
    return {"rewrite": words_of(put_into(asking, prompt)) if is_edit(prompt) else put_into(asking, prompt)} \
        if asking else {}


def sample_row(prompt: str, folder: Path) -> dict:
    """What samples.jsonl says of a prompt; source images and masks are copied into the folder, which may then be moved
    and scored elsewhere."""
    if not is_edit(prompt):
        return {"prompt": prompt}

    def copied(file: Path) -> str:
        ending = file.suffix.lower().removeprefix(".") or "png"
        return str(kept_source(file.read_bytes(), ending, folder / SOURCES).relative_to(folder))

    words, files = split_prompt(prompt)
    notes = {name: copied(Path(value)) if name == "mask" else value for name, value in notes_of(prompt).items()}
    return {"prompt": words, "sources": [copied(file) for file in files], **notes}
