# The commands of this project. Those that need Python use the active environment.
.DEFAULT_GOAL := help
# The features of the crate that need no Python.
FEATURES := num-complex,ndarray,rand_core
# Crates of their own, with dependencies of their own.
APART := fuzz examples/candle examples/burn

.PHONY: help
help:  ## Show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: develop
develop:  ## Install the package with all tools, editable
	pip install -e ".[dev]"

.PHONY: format
format:  ## Format Rust and Python
	cargo fmt
	for crate in $(APART); do cargo fmt --manifest-path $$crate/Cargo.toml || exit 1; done
	ruff format .
	ruff check --fix .

.PHONY: lint
lint:  ## Check formatting, lints and types
	cargo fmt --check
	for crate in $(APART); do cargo fmt --check --manifest-path $$crate/Cargo.toml || exit 1; done
	cargo clippy --all-targets -- -D warnings
	cargo clippy --all-targets --features $(FEATURES) -- -D warnings
	cargo clippy --features python -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --features $(FEATURES)
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --features python --document-private-items
	cargo package --quiet --allow-dirty --no-verify
	zizmor --quiet --offline --strict-collection --pedantic .github
	ruff format --check .
	ruff check .
	lint-imports --no-cache
	mypy python/fastdrop python/_fastdrop_autoload examples
	mypy --strict tests/typed.py
	pyright tests/typed.py
	MYPYPATH=tests mypy --follow-imports=silent docs/conf.py docs/drawings.py docs/notebook.py docs/directives.py
	MYPYPATH=tests mypy --follow-imports=silent fuzz/extension.py
	cd benches && MYPYPATH=../examples mypy peers.py calls.py family.py sweep.py instructions.py training_step.py torch_step.py torch_libraries.py attention.py jax_dropout.py dask_throughput.py
	cd examples && python -m mypy.stubtest fastdrop._core --mypy-config-file ../pyproject.toml

.PHONY: test
test:  ## Run the tests of Rust and Python
	cargo test --features $(FEATURES)
	pytest

.PHONY: test-settings
test-settings:  ## Run the Python tests that visit no level themselves at the two lowest SIMD levels, with 1 thread and 3
	threads=1; for level in $$(cd tests && python -c "from fastdrop import _core; print(*_core.simd_levels()[:2])"); do \
		FASTDROP_SIMD=$$level FASTDROP_NUM_THREADS=$$threads pytest -m "not once" || exit 1; threads=$$((4 - threads)); done

.PHONY: soak
soak:  ## Compare calls from threads and processes with the reference for five minutes
	python tests/soak.py --minutes 5

.PHONY: faults
faults:  ## Try faults as often as docs/reliability.md says (an hour)
	FASTDROP_FAULT_TRIES=200 pytest -s tests/test_threads.py tests/test_interrupts.py tests/test_memory.py

.PHONY: mutations
mutations:  ## Put known faults into a copy, one at a time, and see that the tests find them
	python tests/mutations.py

.PHONY: fuzz
fuzz:  ## Fuzz the crate and the extension module for five minutes each (needs cargo-fuzz and Atheris)
	fuzz/run views
	fuzz/run extension

.PHONY: corpus
corpus:  ## Run the fuzzers on what they have kept (needs Atheris)
	cargo run --quiet --manifest-path fuzz/Cargo.toml -- -runs=0 fuzz/corpus/views
	python fuzz/extension.py -runs=0 fuzz/corpus/extension

.PHONY: mutants
mutants:  ## Mutate Rust and Python, and list what no test notices (hours; needs cargo-mutants)
	-cargo mutants --output target
	rm -rf target/mutmut
	mkdir -p target/mutmut
	cp -r python/fastdrop tests pyproject.toml target/mutmut
	cd target/mutmut && mutmut run --max-children 2
	cd target/mutmut && mutmut results

.PHONY: instructions
instructions:  ## Compare instruction counts with the recorded ones (needs valgrind)
	python benches/instructions.py

