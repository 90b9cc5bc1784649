"""Recipes here are run for a step or two; tests/pages and tests/test_report.py draw."""

import pytest


@pytest.fixture(autouse=True)
def _undrawn(undrawn):
    pass
