"""docs/models.md says what becomes of every pipeline of the installed diffusers."""

import pytest

from tests import models
from tests.families import TINY
from tests.tiny import builders
from visalign.generators.families.hints import HINTS

HOW = "write it anew: python -m tests.models"
QUICK = {name for name, tiny in TINY.items() if tiny.family in HINTS}


def test_the_page_has_every_class_once_and_the_reasons_of_today():
    text = models.PAGE.read_text()
    assert models.page(models.rows_of(text)) == text, HOW


def test_every_small_pipeline_has_a_row_or_a_class_that_is_refused():
    refused = {name for names in models.refused_classes().values() for name in names}
    assert {row.split("`")[1] for row in models.rows_of(models.PAGE.read_text()).values()}.isdisjoint(refused), HOW


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
                                  for name in sorted(builders())])
def test_a_small_pipeline_does_what_its_row_says(tmp_path, name):
    row = models.rows_of(models.PAGE.read_text()).get(name)
    assert models.walked(name, tmp_path / name) == row, HOW
