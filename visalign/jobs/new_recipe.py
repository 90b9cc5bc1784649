"""`visalign init`: three answers (a checkpoint, what to learn from, the card's memory) become a commented recipe."""

from dataclasses import dataclass
from pathlib import Path

from visalign.config import ModelSettings
from visalign.config.load import load_config
from visalign.config.offline import DataSettings
from visalign.data.embedded_pairs import PAIRS
from visalign.data.preferences import is_local, read_pairs
from visalign.data.prompts import read_prompts
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.generators.files.embedded import EMBEDDED_PROMPTS
from visalign.generators.files.locating import locate_model
from visalign.generators.files.sketching import empty_generator
from visalign.jobs.recipe_text import offline_text, online_text
from visalign.rewards.registry import check_reward
from visalign.storage.files import write_atomically

GIB = 2**30
USABLE = 0.9
"""Share of the card that is planned for; the rest is the allocator's and the display's."""
UNET_BYTES = 200_000
"""Activations of a U-Net for each latent position with checkpointing, a rule of thumb: 3 GiB for SDXL at 1024."""
SMALL = 100_000_000
"""Parameters up to which a denoiser trains on a CPU and needs no saving of memory."""
REWARD_MARKERS = ("reward.json", "reward/reward.json", "open_clip_config.json")
"""What tells a reward's folder, or that of the run which trained it, from a folder of data."""
RANKS = ((40, 64), (20, 32), (0, 16))
"""GiB of the card from which on a LoRA has this rank."""


@dataclass(frozen=True)
class Answers:
    """checkpoint: folder, file, hub id or embedded name. learn_from: a file, folder or hub id of data, or a reward.

    memory: GiB of one card, 0 without a GPU. prompts: to sample while learning from a reward. base: of a single file.
    """

    checkpoint: str
    learn_from: str
    memory: float
    prompts: str | None = None
    base: str | None = None


@dataclass(frozen=True)
class Plan:
    """What follows from the answers and the checkpoint's own configuration, and goes into the recipe.

    at_once: samples that pass through the network together, for which the card has room. weights: GiB that all parts
    take. chosen_only: the data show what is wanted, without anything that it is preferred to.
    """

    answers: Answers
    family: str
    process: str
    small: bool
    rank: int
    at_once: int
    weights: float
    from_reward: bool
    chosen_only: bool

    @property
    def embedded(self) -> str | None:
        """The set of prompts that goes with an embedded model, None for a user's."""
        return EMBEDDED_PROMPTS.get(self.answers.checkpoint)


def write_recipe(answers: Answers, file: Path) -> Plan:
    """Write a recipe that passes its dry run. Raises UserError naming what was wrong and what to type instead."""
    if file.exists():
        raise UserError(f"recipe {file}: is there already, and nothing is overwritten; name another file: "
                        f"visalign init {file.with_stem(file.stem + '-2')}")
    plan = plan_of(answers)
    text = (online_text if plan.from_reward else offline_text)(plan, file.stem)
    write_atomically(file, text.encode())
    load_config(file)
    return plan


def plan_of(answers: Answers) -> Plan:
    """Raises UserError for a checkpoint, data or a reward that is not there, or a model too large for the card."""
    settings = ModelSettings(source=str(local_source(answers.checkpoint)), base=answers.base)
    generator = empty_generator(locate_model(settings), settings)
    from_reward = is_reward(answers.learn_from)
    if from_reward:
        check_training_prompts(answers)
    small = _parameters(generator.denoiser) <= SMALL
    weights, at_once = card_room(generator, answers, small)
    rank = 16 if small else next(rank for least, rank in RANKS if answers.memory >= least)
    return Plan(answers, generator.pipeline_class, generator.process_kind, small, rank, at_once, weights, from_reward,
                not from_reward and shows_only_chosen(answers.learn_from))


def local_source(checkpoint: str) -> str | Path:
    """Where the checkpoint lies on this machine; a hub id must have been downloaded. Raises UserError else."""
    path = Path(checkpoint).expanduser()
    if checkpoint in EMBEDDED_PROMPTS or path.exists():
        return checkpoint
    if checkpoint.count("/") == 1 and not checkpoint.startswith((".", "/", "~")):
        from huggingface_hub import try_to_load_from_cache

        index = try_to_load_from_cache(checkpoint, "model_index.json")
        if isinstance(index, str):
            return Path(index).parent
        raise UserError(f"checkpoint {checkpoint}: there is no such folder, and the hub's cache has no such model; "
                        f"download it first: hf download {checkpoint}")
    raise UserError(f"checkpoint {checkpoint}: there is no such folder or file; to try an embedded model: "
                    f"visalign init --checkpoint {next(iter(EMBEDDED_PROMPTS))}")


def is_reward(learn_from: str) -> bool:
    """Whether it names a reward rather than data. Raises UserError when it can be neither."""
    path = Path(learn_from).expanduser()
    model = path.suffix in (".yaml", ".yml") or any((path / name).is_file() for name in REWARD_MARKERS)
    if learn_from == PAIRS or path.exists() and not model:
        return False
    try:
        check_reward(learn_from)
        return True
    except UserError as error:
        if learn_from.count("/") == 1 and not path.suffix and not learn_from.startswith((".", "/", "~")):
            return False  # a data set of the hub
        raise UserError(f"learn from {learn_from}: is neither a file or folder here nor a reward that can be used "
                        f"({error}); to see the rewards: visalign list rewards") from None


def check_training_prompts(answers: Answers) -> None:
    if answers.prompts is None:
        raise UserError(f"learning from the reward {answers.learn_from} needs prompts to sample: visalign init "
                        f"--checkpoint {answers.checkpoint} --learn-from {answers.learn_from} --prompts prompts.txt")
    read_prompts(answers.prompts)


def shows_only_chosen(source: str) -> bool:
    """Whether the first row of local data has no rejected sample. Raises UserError for data that cannot be read."""
    data = DataSettings(path=source)
    if not is_local(data):
        return False
    return next(iter(read_pairs(data, compared=False))).rejected is None


def card_room(generator: Generator, answers: Answers, small: bool) -> tuple[float, int]:
    """(GiB of the weights, samples at once). Raises UserError when the card does not hold one sample's training."""
    frozen = sum(_parameters(module) for module in generator.frozen_modules())
    weights = 2 * (_parameters(generator.denoiser) + frozen) / GIB
    if small:
        return weights, 32
    if not answers.memory:
        return weights, 2
    left = USABLE * answers.memory - weights - 1
    each = sample_bytes(generator) / GIB
    if left < 2 * each:
        raise UserError(f"checkpoint {answers.checkpoint}: its weights take {weights:.0f} GiB and a training sample "
                        f"about {each:.1f} GiB, more than a card of {answers.memory:g} GiB has room for; name a larger "
                        f"card: --memory {1 + (weights + 1 + 2 * each) / USABLE:.0f}")
    return weights, min(32, 2 ** int(left / each).bit_length() // 2)


def sample_bytes(generator: Generator) -> float:
    """What one sample needs while it is learnt from, activations recomputed."""
    tokens = generator.tokens()
    if tokens is None:
        _, height, width = generator.latent_shape()
        return UNET_BYTES * height * width
    config = generator.denoiser.config
    layers = sum(getattr(config, name, 0) or 0 for name in ("num_layers", "num_single_layers"))
    width = config.num_attention_heads * config.attention_head_dim
    return 2 * (tokens + generator.prompt_tokens) * width * (layers + 17)


def _parameters(module) -> int:
    return sum(p.numel() for p in module.parameters())
