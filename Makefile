# make demo: environment, install, the main job on the embedded task, plots.   make test: everything CI checks.
# make docs: the documentation as a site, site/index.html.
# make bench: the benchmarks (hours), into $(RESULTS)/benchmarks.csv; ONLY=sblu measures one of them.
#
# PYTHON      the Python to build environments with (3.11 - 3.13)
# TORCH_INDEX an extra package index for torch, e.g. PyTorch's own for CPU builds (README)
# HEAREVAL    the Python of an environment with hear-eval-kit, PEERS its launcher and HEAR module: for the benchmarks that
#             compare with it (they read the variables themselves)

PYTHON ?= python3
TORCH_INDEX ?=
DEMO ?= .venv
TEST ?= .venv-test
RESULTS ?= results
ONLY ?=

PIP = -m pip --disable-pip-version-check install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --constraint constraints.txt
SOURCES = pyproject.toml constraints.txt $(shell find aape_bench models tasks -name '*.py' -o -name '*.csv' -o -name '*.safetensors' -o -path '*/templates/*')

.PHONY: demo test lint types suite docs bench clean

demo: $(DEMO)/installed
	$(DEMO)/bin/aape-bench run --model aape,vit,logmel --task tremolo --results-dir $(RESULTS)
	$(DEMO)/bin/aape-bench plot --results-dir $(RESULTS)

test: lint types suite

lint: $(TEST)/installed
	$(TEST)/bin/ruff check .

# outside the checkout: mypy would otherwise find the bare folders before the installed package
types: $(TEST)/installed
	cd $(TEST) && bin/mypy --config-file $(CURDIR)/pyproject.toml -p aape_bench

# processes side by side, one thread each
suite: $(TEST)/installed
	OMP_NUM_THREADS=1 $(TEST)/bin/python -m pytest --numprocesses auto

docs: $(TEST)/installed
	NO_MKDOCS_2_WARNING=1 $(TEST)/bin/python -m mkdocs build --strict --quiet

bench: $(TEST)/installed
	$(TEST)/bin/python benchmarks/suite.py --out $(RESULTS) $(addprefix --only ,$(ONLY))

# --editable, so that the demo's environment follows the checkout
$(DEMO)/installed: $(SOURCES)
	test -x $(DEMO)/bin/python || $(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python $(PIP) --editable .
	touch $@

# sed_eval checks our event metrics in the tests. Without its dependencies: it asks for dcase_util, which does not import
# beside setuptools 81 or later.
# hearvalidator is a second opinion in `validate`. Without its dependencies: it asks for TensorFlow, and for Python < 3.9,
# but runs without both.
# resemblyzer for its weights. Without its dependencies: they are compiled (webrtcvad) or heavy (librosa), and unused.
# strict: mypy sees the mapped packages only through its link tree; new files need a new install
$(TEST)/installed: $(SOURCES)
	test -x $(TEST)/bin/python || $(PYTHON) -m venv $(TEST)
	rm -rf build
	$(TEST)/bin/python $(PIP) --editable '.[test]' --config-settings editable_mode=strict
	$(TEST)/bin/python $(PIP) --no-deps sed_eval==0.2.1
	$(TEST)/bin/python $(PIP) --no-deps --ignore-requires-python hearvalidator==2021.0.6
	$(TEST)/bin/python $(PIP) --no-deps resemblyzer==0.1.4
	touch $@

clean:
	rm -rf $(DEMO) $(TEST) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache
