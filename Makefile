# `make demo` and `make test` work on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := .venv-peers
# More than two cores: many tests wait for a process or a server.
TEST_PROCESSES ?= 3
# Images for containers often set it; then every process of the tests would compile the program and the tests anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-slow soak lint bench bench-pictures bench-curation bench-page clean help

help:
	@echo "make demo   the whole way on data it makes, under two minutes"
	@echo "make test   the tests"
	@echo "make test-slow  the rest of them: crashes, memory, other tools, large data"
	@echo "make soak   50 faults of each kind (BEHOLDER_FAULTS=N), more data, further cases: before a release"
	@echo "make lint   ruff and mypy --strict"
	@echo "make bench  speed beside the memory limit and the tools people use today"
	@echo "make bench-pictures  the same for pictures: decoding, and tars to scores (an hour)"
	@echo "make bench-curation  selecting from 100 million rows, near-duplicates of a million, the live page (an hour)"
	@echo "make bench-page  docs/benchmarks.md and its plots, from the results that are kept"
	@echo "make peers  those tools, in an environment of their own (2 GB)"
	@echo "make clean  removes $(VENV) and the demo's folder"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip --disable-pip-version-check
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/beholder demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow and not soak" -n $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m "slow and not soak" -n $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

soak: $(INSTALLED)
	$(BIN)/python -m pytest -m soak -n $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED) $(PEERS)/.installed
	$(BIN)/python benchmarks/score_embeddings.py

bench-pictures: $(INSTALLED) $(PEERS)/.installed
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/whole_path.py

bench-curation: $(INSTALLED)
	$(BIN)/python benchmarks/select_rows.py
	$(BIN)/python benchmarks/duplicates.py --rows 1000000
	$(BIN)/python benchmarks/browse.py

bench-page: $(INSTALLED)
	$(BIN)/python benchmarks/page.py

clean:
	rm -rf $(VENV) .venv-peers beholder-demo benchmarks/data

# The tools people use today, in an environment of their own: for the benchmarks and for tests that hand them our files.
# --no-deps: each asks for torch or torchvision, and would bring its own.
PEER_TOOLS := embedding-reader==1.8.1 torchvision==0.28.0 birder==0.8.4 vision-data-curation==0.1.1 \
	transformers==5.23.0 timm==1.0.31 open_clip_torch==3.3.0 clip-retrieval==2.45.0 all_clip==1.3.0 fire==0.7.1

.PHONY: peers
peers: $(PEERS)/.installed

$(PEERS)/.installed: benchmarks/peers/requirements.txt benchmarks/peers/sitecustomize.py constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip --disable-pip-version-check
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt --requirement benchmarks/peers/requirements.txt
	$(PEERS)/bin/python -m pip install --quiet --no-deps $(PEER_TOOLS)
	cp benchmarks/peers/sitecustomize.py "$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	touch $@
