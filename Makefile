# `make demo` and `make test` do all their own set-up; both are safe to run twice.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-slow lint docs counts device device-wheels attack soak runtime serving image clean setup documents charts results dist test-oldest bench

setup: $(STAMP)

# The stamp is renewed only after a whole installation, so an interrupted one is repeated.
$(STAMP): setup.cfg setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/strzoo demo

# What two cores do in five minutes; the tests marked slow are those of test-slow.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4
test: setup
	$(PYTEST) -m "not slow" $(PYTEST_OPTIONS)

# Whole programs and many cases: the documents' commands, runs that are killed, hostile inputs,
# every kind of network, other interpreters.
test-slow: setup $(VENV)/.browser
	$(PYTEST) -m slow $(PYTEST_OPTIONS)

# What the test of HTML reports needs: axe-core, and Chromium from Debian's packages where this user
# may install them. Tried once; the test skips, and says why, without it.
$(VENV)/.browser: $(STAMP)
	-$(BIN)/python tools/vendor_charts.py --tests
	-command -v chromium >/dev/null || test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null || \
		timeout 300 sh -c 'apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium' >/dev/null
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Small sizes of the benchmarks in ten minutes; tables, and JSON in bench-results/quick/.
bench: setup
	$(BIN)/python benchmarks/quick.py $(BENCH_OPTIONS)

# benchmarks/RESULTS.md of the files in benchmarks/results/.
results:
	$(PYTHON) benchmarks/write_results.py

# Correctness and speed on this machine's GPU and cores, in eight minutes.
device: setup
	$(BIN)/python benchmarks/device.py $(DEVICE_OPTIONS)

# What a machine without a network may lack of the export to ONNX, for its Linux and Python.
DEVICE_PYTHON ?= 3.12
device-wheels: setup
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --dest device-wheels \
		--python-version $(DEVICE_PYTHON) --platform manylinux_2_28_x86_64 \
		--platform manylinux_2_27_x86_64 --platform manylinux2014_x86_64 \
		onnx onnxscript onnx-ir ml_dtypes protobuf typing_extensions

# Every hostile input against the commands, in ten minutes; tests run a part of it.
attack: setup
	$(BIN)/python -W ignore -m tests.attack

# What the tests do on a small scale: faults, kills and interrupts, in an hour.
soak: setup
	$(BIN)/python -W ignore -m tests.soak

# The distribution strzoo-runtime, which runs .strz files on NumPy alone, in dist/.
runtime: setup
	$(BIN)/python -m setuptools_scm --force-write-version-files >/dev/null
	$(BIN)/python tools/build_runtime.py

# What a release uploads, checked and tried on the oldest and the newest Python at hand.
dist: setup
	$(BIN)/python tools/try_dist.py $(DIST_OPTIONS)

# The tests with the oldest Python and the lowest versions that setup.cfg allows.
test-oldest: setup
	$(BIN)/python tools/try_oldest.py -- -n auto --maxprocesses 4 $(PYTEST_OPTIONS)

# 10,000 requests from 32 clients to examples/serving, which is restarted meanwhile; none may be
# lost or wrong.
serving: setup
	PYTHONPATH=. $(BIN)/python -W ignore benchmarks/serving.py --architecture resnet20 \
		--only sparse --requests 10000 --rounds 1 --restarts 2 $(SERVING_OPTIONS)

# The steps of examples/serving/Dockerfile in a fresh virtual environment, in three minutes.
image: setup
	PYTHONPATH=. $(BIN)/python -W ignore tools/try_image.py

# The dense counts of the published architectures that ship with strzoo.
counts: setup
	PYTHONPATH=. $(BIN)/python tools/write_counts.py

# Every command and example of README and docs, on stand-ins.
documents: setup
	$(BIN)/python -m pytest tests/test_documents.py tests/test_own_network.py

# The documents as a site, in site/; warnings are errors.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# Chart.js for the charts of HTML reports, from the npm registry: building strzoo tries it too.
charts:
	$(PYTHON) tools/vendor_charts.py

clean:
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
