"""Training that goes on from a trained reward: `model.source` names its folder, or the run that trained it."""

from dataclasses import dataclass
from pathlib import Path

from visalign.config import JointSettings
from visalign.errors import UserError
from visalign.rewards.joint.heads import NOBODY_KNOWN, KnownUsers
from visalign.rewards.joint.network import HEADS, JointNetwork
from visalign.rewards.joint.reward import REWARD_FILES, build_network, load_trained, read_saved
from visalign.storage.open_clip_models import CLIP_ASSETS


@dataclass(frozen=True)
class RewardStart:
    """Where a training starts. settings: of the network. folder: of the reward that it goes on from, None for new heads
    on the model that `settings.source` names."""

    settings: JointSettings
    folder: Path | None = None
    was_frozen: bool = False

    def network(self, users: KnownUsers = NOBODY_KNOWN) -> JointNetwork:
        """The network as training starts. Raises UserError for weights that do not fit."""
        if self.folder is None:
            return build_network(self.settings, users=users)
        network = build_network(self.settings, None if self.was_frozen else self.folder)
        load_trained(network, self.folder, was_frozen=self.was_frozen)
        return network


def find_start(settings: JointSettings) -> RewardStart:
    """Raises UserError where `settings` say something else than those of the reward that they name."""
    source = Path(settings.source).expanduser()
    folders = [folder for folder in (source / "reward", source, CLIP_ASSETS / settings.source)
               if (folder / REWARD_FILES[0]).is_file()]
    if not folders:
        return RewardStart(settings)
    folder = folders[0]
    own = read_saved(folder, settings.source).settings
    frozen = own.tuning == "frozen"
    for name in sorted(settings.model_fields_set - {"source"}):
        now, then = getattr(settings, name), getattr(own, name)
        if now != then and not (frozen and name in ("tuning", "lora_rank")):
            raise UserError(f"model.{name} is {now}, and the reward {settings.source}, which training goes on from, "
                            f"has {then}; leave model.{name} out")
    if not HEADS[own.head].continues:
        raise UserError(f"model.source {settings.source}: its head is {own.head}, which knows its own users only; "
                        "train it anew, or add users with `visalign reward fit-user`")
    changes = {name: getattr(settings, name) for name in ("tuning", "lora_rank") if name in settings.model_fields_set}
    if own.tuning == "full" and own.backbone == "open_clip":
        changes["source"] = str(folder)
    return RewardStart(own.model_copy(update=changes), folder, frozen)
