# Every target needs only git, make and Python >= 3.11.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PYTHON ?= python3
PORT ?= 5000
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder
.DEFAULT_GOAL := help

paper: .venv/ready  ## from the clips to paper/paper.pdf
	dvc pull --quiet data.dvc
	dvc repro

# Two test processes would run more threads than cores, which then wait for each other.
test test-all coverage: export OMP_NUM_THREADS := 1

test: .venv/ready  ## every test that is not slow
	python $(PYTEST) -m "not slow"

test-all: .venv/ready  ## also the slow tests, which inject real faults
	python $(PYTEST)

coverage: .venv/ready  ## which lines and branches of src/ the tests cover
	coverage erase
	coverage run $(PYTEST) -m "not slow"
	coverage combine --quiet
	coverage report

lint: .venv/ready  ## check code rules, format and types
	ruff check src tests benchmarks reports
	ruff format --check src tests benchmarks reports
	mypy

verify: .venv/ready  ## do two unlike clones give the same bytes? CHANGES='-S …', or REFERENCE=reports/motion
	python -m framebudget.commands.verify $(CHANGES) $(if $(REFERENCE),--reference $(REFERENCE))

# One process is enough for one user. The others would wait for jobs of language models.
ui: export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false
ui: .venv/ready  ## the MLflow UI with every run, on this machine only; PORT=5000
	@echo 'Open http://127.0.0.1:$(PORT)/#/experiments?workflowType=machine_learning'
	mlflow ui --host 127.0.0.1 --port $(PORT) --workers 1 --backend-store-uri sqlite:///mlflow.db

experiments: .venv/ready  ## every DVC experiment: accuracies, and the parameters that differ
	dvc exp show --only-changed --drop 'State|Executor|^x3d_m$$|^slowfast_r50$$|.*/.*' --no-pager

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 18

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.PHONY: paper test test-all coverage lint verify ui experiments help
