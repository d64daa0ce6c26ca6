# Two commands on a fresh machine: `make demo` and `make test`. Neither needs a GPU or a download besides the packages.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The pair the project is tested with; torchvision needs the torch it was built for.
TORCH := torch==2.14.1 torchvision==0.29.1

.PHONY: demo demo-result test test-slow regress lint types check docs gpu delta camvid optimizer zoo zoo-exact zoo-wild latency-budget realised methods relationship fuzz-compress fuzz-files clean

demo: $(STAMP)  ## the whole chain on generated scenes -> runs/demo/report.html and report.json
	rm -rf runs/demo
	$(BIN)/slimtask demo --out runs/demo

demo-result:  ## the demo's report as committed: docs/results/demo.json and demo.md
	$(BIN)/python -m slimtask.bench.report.result runs/demo/report.json --out docs/results/demo

WORKERS ?= 2
test: $(STAMP)  ## the whole suite that needs no GPU, in two processes of one thread each
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

test-slow: $(STAMP)  ## what `make test` leaves out for time: methods and evaluation in two processes, long runs
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -m slow

regress: $(STAMP)  ## the hot paths against docs/results/regress.json, on a quiet machine; SLIMTASK_REGRESS_WRITE=1 writes it anew
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -q -m regress tests/regress --benchmark-columns=min,median,rounds

lint: $(STAMP)  ## style, and formatting as it should be
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

check: lint types test  ## everything a change must pass

docs: $(STAMP)  ## the guides and a reference of every public name, made from the docstrings -> build/docs/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

gpu:  ## every GPU test and measurement of a CUDA machine -> docs/results/gpu.json, under nine minutes
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m slimtask.bench.studies.gpu --json docs/results/gpu.json

CAMVID ?= ../shared/data/camvid
camvid: $(STAMP)  ## CamVid, dense against three sparsity levels -> docs/results/camvid.json and camvid.md (half an hour)
	rm -rf runs/camvid
	$(BIN)/slimtask sweep recipes/camvid.yaml --set data.root=$(CAMVID) --levels 0.5,0.7,0.9 --out runs/camvid
	$(BIN)/python -m slimtask.bench.report.result runs/camvid/report.json --out docs/results/camvid

optimizer: $(STAMP)  ## the cost of a proximal optimiser step against AdamW -> docs/results/optimizer_step.json
	$(BIN)/python -m slimtask.bench.studies.optimizer_step --json docs/results/optimizer_step.json

MODELS ?=
zoo: $(STAMP)  ## half the channels of all 97 float models of torchvision -> docs/results/zoo.json; MODELS="swin_t": only those
	$(BIN)/python -m slimtask.bench.studies.zoo $(if $(MODELS),--models $(MODELS) --json runs/zoo.json,--json docs/results/zoo.json)

zoo-exact: $(STAMP)  ## channels killed at random, removed exactly, on torchvision's convolutional models -> docs/results/zoo_exact.json
	$(BIN)/python -m slimtask.bench.studies.zoo --exact $(if $(MODELS),--models $(MODELS) --json runs/zoo_exact.json,--json docs/results/zoo_exact.json)

RESUME ?= --resume
zoo-wild: $(STAMP)  ## half the channels of 170 networks of other families, beside torch-pruning -> docs/results/zoo_wild.json; goes on where it was stopped, RESUME= begins anew, ONLY=slimtask: only that side (two hours)
	$(BIN)/pip install --quiet --editable '.[zoo]'
	$(BIN)/python -m slimtask.bench.studies.zoo_wild $(RESUME) $(if $(ONLY),--only $(ONLY)) $(if $(MODELS),--models $(MODELS) --json runs/zoo_wild.json,--json docs/results/zoo_wild.json)

latency-budget: $(STAMP)  ## what a latency budget keeps on CamVid, beside a FLOP budget and torch-pruning -> docs/results/latency_budget.json; goes on where it was stopped (an hour)
	$(BIN)/python -m slimtask.bench.studies.latency_budget --root $(CAMVID) --json docs/results/latency_budget.json

CIFAR ?= ../shared/data/cifar10.zip
realised: $(STAMP)  ## how much of a FLOP ratio becomes speed and what accuracy stays, against torch-pruning -> docs/results/realised.json; goes on where it was stopped (an hour, on a quiet machine)
	$(BIN)/python -m slimtask.bench.studies.realised --images $(CIFAR) --threads 1 --rounds 40 --table-seconds 45 --json docs/results/realised.json

STUDY := recipes/scenes/study.yaml recipes/camvid/study.yaml recipes/scenes/study_delta.yaml
REGIMES := recipes/scenes/study_few.yaml recipes/scenes/study_long.yaml
methods: $(STAMP)  ## every method at 50, 70 and 90 %, three seeds (claims on scenes: six), scenes and CamVid -> docs/results/methods.json; goes on where it was stopped (hours)
	$(BIN)/python -m slimtask.bench.studies.methods $(STUDY) --regimes $(REGIMES) --root camvid=$(CAMVID) --json docs/results/methods.json

relationship: $(STAMP)  ## the overlap of the tasks' masks against depth, and which tasks are alike -> docs/results/relationship.json (two minutes)
	$(BIN)/python -m slimtask.bench.studies.relationship --json docs/results/relationship.json

delta: $(STAMP)  ## sub-tasks as sparse deltas against T dense models, ONNX Runtime on the CPU -> docs/results/delta.json, .md, .svg (a quarter of an hour, on a quiet machine)
	$(BIN)/python -m slimtask.bench.studies.delta --json docs/results/delta.json

fuzz-compress: $(STAMP)  ## 1,000 generated networks through pruning, removal, file and ONNX -> docs/results/fuzz_compress.json (an hour)
	$(BIN)/python -m slimtask.bench.studies.fuzz --networks 1000 --json docs/results/fuzz_compress.json

fuzz-files: $(STAMP)  ## 3,000 hostile files and options through the commands -> docs/results/fuzz_files.json (a quarter of an hour)
	$(BIN)/python -m slimtask.bench.studies.fuzz_files --cases 3000 --json docs/results/fuzz_files.json

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable '.[rtx,dev]'
	touch $@

clean:  ## everything that is made again
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
