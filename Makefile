# What is typed while working here; .ci/run does the same in a new environment.
FAST = tests/test_architecture.py tests/config tests/objectives tests/processes tests/evaluators tests/validation tests/storage tests/scripts
PYTEST = OMP_WAIT_POLICY=passive pytest -q -n auto --dist worksteal

.PHONY: check lint types test slow docs wheel

check: lint types  ## within a minute: style, Python 3.10, types of the protocols, fast tests
	$(PYTEST) $(FAST)

lint:
	ruff check .
	vermin -q --no-tips --violations -t=3.10- visalign demo > /dev/null || vermin --no-tips --violations -t=3.10- visalign demo

types:
	mypy

test:  ## the whole suite, as the gate runs it
	$(PYTEST)

slow:  ## minutes of training that prove learning, and the wheel; before a release
	pytest -q -m slow

docs:
	mkdocs build --strict

wheel:  ## sdist and wheel in dist/, installed and run outside the checkout
	python scripts/check_wheel.py --out dist
