"""`visalign soup`: a weighted average of finished runs of one base, written as a run's export is.

    W = W_base + w_1 (W_1 - W_base) + w_2 (W_2 - W_base) + ...

What the weights lack to 1 is the base's, so one run at 0.6 lies on the line between it and its base (WiSE-FT, Wortsman
et al. 2022, arXiv 2109.01903). See generators/lora/averaging.py and generators/interpolation.py.
"""

import json
import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from visalign.config import LanguageSettings, ModelSettings, OfflineConfig, OnlineConfig
from visalign.config.goals import GOALS_FILE
from visalign.errors import UserError
from visalign.evaluation.sources import run_config
from visalign.generators import load_generator, locate_model
from visalign.generators.base import Generator
from visalign.generators.export.exporting import export_pipeline
from visalign.generators.export.model_card import named_only, soup_card
from visalign.generators.files.sketching import sketch
from visalign.generators.interpolation import WeightAverage
from visalign.generators.lora.averaging import of_rank, weighted_sum
from visalign.generators.lora.export import write_layers
from visalign.generators.lora.layers import Layers, one_kind
from visalign.storage.files import write_atomically
from visalign.validation.ranges import SoupWeight, allows, intervals, range_in_words

SOUP_FILE = "soup.json"
"""What a soup's folder is made of; written last."""
_WHOLE, _LORA = "all weights", "a LoRA"
_SAME_BASE = ("source", "base", "parts", "without", "prediction")


@dataclass(frozen=True)
class SoupPart:
    """A finished run and its weight."""

    run: Path
    weight: float
    config: OfflineConfig | OnlineConfig

    @property
    def export(self) -> Path:
        return self.run / "export"

    @property
    def kind(self) -> str:
        """What was trained, in words."""
        if isinstance(self.config, OfflineConfig) and self.config.data.swap:
            return f"{self.trained} as a negative adapter (data.swap)"
        return self.trained

    @property
    def trained(self) -> str:
        return _WHOLE if self.config.model.tuning == "full" else _LORA


