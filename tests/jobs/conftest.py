"""What is done here is looked at by its numbers; tests/reports and tests/test_report.py draw."""

import pytest


@pytest.fixture(autouse=True)
def _undrawn(undrawn):
    pass


@pytest.fixture
def here(monkeypatch):
    """What a Ray cluster does is done in this process; the list takes the numbers of the partitions."""
    from visalign.jobs import cache_on_ray, generate_on_ray, pairs_on_ray, score_on_ray
    from visalign.jobs.on_ray import WorkerShare

    made = []

    def run(partitions, make, *_):
        work = make(WorkerShare(1, 1.0, 0.0, "cpu"))
        for number, part in partitions.items():
            made.append(number)
            yield work(number, part)

    for module in (score_on_ray, generate_on_ray, pairs_on_ray, cache_on_ray):
        monkeypatch.setattr(module, "run_partitions", run)
    return made
