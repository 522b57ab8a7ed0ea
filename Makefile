# The commands of the README: `make demo`, `make test`, `make test-all`. Each builds its environment first.
VENV ?= .venv
PYTHON ?= python3
IN = $(VENV)/bin/python
# Most tests wait for other processes: two of them a core leave no core idle.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(16, 2 * len(os.sched_getaffinity(0))))')

.PHONY: demo test test-all test-again test-versions check bench scale nemesis fuzz pictures clean env

demo: env
	$(IN) -m pi0q.ops.dev.demo_main .demo

# Which tests are slow says tests/tiers.py. PYTEST holds more options: make test PYTEST='--durations=50 -vv'
test: env
	$(IN) -m pytest -n $(WORKERS) --dist worksteal -q -m "not slow" $(PYTEST)

test-all: env
	$(IN) -m pytest -n $(WORKERS) --dist worksteal -q $(PYTEST)

# The few tests that failed in the last run, one at a time; what passes now is named.
test-again: env
	@$(IN) -m tests.again

# The tests marked `real` on other versions of LeRobot, each in an environment of its own: VERSIONS='0.4.4 0.5.1'
test-versions: env
	$(IN) -m tests.versions $(VERSIONS)

check: env
	$(IN) -m ruff check .
	$(IN) -m ruff format --check .
	$(IN) -m mypy
	$(VENV)/bin/lint-imports

# An environment of its own: it needs no LeRobot, and the commands are timed as a laptop has them.
bench:
	@$(PYTHON) ops/dev/make_venv_main.py $(VENV)-bench worker,server,bench
	$(VENV)-bench/bin/python benchmarks/start.py $(BENCH)

# make scale SCALE=--quick: less than two minutes on a machine that does nothing else.
scale:
	@$(PYTHON) ops/dev/make_venv_main.py $(VENV)-bench worker,server,bench
	$(VENV)-bench/bin/python benchmarks/scale.py $(SCALE)

# make nemesis ROUNDS=1000 SEED=1: as root it can use containers. JOBS clusters at a time; a failing seed alone: ROUNDS=1.
nemesis: env
	$(IN) -m tests.nemesis $(foreach name,ROUNDS SEED FIRST JOBS REPORT RESULTS LOGS,$(if $($(name)),--$(shell echo $(name) | tr A-Z a-z) $($(name))))

# make fuzz MINUTES=10 SEED=1 REPORT=report.md: readers of files, records, messages and ledgers against any input.
fuzz: env
	$(IN) -m tests.fuzz $(foreach name,MINUTES SEED REPORT,$(if $($(name)),--$(shell echo $(name) | tr A-Z a-z) $($(name))))

pictures: env
	$(IN) tests/ops/pictures.py
	$(IN) tests/ops/web_pictures.py

env:
	@$(PYTHON) ops/dev/make_venv_main.py $(VENV) worker,train,server,flower,dev

clean:
	rm -rf $(VENV) $(VENV)-bench .demo build dist *.egg-info
