"""Faults that the tests must find, and the command that puts them into a copy of the project.

    python tests/mutations.py              # all of them
    python tests/mutations.py fork memory  # those whose names contain one of these words

Each row replaces a text, which must occur exactly once in its file, and names the tests of which
one must fail. First they all must pass without any fault. The extension module is built anew only
for faults in Rust.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXTENSION = Path("python/fastdrop/_core.abi3.so")
TIMEOUT = 1200  # seconds after which a run of tests counts as failed


@dataclass(frozen=True)
class Mutation:
    """One fault."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    modules: tuple[str, ...] = ()
    """Modules without which the tests are skipped."""

    @property
    def rust(self) -> bool:
        """Whether the extension module must be built."""
        return self.file.endswith(".rs")


PROCESS, MEMORY = "tests/test_faults_process.py::test_", "tests/test_faults_memory.py::test_"
FORK = PROCESS + "a_fork_keeps_bits_and_gets_helpers_of_its_own"

MUTATIONS = [
    Mutation(
        "a forked child takes its parent's pool",
        "src/pool.rs",
        "            && process.id == id\n",
        "",
        (FORK + "[after it]",),
    ),
    Mutation(
        "a forked child uses the OpenMP of its parent",
        "src/openmp.rs",
        "(*process == std::process::id()).then_some(*run)",
        "Some(*run)",
        ("tests/test_torch_models.py::test_a_forked_child_does_not_wait_for_threads_it_lacks",),
        modules=("torch",),
    ),
    Mutation(
        "the number of a call is taken after its work",
        "python/fastdrop/_layer.py",
        "            return _forward(self._operation, inputs, out, keys, p, shared, scale)\n",
        "            key = keys.key.fold_in(keys.state[0])\n"
        "            done = _forward(self._operation, inputs, out, key, p, shared, scale)\n"
        "            keys.take()\n"
        "            return done\n",
        (PROCESS + "32_threads_neither_share_nor_skip_a_call[600000]",),
    ),
    Mutation(
        "refused threads are an error",
        "src/pool.rs",
        "                .ok()?;",
        '                .expect("threads");',
        (PROCESS + "refused_threads_change_no_bit",),
    ),
    Mutation(
        "helpers stay on the CPUs where they started",
        "src/pool.rs",
        "        self.cpus.take();\n",
        "        let _ = &self.cpus;\n",
        (PROCESS + "helpers_stay_on_the_cpus_of_the_call",),
    ),
    Mutation(
        "CPUs that the process must not use are counted",
        "src/pool.rs",
        "std::thread::available_parallelism().map_or(1, usize::from)",
        "64",
        (PROCESS + "at_first_there_are_as_many_threads_as_cpus_to_run_on",),
    ),
    Mutation(
        "pools of former settings are kept",
        "src/pool.rs",
        "            let (_, new) = pool.insert(",
        "            std::mem::forget(pool.take());\n            let (_, new) = pool.insert(",
        (PROCESS + "the_number_of_threads_stays_bounded",),
    ),
    Mutation(
        "Python code runs below Rust",
        "src/python/arrays.rs",
        "    let mut shape: Steps = shape.iter().map(|len| *len as isize).collect();\n",
        '    let _ = py.import("time")?.call_method1("sleep", (0,))?;\n'
        "    let mut shape: Steps = shape.iter().map(|len| *len as isize).collect();\n",
        (PROCESS + "daemon_threads_in_any_entry_point_do_not_abort_the_end",),
    ),
    Mutation(
        "Ctrl-C is heard at the end of a call",
        "src/driver.rs",
        "            if interrupt() {\n",
        "            if units == 0 && interrupt() {\n",
        (MEMORY + "ctrl_c_stops_a_call_on_gigabytes[plain]",),
    ),
    Mutation(
        "all block masks are made in one step",
        "python/fastdrop/blocks.py",
        "CHUNK = 1 << 20\n",
        "CHUNK = 1 << 62\n",
        ("tests/test_memory.py::test_a_block_mask_takes_no_more_memory_than_itself_and_its_seeds",),
    ),
    Mutation(
        "what a handler raises becomes KeyboardInterrupt",
        "src/python/arguments.rs",
        "(_, Some(error)) => Err(*error),",
        "(_, Some(_)) => Err(PyKeyboardInterrupt::new_err(())),",
        (MEMORY + "a_handler_may_call_or_raise[raises]",),
    ),
    Mutation(
        "an interrupted call counts",
        "src/python/plan.rs",
        "        keys.undo(taken);\n",
        "        let _ = (keys, taken);\n",
        (MEMORY + "a_handler_may_call_or_raise[raises]",),
    ),
    Mutation(
        "one call at a time",
        "src/driver.rs",
        "        let most = (self.sizes.batch / unit_size).max(1);\n",
        "        static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());\n"
        "        let _one = ONE.lock();\n"
        "        let most = (self.sizes.batch / unit_size).max(1);\n",
        (MEMORY + "a_handler_may_call_or_raise[calls]",),
    ),
    Mutation(
        "threads start whether or not there is memory",
        "src/pool.rs",
        "        _ if !has_memory(threads * THREAD) || !has_heaps(threads) => None,\n",
        "",
        (MEMORY + "no_limit_of_memory_aborts_any_call[kept]",),
    ),
    Mutation(
        "every call loses a reference to its result",
        "src/python/calls.rs",
        "    Ok(target)\n",
        "    std::mem::forget(target.clone());\n    Ok(target)\n",
        (MEMORY + "calls_leave_nothing_behind",),
    ),
    Mutation(
        "a layer keeps the plans of all its calls",
        "python/fastdrop/_layer.py",
        "            y, self._plan = self._train(inputs, out, self._keys, False)\n        else:\n",
        "            y, self._plan = self._train(inputs, out, self._keys, False)\n"
        '            vars(self).setdefault("_plans", []).append(self._plan)\n'
        "        else:\n",
        (MEMORY + "calls_leave_nothing_behind",),
    ),
]


