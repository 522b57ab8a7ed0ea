# The two commands of the README: `make demo` and `make test`. Both make their environment first.
VENV ?= .venv
PYTHON ?= python3
IN = $(VENV)/bin/python

.PHONY: demo test check bench nemesis pictures clean env

demo: env
	$(IN) -m pi0q.ops.demo .demo

test: env
	$(IN) -m pytest -n auto --dist loadscope -q

check: env
	$(IN) -m ruff check .
	$(IN) -m ruff format --check .
	$(IN) -m mypy
	$(VENV)/bin/lint-imports

# An environment of its own: it needs no LeRobot, and the commands are timed as a laptop has them.
bench:
	@$(PYTHON) ops/environment.py $(VENV)-bench worker,server,bench
	$(VENV)-bench/bin/python benchmarks/start.py $(BENCH)

# make nemesis ROUNDS=1000 SEED=1: as root it can use containers. JOBS houses at a time; a failing seed alone: ROUNDS=1.
nemesis: env
	$(IN) -m tests.nemesis $(foreach name,ROUNDS SEED FIRST JOBS REPORT RESULTS LOGS,$(if $($(name)),--$(shell echo $(name) | tr A-Z a-z) $($(name))))

pictures: env
	$(IN) tests/ops/pictures.py

env:
	@$(PYTHON) ops/environment.py $(VENV) worker,train,server,flower,dev

clean:
	rm -rf $(VENV) $(VENV)-bench .demo build dist *.egg-info
