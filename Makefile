# `make demo` and `make test` need nothing but Python 3.10 to 3.13; each sets up .venv first, again and again without harm.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
DEMO := demo_output
export TF_CPP_MIN_LOG_LEVEL ?= 3
export PYTHONUNBUFFERED := 1

# The first of these that is a Python the project runs on.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(INSTALLED): requirements.txt setup.py
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10 to 3.13 found; name one with make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "installing the pinned packages into $(VENV) with $(PYTHON): some minutes, once"
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --no-deps --requirement requirements.txt
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: venv
venv: $(INSTALLED)  ## create .venv with the pinned packages

.PHONY: demo
demo: $(INSTALLED)  ## from the sample's records to a report, in under five minutes
	$(PY) -m pipelines.preprocess --input='sample/*.tfrecord' --vocabulary=sample/vocabulary.csv --output=$(DEMO)/data --overwrite
	$(PY) -m vcls_model.train --data=$(DEMO)/data --output=$(DEMO)/baseline --model=dense --epochs=30 --overwrite
	$(PY) -m vcls_model.train --data=$(DEMO)/data --output=$(DEMO)/model --model=auto --epochs=6 --overwrite
	$(PY) -m pipelines.score --input='sample/*.tfrecord' --model=$(DEMO)/baseline --output=$(DEMO)/baseline_scores --split=test --overwrite
	$(PY) -m pipelines.score --input='sample/*.tfrecord' --model=$(DEMO)/model --output=$(DEMO)/scores --split=test --modalities --overwrite
	$(PY) -m pipelines.report --scores=$(DEMO)/scores --baseline=$(DEMO)/baseline_scores --model=$(DEMO)/model --data=$(DEMO)/data --output=$(DEMO)/report --overwrite
	@echo "report: $(CURDIR)/$(DEMO)/report/report.html"

.PHONY: demo-video
demo-video: $(INSTALLED)  ## from the sample's video files to a report, in under three minutes
	$(PY) -m pipelines.extract --labels=sample/video/videos.csv --audio_encoder=none --output=$(DEMO)/video/records --overwrite
	$(PY) -m pipelines.preprocess --input=$(DEMO)/video/records --split_ratios=0.6,0.2,0.2 --output=$(DEMO)/video/data --overwrite
	$(PY) -m vcls_model.train --data=$(DEMO)/video/data --output=$(DEMO)/video/model --model=average --recipe=none --epochs=30 --overwrite
	$(PY) -m pipelines.score --input=$(DEMO)/video/records --model=$(DEMO)/video/model --split=test --output=$(DEMO)/video/scores --overwrite
	$(PY) -m pipelines.report --scores=$(DEMO)/video/scores --model=$(DEMO)/video/model --data=$(DEMO)/video/data --media='sample/video/*.mp4' --output=$(DEMO)/video/report --overwrite
	$(PY) -m pipelines.score --input='sample/video/V_BIRD_*.mp4' --model=$(DEMO)/video/model --output=$(DEMO)/video/labels --overwrite
	$(PY) -m vcls_model.label sample/video/V_HELICOPTER_012.mp4
	@echo "report: $(CURDIR)/$(DEMO)/video/report/report.html"

.PHONY: demo-live
demo-live: $(INSTALLED)  ## the live page with a clip of the sample playing; with CI=1 a screenshot, then it stops
	$(PY) -m deploy.live.demo $(DEMO)/live

.PHONY: test
test: $(INSTALLED)  ## the tests
	$(PY) -m pytest -n 2 --dist=worksteal

.PHONY: test-slow
test-slow: $(INSTALLED)  ## the tests that take more than some five seconds each
	$(PY) -m pytest -n 2 --dist=worksteal -m "slow and not long"

.PHONY: test-long
test-long: $(INSTALLED)  ## the tests that take minutes or try every combination
	$(PY) -m pytest -n 2 --dist=worksteal -m long

.PHONY: lint
lint: $(INSTALLED)  ## format, ruff, mypy, the rules between packages, the word list
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	.ci/check-words

.PHONY: bench
bench: $(INSTALLED)  ## each benchmark beside its reference, one line per figure
	@set -e; for script in bench/*.py; do $(PY) $$script; done

.PHONY: clean
clean:  ## remove what the demo and the benchmarks wrote
	rm -rf $(DEMO) bench_output

-include deploy/distributed.mk