@dataclass(frozen=True)
class Soup:
    """What was written. words: what it is made of. rank: of its LoRA, before and after it was reduced, and the share of
    the products' norm that this cost; None of whole models."""

    folder: Path
    words: str
    files: list[str]
    rank: tuple[int, int, float] | None = None
    next: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For the terminal."""
        rank = []
        if self.rank:
            every, kept, lost = self.rank
            rank = [f"rank {kept}" + (f", reduced from {every}: {100 * lost:.2g} % of the norm of its products is lost"
                                      if kept < every else "")]
        return [f"made of {self.words}", *rank, f"written to {self.folder}: {', '.join(self.files)}", "", "next:",
                f"  {shlex.join(self.next)}"]


def make_soup(given: tuple[str, ...], out: Path, rank: int | None = None) -> Soup:
    """Average what `RUN` or `RUN=WEIGHT` name into a new folder. rank: the LoRA's at most (None: the ranks' sum).

    Raises UserError, before a model is loaded, for runs that have no average.
    """
    parts = read_soup(given)
    check_averageable(parts)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out {out}: is there already; choose another folder with --out")
    whole, first = parts[0].trained == _WHOLE, parts[0].config
    if whole and rank is not None:
        raise UserError("soup: --rank is for LoRAs, and these runs trained all weights; leave it out")
    words = soup_in_words(parts)
    ranks: tuple[int, int, float] | None = None
    if whole:
        generator = load_generator(base_of(first), "cpu")
        average = WeightAverage(generator, again=False)
        average.put([(part.weight, part.export / "pipeline") for part in parts])
        out.mkdir(parents=True, exist_ok=True)
        output = first.output.model_copy(update={"folder": str(out)})
        files = export_pipeline(generator, out, first.model_copy(update={"output": output}))
        generator.tuning = "full"
    else:
        generator = sketch(locate_model(first.model), first.model)
        found, ranks = averaged_loras(generator, parts, rank)
        out.mkdir(parents=True, exist_ok=True)
        files = [str(file.relative_to(out)) for file in write_layers(generator, out, found)]
        generator.tuning = "lora"
    _write_about(generator, parts, out, ranks)
    files += [*([GOALS_FILE] if first.goals else []), "README.md", SOUP_FILE]
    source = str(out / "pipeline") if whole else f"{first.model.source}+{out}"
    compared = [f"base={first.model.source}", f"soup={source}", f"{_name_of(parts[0].run)}={parts[0].run}"]
    return Soup(out, words, files, ranks, ["visalign", "compare", *compared])


def _name_of(run: Path) -> str:
    return run.name if run.name not in ("", "base", "soup") else "run"


def read_soup(given: tuple[str, ...]) -> list[SoupPart]:
    """Runs with their weights, which are equal and add up to 1 where none is given. Raises UserError naming the
    argument that is wrong."""
    if not given:
        raise UserError("soup: name at least one run, such as runs/sdxl-dpo=0.6")
    read = [_taken_apart(text) for text in given]
    paths = [path.resolve() for path, _ in read]
    twice = next((path for i, (path, _) in enumerate(read) if paths[i] in paths[:i]), None)
    if twice is not None:
        raise UserError(f"soup {twice}: is named twice")
    lacking = [path for path, weight in read if weight is None]
    if 0 < len(lacking) < len(read):
        raise UserError(f"soup {lacking[0]}: has no weight, and other runs have; give every run one, or none")
    return [SoupPart(path, 1 / len(read) if weight is None else weight, finished_run(path, "soup"))
            for path, weight in read]


def _taken_apart(text: str) -> tuple[Path, float | None]:
    path, equals, number = text.rpartition("=")
    if not equals or Path(text).expanduser().exists():
        return Path(text).expanduser(), None
    try:
        weight = float(number)
    except ValueError:
        raise UserError(f"soup {text}: expected RUN or RUN=WEIGHT, such as runs/sdxl-dpo=0.6") from None
    if weight == 0 or not allows(SoupWeight, weight):
        raise UserError(f"soup {text}: the weight must be {range_in_words(next(intervals(SoupWeight)))} and not 0")
    return Path(path).expanduser(), weight


def finished_run(run: Path, verb: str) -> OfflineConfig | OnlineConfig:
    """The settings of a finished run whose weights lie on a line with its base's. Raises UserError for others."""
    where, config = f"{verb} {run}", run_config(run)
    if isinstance(config, LanguageSettings):
        raise UserError(f"{where}: is a language model's run, and only image and video models are averaged")
    if not (run / "export" / "README.md").is_file():
        raise UserError(f"{where}: has no export yet; it is written when the training has ended")
    if config.model.tuning == "user":
        raise UserError(f"{where}: learnt who prefers what (model.tuning user), which is no weight of the base and has "
                        "no average; name runs that trained a LoRA or all weights")
    if config.model.tuning == "full" and config.model.loras:
        raise UserError(f"{where}: trained all weights above model.loras, which its text encoders may have taken in "
                        "too; only runs from the plain base are averaged")
    return config


def check_averageable(parts: list[SoupPart]) -> None:
    """Raise UserError for runs of several bases or kinds."""
    first = parts[0]
    for other in parts[1:]:
        both = f"soup: {first.run} and {other.run}"
        if other.kind != first.kind:
            raise UserError(f"{both} trained {first.kind} and {other.kind}, which have no average; name runs of one "
                            "kind")
        odd = next((key for key in _SAME_BASE if _setting(first, key) != _setting(other, key)), None)
        if odd:
            raise UserError(f"{both} have different bases (model.{odd} {_setting(first, odd)} and "
                            f"{_setting(other, odd)}), and a soup has one; name runs of the same model")
        if first.config.goals != other.config.goals:
            raise UserError(f"{both} learnt to be asked for a score in different words (data.goals), and a soup is "
                            "asked in one way; name runs with the same data.goals")


