# A fresh Debian machine with Python 3.12 needs nothing but these targets.
export HF_HUB_OFFLINE := 1
export OMP_WAIT_POLICY ?= PASSIVE
export PYTHONWARNINGS ?= ignore::DeprecationWarning
BIN := .venv/bin
QUICKSTART := examples/quickstart

.PHONY: help setup demo test test-more lint unit local cluster images lock clean

help:            ## this list
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+:  *##' Makefile | sed 's/:.*##/\t/'

setup:           ## .venv with the locked packages
	@scripts/setup.sh

demo: setup      ## distil, prove and roll out the quickstart on this machine, no cluster needed
	$(BIN)/flowstill store push $(QUICKSTART)/teacher store://teachers/reach-around
	$(BIN)/flowstill store push $(QUICKSTART)/dataset store://datasets/reach-around
	$(BIN)/flowstill run $(QUICKSTART)/distilljob.yaml $(QUICKSTART)/studentrollout.yaml

test: lint       ## all the tests, the way CI runs them
	@scripts/browser.sh
	$(BIN)/pytest tests/unit tests/local -n 2 --dist loadfile -m "not long and not gpu"
	$(BIN)/pytest tests/cluster -m "not long and not gpu"

test-more: setup ## the long ones too
	@scripts/browser.sh
	$(BIN)/pytest -m "not gpu"

lint: setup      ## ruff, mypy strict, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: setup      ## pure tests, seconds
	$(BIN)/pytest tests/unit

local: setup     ## the chain with processes, and the report in a browser
	@scripts/browser.sh
	$(BIN)/pytest tests/local -m "not long"

cluster: setup   ## a real control plane, and real containers
	$(BIN)/pytest tests/cluster -m "not long"

images:          ## the three container images (REGISTRY=, TAG=, BASE_IMAGE=, EXTRAS=, BUILDER=podman|buildah|docker)
	@scripts/images.sh

lock: setup      ## renew requirements.lock
	scripts/lock.sh

clean:           ## local runs and build leftovers; caches outside the checkout stay
	rm -rf .flowstill out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
