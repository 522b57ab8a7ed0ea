# The two commands of the README: `make demo` and `make test`. Both make their environment first.
VENV ?= .venv
PYTHON ?= python3
IN = $(VENV)/bin/python

.PHONY: demo test check bench pictures clean env

demo: env
	$(IN) -m pi0q.ops.demo .demo

test: env
	$(IN) -m pytest -n auto --dist loadscope -q

check: env
	$(IN) -m ruff check .
	$(IN) -m ruff format --check .
	$(IN) -m mypy
	$(VENV)/bin/lint-imports

bench: env
	$(IN) benchmarks/start.py

pictures: env
	$(IN) tests/ops/pictures.py

env:
	@$(PYTHON) ops/environment.py $(VENV) worker,train,server,flower,dev

clean:
	rm -rf $(VENV) .demo build dist *.egg-info
