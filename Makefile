# make demo    periods on a CPU: installs, trains, measures, draws Experiments/demo/periods.png
# make demo-regimes   the same for the three regimes of training on the sphere
# make claims  a quick subset of the claims, which decides nothing; claims-full: all, as designed
# make test    ruff and the test suite
# make setup   only the environment, in .venv (make test adds what the tests need)
PYTHON ?= python3
BIN := .venv/bin
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)

.PHONY: demo demo-regimes claims claims-full test setup notebook clean

demo: setup
	$(BIN)/python run_train_and_test.py --experiment demo --jobs $(JOBS)

demo-regimes: setup
	$(BIN)/python run_train_and_test.py --experiment demo_regimes --jobs $(JOBS)

claims: setup
	$(BIN)/python -m claims --quick --jobs $(JOBS)

# Everything in results/claims, in hours; continues where it stopped. IMAGES: an ImageFolder of CIFAR-10.
claims-full: setup
	$(BIN)/python -m claims --jobs $(JOBS) --results results/claims $(if $(IMAGES),--image_folder $(IMAGES))

test: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -n $(JOBS) --dist worksteal

setup: .venv/ready

PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.venv/ready: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) -r requirements.txt
	touch $@

.venv/dev: .venv/ready requirements-dev.txt
	$(PIP) -r requirements-dev.txt
	touch $@

# Experiments/Plots.ipynb: the notebook with the figures of what is in Experiments/
notebook: setup
	$(BIN)/jupyter nbconvert --to notebook --execute Plots.ipynb --output-dir Experiments

clean:
	rm -rf .venv .pytest_cache .ruff_cache
