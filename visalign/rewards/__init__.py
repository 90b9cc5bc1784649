"""Judges of samples. To add one, see EXTENDING.md."""

from pathlib import Path

from visalign.errors import UserError, nearest
from visalign.rewards.base import Reward, finite_scores
from visalign.rewards.clip import ClipScore

ASSETS = Path(__file__).resolve().parents[1] / "assets"
EMBEDDED = {"tiny-clip": ASSETS / "tiny-clip"}


def check_reward(name: str) -> None:
    """Raise UserError when `name` is neither an embedded reward nor an open_clip folder."""
    if name not in EMBEDDED and not Path(name).expanduser().is_dir():
        raise UserError(f"reward {name}: neither an embedded reward nor an open_clip folder{nearest(name, EMBEDDED)}")


def load_reward(name: str, device: str = "cpu") -> ClipScore:
    """A reward by embedded name (`tiny-clip`) or open_clip folder."""
    check_reward(name)
    return ClipScore(EMBEDDED.get(name, Path(name).expanduser()), name=name, device=device)


__all__ = ["ClipScore", "Reward", "check_reward", "finite_scores", "load_reward"]
