"""The page of `visalign reward card`: what a reward knows, and what it does not."""

from pathlib import Path

from visalign.evaluation.reward_card import RewardCard
from visalign.evaluators.reward_distance import UNRELATED
from visalign.reports import media_uri, render_page, shown_media
from visalign.reports.reward_accuracy import abstention_chart, reliability
from visalign.reports.reward_attack import amplified_change
from visalign.reports.reward_distance import tree_chart
from visalign.storage.files import write_atomically

ATTACKS_SHOWN = 3


def write_reward_card(file: Path, card: RewardCard, attacks: list, mistakes: dict[str, dict | None]) -> None:
    """Write the page. attacks: each an AttackFound, whose images are shown. mistakes: the worst by dimension."""
    led = [each for attack in attacks for each in sorted(
        (each for each in attack.attacked if each.success), key=lambda each: -each.gain)[:ATTACKS_SHOWN]]
    write_atomically(file, render_page(
        "reward_card.html.j2", title=f"Card of {card.reward}", card=card,
        figures={name: reliability(report) for name, report in card.reports.items() if report.calibration},
        abstention={name: abstention_chart(report) for name, report in card.reports.items() if report.abstention},
        tree=tree_chart(card.distances) if card.distances else None, unrelated=UNRELATED,
        mistakes={name: found | {side: shown_media(found[side].media) for side in ("better", "worse")}
                  for name, found in mistakes.items() if found},
        led=[(each, media_uri(each.original), media_uri(each.changed),
              media_uri(amplified_change(each.original, each.changed))) for each in led]))
