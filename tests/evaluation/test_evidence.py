"""`--plan`: what a comparison says of the evidence that an effect takes."""

import re

import numpy as np
import pytest

from visalign.evaluation.evidence import _of_reward as said_of
from visalign.evaluation.evidence import check_plan

from ..jobs.generations import write_folder
from .test_compare import cache, invoke, results  # noqa: F401, fixtures


def test_a_comparison_says_what_it_could_see_and_what_an_effect_takes(invoke, tmp_path):  # noqa: F811
    base, other = write_folder(tmp_path / "base", 12), write_folder(tmp_path / "other", 12, kinds=1)
    done = invoke("compare", f"base={base}", f"other={other}", "-r", "contrast,saturation", "--plan", "0.5", "-o",
                  tmp_path / "out")
    assert done.exit_code == 0, done.output
    plans = [note for note in results(tmp_path / "out")["notes"] if note.startswith("plan, other")]
    assert len(plans) == 2 and "plan, other, contrast: 12 prompts x" in plans[0]
    assert "0.5 takes" in plans[0] and "decided votes" in plans[0] and plans[0] in " ".join(done.output.split("\n"))


def test_the_numbers_are_those_of_the_pilot():
    rng = np.random.default_rng(0)
    pilot = 2.0 * (rng.normal(0, 0.3, (500, 1)) + rng.normal(0, 0.9, (500, 4)))
    said = said_of(pilot, 2.0, 0.1)
    # (1.96 + 0.84)^2 x (0.09 + 0.81 / K) / 0.01: 706, 388, 229 and 150 prompts
    counts = [int(each.replace(",", "")) for each in re.findall(r"([\d,]+) prompts x [1248]", said)[1:]]
    assert counts == pytest.approx([706, 388, 229, 150], rel=0.12)
    # a pair is decided by 0.1 / 0.949 of a deviation: a share of 0.542, which takes about 1,100 votes
    votes = int(re.search(r"([\d,]+) decided", said)[1].replace(",", ""))
    assert votes == pytest.approx(1110, rel=0.12)
    assert "as many samples of a prompt each" in said


def test_what_says_nothing_is_told_in_its_place():
    assert said_of(np.zeros((5, 3)), 1.0, 0.1) == ("all differences of the pilot are equal, so nothing can be said of "
                                                   "their spread")
    lacking = np.full((4, 2), np.nan)
    assert "at least 2 prompts" in said_of(lacking, 1.0, 0.1)
    assert "more than 1,000,000 prompts x 1" in said_of(np.random.default_rng(0).normal(0, 1, (9, 2)), 1.0, 1e-5)


@pytest.mark.parametrize(("arguments", "said"), [
    ((0.1, 1, 4), "there is one model"), ((0.1, 2, 1), "--samples-per-prompt 1")])
def test_plans_that_cannot_be_made_end_before_anything_is_sampled(arguments, said):
    from visalign.errors import UserError

    with pytest.raises(UserError, match=said):
        check_plan(*arguments)
    check_plan(None, 1, 1)
    check_plan(0.1, 2, None)
