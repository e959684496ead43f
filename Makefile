# Everything works in .venv, which the first target that needs it makes.
PYTHON ?= python3
PY := .venv/bin/python
# pip byte-compiles everything it installs unless told not to; that is slower than all of the demo.
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --no-compile

# The oldest transformers that is supported, in a folder of its own that the tests put in front.
OLDEST := .venv/oldest-transformers
OLDEST_TRANSFORMERS := transformers==4.57.1 huggingface_hub==0.36.0 tokenizers==0.22.1

.PHONY: demo test bench lint clean

demo: .venv/ready  ## analyse a prompt, and a question about a picture, with the bundled models
	$(PY) mask_impact_analysis.py --model demo --num-tokens 2 --prompt "Tom has a red ball. Ann has a blue cup. Ann's cup is" --output demo --overwrite
	$(PY) mask_impact_vl.py --model demo --image testimg.png --prompt "What color is the circle?" --mask-mode both --output demo_vl --overwrite

test: .venv/ready-to-test lint $(OLDEST)/ready  ## lint, all tests, and the engine's on the oldest transformers
	$(PY) -m pytest
	PYTHONPATH=$(OLDEST) $(PY) -m pytest tests/test_engine.py tests/test_experiment.py tests/test_models.py tests/test_cli.py \
		tests/test_vl_engine.py tests/test_vl_cli.py tests/test_vision.py test_vl_phase1.py

bench: .venv/ready  ## speed and memory, about 11 minutes
	$(PY) benchmarks/bench.py

lint: .venv/ready-to-test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf .venv output build *.egg-info

.venv/ready: requirements.txt
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PIP) -r requirements.txt
	touch $@

.venv/ready-to-test: .venv/ready pyproject.toml
	$(PIP) --editable ".[dev]"
	touch $@

$(OLDEST)/ready: .venv/ready
	$(PIP) --target $(OLDEST) --upgrade --no-deps $(OLDEST_TRANSFORMERS)
	$(PIP) requests
	touch $@