def mutated(mutation: Mutation, root: Path = ROOT) -> str:
    """Return the text of the file with the fault; an error if the row no longer fits the file."""
    text = (root / mutation.file).read_text()
    found = text.count(mutation.old)
    if found != 1:
        raise ValueError(f"{mutation.name}: {found} places in {mutation.file} for {mutation.old!r}")
    return text.replace(mutation.old, mutation.new)


def main(words: list[str]) -> int:
    """Run the mutations; return the number of those that no test found."""
    chosen = [one for one in MUTATIONS if not words or any(word in one.name for word in words)]
    skipped = [one for one in chosen if not all(map(importlib.util.find_spec, one.modules))]
    chosen = [one for one in chosen if one not in skipped]
    for one in skipped:
        print(f"not run   {one.name}: needs {', '.join(one.modules)}", flush=True)
    for one in chosen:
        mutated(one)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        unwanted = shutil.ignore_patterns(
            "target", ".*", "__pycache__", "_build", "results", "dist"
        )
        shutil.copytree(ROOT, copy, ignore=unwanted)
        spec = importlib.util.find_spec("fastdrop._core")
        if spec is None or spec.origin is None:
            raise RuntimeError("fastdrop is not installed")
        extension = Path(shutil.copy(spec.origin, Path(folder) / EXTENSION.name))
        shutil.copy(extension, copy / EXTENSION)
        tests = sorted({test for one in chosen for test in one.tests})
        if failure := failed(copy, tests):
            raise RuntimeError(f"these tests fail without any fault:\n{failure}")
        survived = 0
        for one in chosen:
            text = (copy / one.file).read_text()
            (copy / one.file).write_text(mutated(one, copy))
            if one.rust:
                build(copy)
            found = bool(failed(copy, one.tests))
            survived += not found
            print(f"{'caught' if found else 'SURVIVED':<10}{one.name}", flush=True)
            (copy / one.file).write_text(text)
            shutil.copy(extension, copy / EXTENSION)
    print(f"{len(chosen) - survived} of {len(chosen)} caught")
    return survived


def build(copy: Path) -> None:
    """Build the extension module, with little optimization."""
    target = ROOT / "target" / "mutations"  # stays, with what does not change
    fast = {"LTO": "off", "CODEGEN_UNITS": "16", "OPT_LEVEL": "2"}
    subprocess.run(
        ["cargo", "rustc", "--quiet", "--release", "--lib", "--features", "python",
         "--crate-type", "cdylib", "--target-dir", target],
        cwd=copy,
        env={**os.environ, **{f"CARGO_PROFILE_RELEASE_{name}": fast[name] for name in fast}},
        check=True,
    )  # fmt: skip
    shutil.copy(target / "release" / "libfastdrop.so", copy / EXTENSION)


def failed(copy: Path, tests: tuple[str, ...] | list[str]) -> str:
    """Return what pytest says if one of the tests fails in the copy, else nothing."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy / "python")},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return "out of time"
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout if done.returncode == 1 else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
