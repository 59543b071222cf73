# make demo: sets up and explains handwritten digits.   make test: sets up and passes the tests.
# make demo-photos: explains photographs with VGG16 (online).

VENV ?= .venv
# TensorFlow 2.21 has wheels for Python 3.11 to 3.13.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& { command -v $$p; break; }; done)
BIN := $(VENV)/bin
RUN := $(BIN)/python
export PYTHONUNBUFFERED := 1
# CUDA, XLA and oneDNN greetings say nothing to the reader of a demo.
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo demo-photos test test-slow coverage coverage-hub benchmark lint format docs notebook dist clean

demo: $(VENV)/.mnist
	$(RUN) mnist/train.py --dataset digits
	$(RUN) mnist/lrp.py --dataset digits
	@echo "Look at mnist/results/digits.png and mnist/results/why_not.png"

# Needs the ImageNet weights of VGG16 (half a gigabyte), which Keras downloads.
demo-photos: $(VENV)/.photos
	$(RUN) vgg/photos.py
	@$(RUN) vgg/lrp.py vgg/photos --style all --overwrite
	@echo "Look at vgg/results/chelsea.png"

test: $(VENV)/.test
	$(RUN) -m pytest -n 2 --dist loadscope -m "not slow"

# With KerasHub, whose models a test follows, Ray, a browser for pages, and jax, which runs exports.
test-slow: $(VENV)/.test $(VENV)/.hub $(VENV)/.ray $(VENV)/.jax $(VENV)/.docs $(VENV)/.browser $(VENV)/.dist
	$(RUN) -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m slow

# Every model of keras.applications under every preset: forty minutes on two cores.
coverage: $(VENV)/.test
	$(RUN) -m lrp_tf.tools.coverage --markdown docs/coverage.md

# Tiny models of KerasHub with random weights: three minutes on two cores.
coverage-hub: $(VENV)/.hub
	$(RUN) -m lrp_tf.tools.hub_coverage --markdown docs/coverage-hub.md

# Against the plain gradient, half an hour on two cores; python benchmarks/run.py --help for more.
benchmark: $(VENV)/.test
	$(RUN) benchmarks/run.py --model mnist --batch 128 --targets
	$(RUN) benchmarks/run.py --model vgg16 --batch 1 --targets
	$(RUN) benchmarks/run.py --model resnet50 --batch 1 --targets
	$(RUN) benchmarks/run.py --model vgg16 --batch 8 --memory

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site, site/index.html: opens from disk, and no request leaves it.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html"

# Executes notebooks/start.ipynb anew, a minute on two cores.
notebook: $(VENV)/.docs $(VENV)/.mnist
	$(RUN) notebooks/run.py

# A source archive and a wheel in dist/, as a package index takes them.
dist: $(VENV)/.dist
	rm -rf dist
	$(RUN) -m build --no-isolation
	$(BIN)/twine check --strict dist/*

# One stamp for each extra; a changed setup.py installs anew.
$(VENV)/.%: setup.py $(VENV)/pyvenv.cfg
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@

$(VENV)/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "lrp_tf needs Python 3.11, 3.12 or 3.13 with venv (TensorFlow 2.21 has no wheel for" \
	"3.14); none was found on the PATH. Install one (Debian: python3-venv), or: make PYTHON=/path/to/python3.12"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
