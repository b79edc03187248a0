# The two commands of the README. Both need Python 3.11 or newer and the package registry, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: demo test fuzz lint clean

$(BIN)/aecli: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "aecli needs Python 3.11 or newer: make PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

demo: $(BIN)/aecli  ## denoise, compress and restore a photograph, and show autoencoder against PCA
	mkdir -p $(DEMO)
	$(BIN)/aecli denoise tests/data/noisy.png --reference tests/data/photo.png -o $(DEMO)/denoised.png --overwrite
	$(BIN)/aecli encode tests/data/photo.png -o $(DEMO)/photo.npz --score --overwrite
	$(BIN)/aecli decode $(DEMO)/photo.npz -o $(DEMO)/decoded.png --overwrite
	$(BIN)/aecli compare-pca --dims 2,8,32 --epochs 1 -o $(DEMO)/compare-pca.png --overwrite
	$(BIN)/python benchmarks/before_after.py tests/data/photo.png tests/data/noisy.png $(DEMO)/denoised.png $(DEMO)/decoded.png -o $(DEMO)/before-after.png
	@echo "Look at $(DEMO)/before-after.png (original, noisy, denoised, decoded) and $(DEMO)/compare-pca.png"

test: $(BIN)/aecli  ## install what the tests need, and run them
	$(BIN)/python -m pytest tests

fuzz: $(BIN)/aecli  ## hostile files made at random, for a minute; longer by hand: python -m tests.fuzz --minutes 30
	$(BIN)/python -m tests.fuzz --minutes 1

lint: $(BIN)/aecli
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(DEMO)