def _setting(part: SoupPart, key: str):
    value = getattr(part.config.model, key)
    if key == "source" and Path(value).expanduser().exists():
        return str(Path(value).expanduser().resolve())
    return value


def base_of(config: OfflineConfig | OnlineConfig) -> ModelSettings:
    """The model that a run of all weights began with, to be averaged with it."""
    return config.model.without_loras().model_copy(update={"weights": "fp32", "offload": "none"})


def averaged_loras(generator: Generator, parts: list[SoupPart],
                   rank: int | None) -> tuple[dict[str, Layers], tuple[int, int, float]]:
    """Layers by network, and the rank before and after with the share of the norm that was lost. generator: of the
    base, perhaps on the meta device."""
    read = [(part.weight, plain_lora(generator, part)) for part in parts]
    networks = dict.fromkeys(name for _, found in read for name in found)
    total = {name: weighted_sum((weight, found[name]) for weight, found in read if name in found) for name in networks}
    every = _largest_rank(total)
    if rank is None or rank >= every:
        return total, (every, every, 0.0)
    kept, lost = of_rank(total, rank)
    return kept, (every, _largest_rank(kept), lost)


def _largest_rank(found: dict[str, Layers]) -> int:
    return max(each.rank for layers in found.values() for each in layers.values())


def plain_lora(generator: Generator, part: SoupPart) -> dict[str, Layers]:
    """What a run's export holds. Raises UserError unless it fits, and is a sum of products."""
    try:
        found = generator.fit_adapter(part.export)
    except UserError as error:
        raise UserError(f"soup {part.run}: {error}") from None
    kind = one_kind((each for layers in found.values() for each in layers.values()), f"soup {part.run}")
    if kind != "lora":
        raise UserError(f"soup {part.run}: is a {kind}, and only LoRAs (model.lora.kind lora and rslora) are averaged, "
                        f"since a sum of several is one itself, and a sum of {kind}s is no {kind}")
    return found


def rest_of(parts: list[SoupPart]) -> float:
    """The base's weight, 0 where it is no more than rounding."""
    rest = 1 - math.fsum(part.weight for part in parts)
    return 0.0 if abs(rest) < 1e-9 else rest


def soup_in_words(parts: list[SoupPart], named: bool = False) -> str:
    """What a soup is made of. named: without folders of this machine."""
    model, rest = parts[0].config.model, rest_of(parts)
    words = [f"{part.weight:g} of {part.run.resolve().name if named else part.run}{_with_start(part)}"
             for part in parts]
    base = named_only(model.source) if named else model.source
    return ", ".join([*words, *([f"{rest:g} of the base {base}"] if rest else [])])


def _with_start(part: SoupPart) -> str:
    """What a run's export holds beside what it learnt."""
    return " with the LoRAs that it began with" * bool(part.config.model.loras or part.config.model.lora.start)


def _write_about(generator: Generator, parts: list[SoupPart], out: Path,
                 ranks: tuple[int, int, float] | None) -> None:
    """What asks for the highest score, the card, and then what the soup is made of."""
    config = parts[0].config
    if config.goals:
        write_atomically(out / GOALS_FILE, (config.goals.model_dump_json(indent=1) + "\n").encode())
    rows = [(part.run.resolve().name, part.config.objective["name"], part.weight) for part in parts]
    write_atomically(out / "README.md", soup_card(config, generator, soup_in_words(parts, named=True), rows).encode())
    about = {"base": named_only(config.model.source), "trained": parts[0].kind, "rest": rest_of(parts),
             "runs": [{"run": run, "objective": method, "weight": weight} for run, method, weight in rows]}
    if ranks:
        about |= dict(zip(("ranks_sum", "rank", "lost"), ranks, strict=True))
    write_atomically(out / SOUP_FILE, (json.dumps(about, indent=2) + "\n").encode())
