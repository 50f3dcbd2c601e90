# `make demo` and `make test` work on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint bench clean help

help:
	@echo "make demo   the whole way on data it makes, under two minutes"
	@echo "make test   the tests"
	@echo "make lint   ruff and mypy --strict"
	@echo "make bench  speed beside the memory limit and the tools people use today"
	@echo "make clean  removes $(VENV) and the demo's folder"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip --disable-pip-version-check
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/beholder demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/score_embeddings.py

clean:
	rm -rf $(VENV) beholder-demo