.PHONY: sanitize
sanitize:  ## Look for memory errors and data races: sanitizers and valgrind, which must be there (.ci/sanitize)
	.ci/sanitize

.PHONY: deny
deny:  ## Check licences and sources of dependencies (needs cargo-deny)
	cargo deny check licenses bans sources

.PHONY: bench-smoke
bench-smoke:  ## Run every benchmark once, only to see that it works
	python -m fastdrop bench
	python benches/peers.py --sizes 10 17 --rounds 2 --seconds 0.001
	python benches/calls.py --rounds 1
	python benches/family.py --rounds 1 --seconds 0.001
	python benches/sweep.py --rounds 1
	python benches/training_step.py --rounds 2
	python benches/dask_throughput.py --rounds 1 --largest 24

.PHONY: torch-smoke
torch-smoke:  ## Run what needs PyTorch once, only to see that it works
	python benches/torch_step.py --quick --rounds 2
	python benches/torch_libraries.py --rounds 1 --models lstm --no-compile
	python benches/attention.py --rounds 1 --cases 0
	python examples/torch_finetune.py --quick
	python examples/torch_train.py --quick
	OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 examples/ranks_torch.py --quick

.PHONY: jax-smoke
jax-smoke:  ## Run what needs JAX once, only to see that it works (needs MPI)
	python benches/jax_dropout.py --rounds 2 --sizes 10 16 --attention 2 2 64 16
	JAX_PLATFORMS=cpu mpiexec -n 2 python -m mpi4py examples/ranks_jax.py --quick

EXPERIMENTS := overfitting data_size rates regularizers averaging uncertainty features removal batchnorm ridge thinned

.PHONY: examples-smoke
examples-smoke:  ## Run every example in its quick mode, into results/
	for name in $(EXPERIMENTS); do python examples/$$name.py --quick || exit 1; done
	python -W ignore examples/sklearn_digits.py --quick

.PHONY: ranks-smoke
ranks-smoke:  ## Run the examples of several ranks in their quick mode (needs MPI)
	mpiexec -n 2 python -m mpi4py examples/ranks_mpi.py --quick
	python examples/ranks_dask.py --quick

.PHONY: figures
figures:  ## Run every example in full, into docs/figures/ (half an hour)
	for name in $(EXPERIMENTS); do python examples/$$name.py --output docs/figures || exit 1; done

.PHONY: docs
docs:  ## Build the documentation into docs/_build/html; a warning is an error
	sphinx-build -E -W --keep-going -q -b html docs docs/_build/html

.PHONY: notebook
notebook:  ## Make a notebook of the tutorial in results/, and run its cells
	mkdir -p results
	python docs/notebook.py results/tutorial.ipynb
	jupyter execute --inplace results/tutorial.ipynb

.PHONY: wheel
wheel:  ## Build the wheel for this platform into dist/
	.ci/wheel --out dist

.PHONY: release-dry
release-dry:  ## Build and check all that a release publishes, as far as this machine can, into dist/release (half an hour)
	.ci/release

.PHONY: sdist
sdist:  ## Build the source distribution into dist/
	rm -f dist/*.tar.gz
	maturin sdist --out dist

.PHONY: vendored
vendored: sdist  ## Build the same with all crates, to build from without a network
	rm -rf target/vendored
	mkdir -p target/vendored
	tar xzf dist/*.tar.gz -C target/vendored
	cd target/vendored/* && mkdir .cargo && cargo vendor --locked --versioned-dirs > .cargo/config.toml
	name=$$(basename dist/*.tar.gz .tar.gz) && tar czf dist/$$name-vendored.tar.gz -C target/vendored $$name

.PHONY: vectors
vectors:  ## Write the golden vectors from the reference
	python tests/make_vectors.py

.PHONY: stubs
stubs:  ## Write the type stubs of public functions
	python tests/make_stubs.py

.PHONY: notices
notices:  ## Write the licences of linked libraries
	python tests/make_notices.py

.PHONY: check
check: lint test test-settings docs  ## All that must pass
