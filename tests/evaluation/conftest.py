"""What is done here is looked at by its numbers; tests/reports and tests/test_report.py draw."""

import pytest


@pytest.fixture(autouse=True)
def _undrawn(undrawn):
    pass
