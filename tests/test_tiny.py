"""The small pipelines that tests build are listed with what calling them takes."""

from tests.tiny import CALLS, EDIT_CALLS, LOADS, SMALL, builders


def test_every_builder_has_its_call_and_every_call_its_builder():
    assert set(CALLS) == set(builders())
    assert set(EDIT_CALLS) | set(LOADS) | set(SMALL) <= set(CALLS)
