# Every target needs Python >= 3.11; test, verify, docs and experiments also need git.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
PYTHON ?= python3
PORT ?= 5000
PIP = .venv/bin/python -m pip --quiet --disable-pip-version-check
PYTEST := -m pytest -n 2 --dist loadfile --no-loadscope-reorder
.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE  # uv does not compile: without bytecode on disk, every process would compile PyTorch

paper: .venv/ready scm  ## from the clips to paper/paper.pdf
	dvc pull --quiet data.dvc
	dvc repro

# By default, two test processes would start more threads than there are cores.
test test-fast test-all coverage: export OMP_NUM_THREADS := 1

test: .venv/ready  ## every test that is not slow
	python $(PYTEST) -m "not slow"

test-fast: .venv/ready  ## the quick tests, for the inner loop
	python $(PYTEST) -m "not slow and not long"

test-all: .venv/ready  ## also the slow tests, which inject real faults
	python $(PYTEST)

coverage: .venv/ready  ## which lines and branches of src/ the tests cover
	coverage erase
	coverage run $(PYTEST) -m "not slow"
	coverage combine --quiet
	coverage report

lint: .venv/ready  ## check code rules, format and types
	ruff check src tests benchmarks reports docs
	ruff format --check src tests benchmarks reports docs
	mypy

verify: .venv/ready  ## check that two different clones give the same bytes; CHANGES='-S …', or REFERENCE=reports/motion
	python -m framebudget.commands.verify $(CHANGES) $(if $(REFERENCE),--reference $(REFERENCE))

ui: .venv/ready  ## the MLflow UI with every run, on this machine only; PORT=5000
	python -m framebudget.commands.ui $(PORT)

# The pages are copied with what they link to, so that links work in the repository and on the site.
docs: .venv/ready  ## the documentation as a site: build/site/index.html; stops at a dead link
	$(PIP) install --require-hashes --no-deps -r requirements-docs.lock
	rm -rf build && mkdir -p build/pages
	git ls-files -z '*.md' '*.png' 'reports/*.csv' CITATION.cff LICENSE pyproject.toml | tar -cf - --null -T - | tar -xf - -C build/pages
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# DVC cuts columns that a narrow terminal cannot show.
experiments: export COLUMNS := 9999
experiments: .venv/ready scm  ## every DVC experiment: accuracies, and the parameters that differ
	dvc exp show --only-changed --drop 'State|Executor|^x3d_m$$|^slowfast_r50$$|^data$$|^CITATION.cff$$|.*/.*' --no-pager

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 18

# DVC needs a git repository or the setting no_scm. An unpacked ZIP is not one, even inside the folder of another.
scm: .venv/ready
	@if [ -e .git ] || git rev-parse --quiet --verify HEAD:./dvc.yaml >/dev/null 2>&1; then \
		if grep -qs no_scm .dvc/config.local; then \
			echo 'This folder is a git repository now: DVC uses it'; dvc config --local --unset core.no_scm; fi; \
	elif ! grep -qs no_scm .dvc/config.local; then \
		echo 'This folder is not a git repository. The study runs without one (dvc config --local core.no_scm true).'; \
		echo 'Experiments need one: git init && git add -A && git commit -m all, and make paper again'; \
		dvc config --local core.no_scm true; fi

# uv is several times as fast as pip, but ignores the mirrors in pip.conf. If uv fails, pip takes over. After an
# interruption, the next run makes a new environment, because a half-installed package may look complete.
.venv/ready: requirements.lock requirements-uv.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@echo 'Installing packages into .venv: up to 3.4 GB to download and 7 GB on disk, nearly all of it PyTorch.'
	@echo 'On a fast connection, this takes about a minute with uv, or some minutes with pip.'
	@set -e; $(PYTHON) -m venv $(if $(wildcard .venv/unfinished),--clear) .venv; \
	rm -f $@; touch .venv/unfinished; \
	while sleep 15 >/dev/null 2>&1 && kill -0 $$$$ 2>/dev/null; do echo '… still installing'; done & trap "kill $$! 2>/dev/null" EXIT; \
	uv --version >/dev/null 2>&1 || $(PIP) install --only-binary :all: --require-hashes -r requirements-uv.lock || :; hash -r; \
	if ! uv pip install --quiet --python .venv/bin/python --require-hashes -r requirements.lock; then \
		echo 'uv could not install the packages, so pip does'; \
		$(PYTHON) -m venv --clear .venv; touch .venv/unfinished; $(PIP) install --require-hashes -r requirements.lock; fi; \
	$(PIP) install --no-deps --no-build-isolation -e .; mv .venv/unfinished $@; touch $@
	@.venv/bin/python -c 'import framebudget.learning.fit' >/dev/null 2>&1 &  # compiles what the trainings will import

.PHONY: paper test test-fast test-all coverage lint verify ui docs experiments help scm
