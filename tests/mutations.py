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


THREADS, INTERRUPTS, MEMORY, FUZZ, STATE, JAX = (
    f"tests/test_{name}.py::test_"
    for name in ("threads", "interrupts", "memory", "fuzz", "state", "jax")
)
ATTENTION = "tests/test_attention.py::test_"
JAX_MEMBERS = "tests/test_jax_members.py::test_"
JAX_ATTENTION = "tests/test_jax_attention.py::test_"
TORCH_NATIVE = "tests/test_torch_native.py::test_"
TORCH_RANDOM = "tests/test_torch_random.py::test_"
TORCH_ATTENTION = "tests/test_torch_attention.py::test_"
TRANSFORMERS = "tests/test_torch_transformers.py::test_"
TORCH_FUSE = "tests/test_torch_fuse.py::test_"
TORCH_COMPILED = "tests/test_torch_compiled.py::test_"
TORCH_MEMBERS = "tests/test_torch_members.py::test_"
DISTRIBUTED = (
    "tests/test_torch_tools.py::test_a_distributed_tensor_gets_its_part_of_the_mask_of_the_whole"
)
TORCH_MEMORY = "tests/test_torch_memory.py::test_"
TORCH_INSTALL = "tests/test_torch_install.py::test_"
TORCH_PROCESSES = "tests/test_torch_processes.py::test_"
REPORT = "tests/test_torch_report.py::test_"
TORCH = "tests/test_torch_threads.py::test_"
FORK = THREADS + "a_fork_keeps_bits_and_gets_helpers_of_its_own"

MUTATIONS = [
    Mutation(
        "any torch is taken",
        "python/fastdrop/torch/__init__.py",
        "if not _core.take_tensors(torch.Tensor):",
        "if _core.take_tensors(torch.Tensor) is None:",
        ("tests/test_config.py::test_a_torch_that_lacks_what_is_needed_is_refused_by_its_version",),
    ),
    Mutation(
        "a forked child takes its parent's pool",
        "src/threads/pool.rs",
        "            && entry.process == process\n",
        "",
        (FORK + "[after it]",),
    ),
    Mutation(
        "a forked child uses the OpenMP of its parent",
        "src/threads/openmp.rs",
        "    if process != Process::current() {\n",
        "    if process != process {\n",
        ("tests/test_torch_processes.py::test_a_forked_child_does_not_wait_for_threads_it_lacks",),
        modules=("torch",),
    ),
    Mutation(
        "a process is known by its id alone",
        "src/threads/fork.rs",
        "FORKS.fetch_add(1, Ordering::Relaxed);",
        "FORKS.fetch_add(0, Ordering::Relaxed);",
        (TORCH + "a_fork_whose_child_has_the_id_of_its_parent_keeps_bits",),
        modules=("torch",),
    ),
    Mutation(
        "a team is as large as a call needs",
        "src/threads/openmp.rs",
        "self.threads as c_uint, 0)",
        "threads as c_uint, 0)",
        (TORCH + "torch_keeps_its_threads_whatever_calls_use",),
        modules=("torch",),
    ),
    Mutation(
        "a team starts whether or not there are threads",
        "src/threads/openmp.rs",
        "if !can_start(most.saturating_sub(1)) {",
        "if most == 0 && !can_start(most) {",
        (TORCH + "refused_threads_change_no_bit",),
        modules=("torch",),
    ),
    Mutation(
        "threads of OpenMP work on any stack",
        "src/threads/openmp.rs",
        "if stack_left() < MEMBER_STACK {",
        "if stack_left() < MEMBER_STACK / 100 {",
        (TORCH + "small_stacks_of_openmp_change_no_bit[16k]",),
        modules=("torch",),
    ),
    Mutation(
        "calls run on any stack",
        "src/python/arguments.rs",
        "if stack_left() >= CALL_STACK {",
        "if stack_left() >= CALL_STACK / 100 {",
        (THREADS + "a_small_stack_of_the_caller_changes_no_bit",),
    ),
    Mutation(
        "two threads lend one storage",
        "python/fastdrop/torch/_memory.py",
        "            if not self._spare.pop(known, False):\n",
        "            if self._spare.pop(known, False) is None:\n",
        (TORCH_MEMORY + "threads_that_meet_between_any_two_steps_do_not_share_memory",),
        modules=("torch",),
    ),
    Mutation(
        "a storage is lent that a handler lent meanwhile",
        "python/fastdrop/torch/_memory.py",
        "            if known.holders() != known.alone:  # lent meanwhile\n",
        "            if known.storage is None:\n",
        (TORCH_MEMORY + "a_handler_may_make_calls_inside_any_step",),
        modules=("torch",),
    ),
    Mutation(
        "a program that holds only the storage of a large result loses it",
        "python/fastdrop/torch/_memory.py",
        "_uses(self.storage._cdata), sys.getrefcount(self.storage)",
        "_uses(self.storage._cdata), 0",
        (TORCH_MEMORY + "memory_of_a_result_is_lent_again_only_when_nothing_holds_it[storage]",),
        modules=("torch",),
    ),
    Mutation(
        "large results get storages that programs have changed",
        "python/fastdrop/torch/_memory.py",
        "            elif known.is_whole():\n",
        "            else:\n",
        (TORCH_MEMORY + "torch_does_to_a_large_result_what_it_does_to_any_tensor",),
        modules=("torch",),
    ),
    Mutation(
        "large results count a change that nobody made",
        "python/fastdrop/torch/_memory.py",
        "        return y.data, new",
        "        return y, new",
        (TORCH_MEMORY + "torch_does_to_a_large_result_what_it_does_to_any_tensor[version]",),
        modules=("torch",),
    ),
    Mutation(
        "a call reads the shape of its output again after a release of the interpreter",
        "src/python/calls.rs",
        "    let shape = &written.shape[..];\n",
        "    let again = written.owner.cast::<PyUntypedArray>()?.shape().to_vec();\n"
        "    let shape = &again[..];\n",
        (INTERRUPTS + "a_handler_may_change_the_arrays_of_a_call[shape]",),
    ),
    Mutation(
        "nobody looks whether a handler took the memory of an array",
        "src/python/arguments.rs",
        "                held.check(py)\n",
        "                Ok(())\n",
        (INTERRUPTS + "a_handler_may_change_the_arrays_of_a_call[resize an input]",),
    ),
    Mutation(
        "handlers run in calls on memory that no array owns",
        "src/python/arguments.rs",
        "!deferred && !DEFERRED.get()",
        "(deferred || !deferred) && !DEFERRED.get()",
        (INTERRUPTS + "a_handler_may_change_the_arrays_of_a_call[pages]",),
    ),
    Mutation(
        "a compiled function leaves out an operand whose dtype it does not know",
        "src/python/xla/masks.rs",
        "        let start = others.next();\n",
        "        let start = others.next().filter(Operand::is_integer);\n",
        ("tests/test_jax.py::test_the_handlers_take_nothing_that_they_do_not_know",),
        modules=("jax",),
    ),
    Mutation(
        "draws that meet write their keys into one tensor",
        "python/fastdrop/torch/_keys.py",
        "        words = _scratch.pop()",
        "        words = _scratch[-1]",
        (
            "tests/test_torch_keys.py"
            "::test_a_handler_that_draws_inside_any_step_of_a_call_gets_a_key_of_its_own",
        ),
        modules=("torch",),
    ),
    Mutation(
        "a pickled module may have the part of a rank that does not exist",
        "python/fastdrop/torch/_keys.py",
        "    if rank >= ranks:\n",
        "    if rank > ranks:\n",
        ("tests/test_torch_keys.py::test_edited_keys_of_a_pickled_module_are_refused",),
        modules=("torch",),
    ),
    Mutation(
        "inference tensors are overwritten in every mode",
        "python/fastdrop/torch/_dispatch.py",
        "    if x.is_inference() and not torch.is_inference_mode_enabled():\n",
        "    if x.is_inference() and torch.is_inference_mode_enabled() is None:\n",
        ("tests/test_torch_functional.py::test_a_call_in_place_refuses_what_torch_refuses",),
        modules=("torch",),
    ),
    Mutation(
        "views that torch does not change are found after they were changed",
        "python/fastdrop/torch/_dispatch.py",
        "        x.mul_(1)  # a view",
        "        pass  # a view",
        ("tests/test_torch_functional.py::test_a_call_in_place_refuses_what_torch_refuses",),
        modules=("torch",),
    ),
    Mutation(
        "nothing holds the memory of tensors during a call",
        "python/fastdrop/torch/_call.py",
        "        inputs = (x.data,) if len(inputs) == 1 else",
        "        inputs = (x,) if len(inputs) == 1 else",
        (TORCH_MEMORY + "another_thread_may_replace_the_memory_of_a_tensor_in_any_call",),
        modules=("torch",),
    ),
    Mutation(
        "handlers run in the middle of a call on tensors",
        "src/python/arguments.rs",
        "    if !deferred && !DEFERRED.get() {\n",
        "    if !deferred && (!DEFERRED.get() || py.version_info().major == 3) {\n",
        (TORCH_MEMORY + "a_handler_may_take_the_memory_of_a_tensor_in_any_call",),
        modules=("torch",),
    ),
    Mutation(
        "Ctrl-C waits for the end of a call on tensors",
        "src/python/arguments.rs",
        "        return Err(PyKeyboardInterrupt::new_err(()));\n",
        "        unsafe { ffi::PyErr_SetInterrupt() };\n",
        (TORCH_MEMORY + "ctrl_c_stops_a_call_and_a_handler_of_it_runs_afterwards",),
        modules=("torch",),
    ),
    Mutation(
        "the number of a call is taken after its work",
        "python/fastdrop/_base/layers.py",
        "            return _forward(member.operation, inputs, out, keys, p, shared)\n",
        "            key = keys.key.fold_in(keys.state[0])\n"
        "            done = _forward(member.operation, inputs, out, key, p, shared)\n"
        "            keys.take()\n"
        "            return done\n",
        (THREADS + "32_threads_neither_share_nor_skip_a_call[600000]",),
    ),
    Mutation(
        "refused threads are an error",
        "src/threads/pool.rs",
        "                .ok()?;",
        '                .expect("threads");',
        (THREADS + "refused_threads_change_no_bit",),
    ),
    Mutation(
        "helpers stay on the CPUs where they started",
        "src/threads/pool.rs",
        "        self.cpus.take();\n",
        "        let _ = &self.cpus;\n",
        (THREADS + "helpers_stay_on_the_cpus_of_the_call",),
    ),
    Mutation(
        "CPUs that the process must not use are counted",
        "src/threads/mod.rs",
        "std::thread::available_parallelism().map_or(1, usize::from)",
        "64",
        (THREADS + "at_first_there_are_as_many_threads_as_cpus_to_run_on",),
    ),
    Mutation(
        "pools of former settings are kept",
        "src/threads/pool.rs",
        "            let (_, new) = pool.insert(",
        "            std::mem::forget(pool.take());\n            let (_, new) = pool.insert(",
        (THREADS + "the_number_of_threads_stays_bounded",),
    ),
    Mutation(
        "Python code runs below Rust",
        "src/python/arrays.rs",
        "    let mut shape: Steps = shape.iter().map(|len| *len as isize).collect();\n",
        '    let _ = py.import("time")?.call_method1("sleep", (0,))?;\n'
        "    let mut shape: Steps = shape.iter().map(|len| *len as isize).collect();\n",
        (THREADS + "daemon_threads_in_any_entry_point_do_not_abort_the_end",),
    ),
    Mutation(
        "a rectifier scales what it drops",
        "src/kernel/formula.rs",
        "if a <= zero { zero } else { x * scale }, zero;",
        "if a <= zero { zero } else { x * scale }, x * zero;",
        (THREADS + "the_soak_compares_calls_of_all_kinds",),
    ),
    Mutation(
        "each tile of weights begins with the mask of the first key",
        "src/attention/tiles.rs",
        "self.origin.wrapping_add(first_key as u64)",
        "self.origin",
        (ATTENTION + "results_and_gradients_are_those_of_stored_weights",),
    ),
    Mutation(
        "a larger score leaves what was added before as it is",
        "src/attention/softmax.rs",
        "if !self.first && before != after {",
        "if self.first && before != after {",
        (ATTENTION + "large_scores_do_not_overflow",),
    ),
    Mutation(
        "the largest score is that of the first keys",
        "src/attention/softmax.rs",
        "self.running.maxima[row] = after;",
        "self.running.maxima[row] = if self.first { after } else { before };",
        (ATTENTION + "large_scores_do_not_overflow",),
    ),
    Mutation(
        "a causal mask hides a query's own key",
        "src/attention/tiles.rs",
        "queries.start as isize + offset + 1 - keys.start as isize",
        "queries.start as isize + offset - keys.start as isize",
        (ATTENTION + "results_and_gradients_are_those_of_stored_weights",),
    ),
    Mutation(
        "a power of 2 leads out of the NaNs",
        "src/attention/softmax.rs",
        "simd.fused(x, simd.splat_float(R::default()), simd.scaled_by_power(y, rounded))",
        "simd.scaled_by_power(y, rounded)",
        (ATTENTION + "no_bits_of_a_nan_lead_out_of_it",),
    ),
    Mutation(
        "the first gradient of queries is added to what memory held",
        "src/attention/backward.rs",
        "adds: part > 0",
        "adds: true",
        (ATTENTION + "results_and_gradients_are_those_of_stored_weights",),
    ),
    Mutation(
        "the gradient of queries is rounded after each part of the keys",
        "src/attention/backward.rs",
        "gradients.query.format.element != R::ELEMENT",
        "false",
        (ATTENTION + "half_precision_is_computed_in_float32_and_rounded_once",),
    ),
    Mutation(
        "dropped weights of NaN are NaN",
        "src/attention/forward.rs",
        "if self.kept[at] == 0 || sum == R::default() {",
        "if sum == R::default() {",
        (ATTENTION + "a_row_of_nan_is_nan_unless_all_its_weights_are_dropped",),
    ),
    Mutation(
        "gradients of gradients of attention drop nothing",
        "python/fastdrop/torch/_attention.py",
        "return lambda weights: by_operator(how, words, region, (weights,))",
        "return lambda weights: weights * 1.0",
        (TORCH_ATTENTION + "gradients_of_every_order_and_direction",),
        modules=("torch",),
    ),
    Mutation(
        "a compiled part of attention draws the mask of the first",
        "python/fastdrop/torch/_operator.py",
        "make_mask(whole, p, key_of(words)).region(start, shape)",
        "make_mask(shape, p, key_of(words))",
        (TORCH_ATTENTION + "a_part_draws_its_part_of_the_whole",),
        modules=("torch",),
    ),
    Mutation(
        "a report trains a scripted model",
        "python/fastdrop/torch/_report.py",
        "        yield copy.deepcopy(model)\n",
        "        yield model\n",
        (REPORT + "scripted_modules_are_reported_and_stay_as_they_are[True]",),
        modules=("torch",),
    ),
    Mutation(
        "ranks of a sharded model take steps as they have time",
        "python/fastdrop/torch/_report.py",
        "    if _is_sharded(model):\n",
        "    if False:\n",
        (REPORT + "ranks_of_a_sharded_model_take_the_same_number_of_steps",),
        modules=("torch",),
    ),
    Mutation(
        "a thread uninstalls what another one installs",
        "python/fastdrop/torch/_install.py",
        "    with _lock:\n        if _installed is None:\n",
        "    if True:\n        if _installed is None:\n",
        (TORCH_INSTALL + "threads_may_install_and_uninstall_at_once",),
        modules=("torch",),
    ),
    Mutation(
        "a block of one thread ends those of others",
        "python/fastdrop/torch/_install.py",
        "if place < len(_blocks):",
        "if False:",
        (TORCH_INSTALL + "the_last_of_overlapping_blocks_restores_what_was_installed",),
        modules=("torch",),
    ),
    Mutation(
        "a forked child waits for a thread of its parent that installs",
        "python/fastdrop/torch/_install.py",
        'if hasattr(os, "register_at_fork"):',
        "if False:",
        (TORCH_PROCESSES + "a_forked_child_does_not_wait_for_threads_it_lacks[before]",),
        modules=("torch",),
    ),
    Mutation(
        "exponential numbers of an infinite rate are not 0",
        "src/stream/number.rs",
        "            _ if rate == f64::INFINITY => 0.0,\n",
        "",
        (TORCH_RANDOM + "bounds_hold_in_every_dtype",),
        modules=("torch",),
    ),
    Mutation(
        "normal numbers of two shapes have an error of their own",
        "python/fastdrop/torch/_random.py",
        "torch.broadcast_tensors(*tensors)[0].shape",
        "torch.broadcast_shapes(*(x.shape for x in tensors))",
        (TORCH_RANDOM + "errors_are_torchs_and_draw_nothing[Python-shapes of normal]",),
        modules=("torch",),
    ),
    Mutation(
        "installed attention has no weights for who asks",
        "python/fastdrop/torch/_install.py",
        'return frame.f_locals["self"] in (packet, packet.default)',
        "return False",
        (TORCH_ATTENTION + "weights_are_there_for_a_program_that_asks_torch_for_them",),
        modules=("torch",),
    ),
    Mutation(
        "installed attention takes keys and values of different heads",
        "python/fastdrop/torch/_install.py",
        "    if grouped and value.shape[-3] != key.shape[-3]:\n        return False\n",
        "",
        (TORCH_ATTENTION + "keys_and_values_may_have_different_numbers_of_heads",),
        modules=("torch",),
    ),
    Mutation(
        "models of transformers lose their position bias",
        "python/fastdrop/torch/transformers.py",
        "_both(attention_mask, position_bias)",
        "_both(attention_mask, None)",
        (TRANSFORMERS + "models_compute_what_they_do_with_eager_attention",),
        modules=("torch", "transformers"),
    ),
    Mutation(
        "models of transformers get masks that they add to scores",
        "python/fastdrop/torch/transformers.py",
        "                    return False\n",
        "                    return True\n",
        (TRANSFORMERS + "models_that_do_not_choose_attention_by_name_refuse_it",),
        modules=("torch", "transformers"),
    ),
    Mutation(
        "models of transformers see what is to come",
        "python/fastdrop/torch/transformers.py",
        "    if attention_mask is None and query.shape[2] > 1:\n",
        "    if attention_mask is not None and query.shape[2] > 1:\n",
        (TRANSFORMERS + "models_compute_what_they_do_with_eager_attention",),
        modules=("torch", "transformers"),
    ),
    Mutation(
        "installed attention takes over evaluation under transforms",
        "python/fastdrop/torch/_install.py",
        "dropout_p > 0.0 or _with_attention()",
        "True",
        (TORCH_ATTENTION + "installed_attention_under_vmap_is_the_function[same]",),
        modules=("torch",),
    ),
    Mutation(
        "a compiled result has other strides than an eager one",
        "python/fastdrop/torch/_attention.py",
        "torch.empty_strided(*layout, dtype",
        "torch.empty(layout[0], dtype",
        (TORCH_ATTENTION + "operators_are_what_torch_asks_of_them",),
        modules=("torch",),
    ),
    Mutation(
        "a request is met by any call",
        "src/python/native/mod.rs",
        ".filter(|x| x.first == first)",
        "",
        (TORCH_NATIVE + "native_dropout_called_by_others_returns_a_mask",),
        modules=("torch",),
    ),
    Mutation(
        "a tangent is multiplied by a receipt",
        "src/python/native/torch.rs",
        "*(self.tangent)(implementation(tensor), 0, tensor) ==",
        "self.undefined as *const c_void ==",
        (TORCH_NATIVE + "only_calls_that_something_watches_run_python[forward mode]",),
        modules=("torch",),
    ),
    Mutation(
        "hooks of a tensor stay with a call before the one in place",
        "src/python/native/torch.rs",
        "first == end && ",
        "(first == end || true) && ",
        (TORCH_NATIVE + "only_calls_that_something_watches_run_python[hook in place]",),
        modules=("torch",),
    ),
    Mutation(
        "a call in place is no change",
        "src/python/native/mod.rs",
        "(torch.count_change)(handle);",
        "let _ = torch.count_change;",
        (TORCH_NATIVE + "a_result_saved_before_a_call_in_place_is_missed",),
        modules=("torch",),
    ),
    Mutation(
        "a mode does not see a call",
        "src/python/native/torch.rs",
        "            !(self.has_modes)()\n",
        "            true\n",
        (TORCH_NATIVE + "only_calls_that_something_watches_run_python[dispatch mode]",),
        modules=("torch",),
    ),
    Mutation(
        "a gradient of a gradient takes a receipt for a mask",
        "src/python/native/mod.rs",
        '(c"AutogradCPU", &[(c"type_as", type_as)])',
        '(c"AutogradCPU", &[])',
        (TORCH_NATIVE + "gradients_of_every_order_and_direction",),
        modules=("torch",),
    ),
    Mutation(
        "uninstall takes the gradients of earlier calls along",
        "src/python/native/mod.rs",
        "&REGISTERED[..CALLS]",
        "&REGISTERED",
        (TORCH_NATIVE + "a_graph_outlives_uninstall",),
        modules=("torch",),
    ),
    Mutation(
        "elements of a row of channels last lie in C order",
        "src/python/native/torch.rs",
        "order.swap(before, at);",
        "let _ = at;",
        (TORCH_NATIVE + "both_paths_give_the_same_bits_in_the_same_layout[dropout]",),
        modules=("torch",),
    ),
    Mutation(
        "Ctrl-C is heard at the end of a call",
        "src/threads/batches.rs",
        "        if interrupt() {\n",
        "            if units == 0 && interrupt() {\n",
        (INTERRUPTS + "ctrl_c_stops_a_call_on_gigabytes[plain]",),
    ),
    Mutation(
        "all block masks are made in one step",
        "python/fastdrop/_family/blocks.py",
        "CHUNK = 1 << 20\n",
        "CHUNK = 1 << 62\n",
        ("tests/test_memory.py::test_a_block_mask_takes_no_more_memory_than_itself_and_its_seeds",),
    ),
    Mutation(
        "what a handler raises becomes KeyboardInterrupt",
        "src/python/arguments.rs",
        "(_, Some(error)) => Err(*error),",
        "(_, Some(_)) => Err(PyKeyboardInterrupt::new_err(())),",
        (INTERRUPTS + "a_handler_may_call_or_raise[raises]",),
    ),
    Mutation(
        "an interrupted call counts",
        "src/python/plan.rs",
        "        keys.undo(taken);\n",
        "        let _ = (keys, taken);\n",
        (INTERRUPTS + "a_handler_may_call_or_raise[raises]",),
    ),
    Mutation(
        "one call at a time",
        "src/threads/batches.rs",
        "    let mut first = 0;\n",
        "    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());\n"
        "    let _one = ONE.lock();\n"
        "    let mut first = 0;\n",
        (INTERRUPTS + "a_handler_may_call_or_raise[calls]",),
    ),
    Mutation(
        "a call needs memory for all threads of the setting",
        "src/driver.rs",
        "!has_memory(threads.min(total.div_ceil(sizes.unit)) * SCRATCH) {\n",
        "!has_memory(threads * SCRATCH) {\n",
        (MEMORY + "a_call_needs_memory_for_the_threads_that_run_not_for_the_setting",),
    ),
    Mutation(
        "a shape takes memory before its length is looked at",
        "src/python/mask.rs",
        "    if lengths.len() > MOST_AXES {\n",
        "    if lengths.len() == usize::MAX {\n",
        (MEMORY + "a_long_argument_of_the_core_is_refused_before_it_takes_memory",),
    ),
    Mutation(
        "threads start whether or not there is memory",
        "src/threads/pool.rs",
        "        _ if !has_room(threads) => None,\n",
        "",
        (MEMORY + "no_limit_of_memory_aborts_any_call[kept]",),
    ),
    Mutation(
        "every call loses a reference to its result",
        "src/python/calls.rs",
        "    Ok(target.owner.clone())\n",
        "    std::mem::forget(target.owner.clone());\n    Ok(target.owner.clone())\n",
        (MEMORY + "calls_leave_nothing_behind",),
    ),
    Mutation(
        "a layer keeps the plan of a call and the inputs of another",
        "python/fastdrop/_base/layers.py",
        "        self._last.plan_and_inputs = plan, kept\n",
        "        self._last.plan_and_inputs = plan, self._last.plan_and_inputs[1]\n"
        "        self._last.plan_and_inputs = self._last.plan_and_inputs[0], kept\n",
        (
            "tests/test_layers.py"
            "::test_a_handler_that_calls_the_layer_in_any_step_of_a_call_leaves_one_of_both",
        ),
    ),
    Mutation(
        "a layer keeps the plans of all its calls",
        "python/fastdrop/_base/layers.py",
        "            y, plan = self._train(inputs, out, self._keys, False)\n        else:\n",
        "            y, plan = self._train(inputs, out, self._keys, False)\n"
        '            vars(self).setdefault("_plans", []).append(self._last.plan)\n'
        "        else:\n",
        (MEMORY + "calls_leave_nothing_behind",),
    ),
    Mutation(
        "an output that overlaps itself is written by all threads",
        "src/python/calls.rs",
        "limits::limited(1, copy)?;",
        "copy()?;",
        (
            "tests/test_walk.py"
            "::test_out_that_overlaps_itself_is_the_same_for_every_number_of_threads",
        ),
    ),
    Mutation(
        "an input that overlaps the output is read after it was written",
        "src/python/calls.rs",
        "if if input.is_same(target) { !direct } else { input.may_overlap(target) } {",
        "if input.is_same(target) && !direct {",
        ("tests/test_driver.py::test_out_may_lie_anywhere_in_the_memory_of_x",),
    ),
    Mutation(
        "a mask that took another shape is read beyond its end",
        "src/python/calls.rs",
        "    check_broadcast(&view.shape.iter().map(|len| *len as u64).collect::<Dims>(), "
        "shape)?;\n"
        "    Ok(view)\n",
        "    Ok(view)\n",
        ("tests/test_walk.py::test_a_mask_that_took_another_shape_is_refused",),
    ),
    Mutation(
        "a refused p stays",
        "python/fastdrop/_base/layers.py",
        "        self._p = probability(p)\n",
        "        self._p = p\n",
        ("tests/test_fuzz.py::TestTraining",),
    ),
    Mutation(
        "a hold counts as a call though none came",
        "src/python/key.rs",
        "saturating_add(u64::from(state.used))",
        "saturating_add(1)",
        ("tests/test_fuzz.py::TestTraining",),
    ),
    Mutation(
        "weights without end are taken",
        "python/fastdrop/_base/arguments.py",
        "    if len(arrays) > MOST_ARRAYS:\n",
        "    if len(arrays) > 2 * MOST_ARRAYS:\n",
        ("tests/test_fuzz.py::test_endless_weights_are_refused",),
    ),
    Mutation(
        "standard mode scales where nothing seems left to decide",
        "src/python/plan.rs",
        ' && mode.is(intern!(py, "inverted"))',
        "",
        ("tests/test_dropout.py::test_every_dtype_matches_the_reference",),
    ),
    Mutation(
        "a list of arrays is taken for several inputs",
        "src/python/plan.rs",
        "Ok(several) if formula.inputs() > 1 && several",
        "Ok(several) if several",
        ("tests/test_dropout.py::test_lists_and_scalars_are_taken_as_arrays",),
    ),
    Mutation(
        "a call that is refused has written its output",
        "python/fastdrop/_base/plans.py",
        "    target = None if out is None else as_out(out)\n    keep: Any\n",
        "    target = None if out is None else as_out(out)\n    keep: Any\n"
        "    if target is not None:\n        target.fill(0)\n",
        (FUZZ + "a_function_answers_or_refuses_and_touches_nothing",),
    ),
    Mutation(
        "a pickled layer is of any stream",
        "python/fastdrop/_base/states.py",
        'hasattr(stream, "__index__") or operator.index(stream) != STREAM_VERSION:',
        'hasattr(stream, "__index__") and stream is not None:',
        (STATE + "a_pickle_of_another_stream_is_refused",),
    ),
    Mutation(
        "a free-threaded interpreter loads a module of the stable ABI",
        "python/fastdrop/__init__.py",
        'str(_found.origin).endswith(".abi3.so"):',
        'str(_found.origin).endswith(".abi4.so"):',
        (
            "tests/test_config.py"
            "::test_a_free_threaded_interpreter_refuses_a_module_of_the_stable_abi",
        ),
    ),
    Mutation(
        "threadpoolctl does not learn of the threads when it is imported later",
        "python/fastdrop/_config.py",
        "                _register(module)\n",
        "                pass\n",
        ("tests/test_config.py::test_a_later_import_of_threadpoolctl_finds_the_threads",),
    ),
    Mutation(
        "the package imports numpy.random",
        "python/fastdrop/_config.py",
        "from fastdrop import _core\n",
        "import numpy.random\nfrom fastdrop import _core\n",
        ("tests/test_config.py::test_import_takes_few_modules_beyond_numpy",),
    ),
    Mutation(
        "a pickle names the file of a class",
        "python/fastdrop/_base/masks.py",
        '        thing.__module__ = "fastdrop"\n',
        "        pass\n",
        ("tests/test_config.py::test_names_that_are_imported_later_are_public",),
    ),
    Mutation(
        "a layer has no attributes while they are restored",
        "python/fastdrop/_base/layers.py",
        "    vars(thing).update(before)\n",
        "    vars(thing).clear()\n    vars(thing).update(before)\n",
        ("tests/test_monte_carlo.py::test_ctrl_c_at_any_step_leaves_layers_that_work",),
    ),
    Mutation(
        "a pickled recipe is taken as it is",
        "python/fastdrop/_base/states.py",
        "        new.__post_init__()  # type: ignore[attr-defined]\n",
        "",
        (STATE + "an_edited_pickle_of_a_recipe_is_read_as_the_constructor_would",),
    ),
    Mutation(
        "the options of a pickled layer are taken as they are",
        "python/fastdrop/_base/layers.py",
        "own.update(ours._checked(own), ",
        "own.update(",
        (STATE + "an_edited_pickle_of_a_layer_is_refused_or_works",),
    ),
    Mutation(
        "a pickled layer may release what was not held",
        "python/fastdrop/_base/states.py",
        'as_flag(held_call, "held_call of a state") and is_held',
        'as_flag(held_call, "held_call of a state")',
        (STATE + "a_call_that_no_hold_counted_is_not_read_from_a_pickle",),
    ),
    Mutation(
        "a pickled PSchedule is taken as it is",
        "python/fastdrop/schedules.py",
        "        self._set(*fields)\n",
        "        self.layers, self.schedule, self.factors, self._steps = fields\n"
        "        self._layers = self.layers\n",
        (STATE + "an_edited_pickle_of_a_schedule_or_a_run_is_refused_or_works",),
    ),
    Mutation(
        "layers without end are taken",
        "python/fastdrop/_base/layers.py",
        "    if len(several) > MOST_ARRAYS:\n",
        "    if len(several) > 2 * MOST_ARRAYS:\n",
        (STATE + "endless_layers_factors_and_states_are_refused",),
    ),
    Mutation(
        "states without end are taken",
        "python/fastdrop/_base/states.py",
        "    if len(names) > MOST_ENTRIES:\n",
        "    if len(names) > 2 * MOST_ENTRIES:\n",
        (STATE + "endless_layers_factors_and_states_are_refused",),
    ),
    Mutation(
        "a saved state forgets how many calls there were",
        "python/fastdrop/_base/layers.py",
        '            "calls": calls,\n',
        '            "calls": 0,\n',
        (STATE + "training_resumes_in_another_process_on_another_machine[state]",),
    ),
    Mutation(
        "a state with more entries is loaded",
        "python/fastdrop/_base/states.py",
        "    if others:\n        unknown",
        "    if not _ENTRIES:\n        unknown",
        (STATE + "a_state_with_a_wrong_entry_changes_nothing",),
    ),
    Mutation(
        "a quick run of an example passes for a full one",
        "examples/removal.py",
        "    study.too_short(options)\n",
        "",
        ("tests/test_examples.py::test_only_a_quick_run_says_that_it_is_too_short",),
        ("mlxtend", "scipy", "sklearn", "matplotlib", "rich"),
    ),
    Mutation(
        "zoneout passes the whole gradient to the previous state",
        "python/fastdrop/torch/_call.py",
        '            return self._replace(operation="complement")\n',
        "            return None\n",
        (TORCH_MEMBERS + "gradients_are_those_of_finite_differences",),
        ("torch",),
    ),
    Mutation(
        "the logit of concrete dropout gets the gradient of the input",
        "python/fastdrop/torch/_autograd.py",
        "    call = _steeper(how)._replace(dtype=wide)\n",
        "    call = how._replace(dtype=wide)\n",
        (TORCH_MEMBERS + "gradients_are_those_of_finite_differences",),
        ("torch",),
    ),
    Mutation(
        "a connection's gradient takes the other tensor",
        "python/fastdrop/_family/connect.py",
        '    "inputs": (("outputs", "dy", "second"), ("weights", "first", "dy")),\n',
        '    "inputs": (("outputs", "dy", "second"), ("weights", "dy", "dy")),\n',
        (TORCH_MEMBERS + "gradients_are_those_of_finite_differences",),
        ("torch",),
    ),
    Mutation(
        "each rank drops weights of its own",
        "python/fastdrop/torch/_models.py",
        '    return None if getattr(module, "_of_weights", False) else share\n',
        "    return share\n",
        (TORCH_MEMBERS + "all_ranks_drop_the_same_weights",),
        ("torch",),
    ),
    Mutation(
        "evaluation in torch scales fused members alone",
        "python/fastdrop/torch/_arguments.py",
        "        if member.fuses or (changes and rate != 0.0):\n",
        "        if member.fuses:\n",
        (TORCH_MEMBERS + "every_option_gives_the_result_and_the_mask_of_arrays",),
        ("torch",),
    ),
    Mutation(
        "blocks in torch take axis 1 for the channels",
        "python/fastdrop/torch/_call.py",
        "tuple(lengths), channel_axis=axis\n",
        "tuple(lengths), channel_axis=1\n",
        (TORCH_MEMBERS + "every_option_gives_the_result_and_the_mask_of_arrays",),
        ("torch",),
    ),
    Mutation(
        "the gradient of concrete dropout's logit forgets the gradient of the result",
        "python/fastdrop/torch/_autograd.py",
        "        return in_core(how, source, (dy, logit, terms)), terms\n",
        "        return in_core(how, source, (dy, logit, terms)), terms / dy\n",
        (TORCH_MEMBERS + "gradients_are_those_of_finite_differences[ConcreteDropout]",),
        ("torch",),
    ),
    Mutation(
        "each rank drops the first connections of a distributed weight",
        "python/fastdrop/torch/_connect.py",
        "    region = whole, list(start), [x.shape[0], *w.shape]\n",
        "    region = whole, [0, 0, 0], [x.shape[0], *w.shape]\n",
        (DISTRIBUTED,),
        ("torch",),
    ),
    Mutation(
        "each rank keeps the tokens of the first sequences",
        "python/fastdrop/torch/_family/patches.py",
        "        positions = positions[rows]\n",
        "        positions = positions[: x.shape[0]]\n",
        (DISTRIBUTED,),
        ("torch",),
    ),
    Mutation(
        "a recurrent module keeps the dropped weights after a call",
        "python/fastdrop/torch/_family/weights.py",
        "        known[name].original if name in known else getattr(self, name, None)\n",
        "        getattr(self, name, None)\n",
        (
            "tests/test_torch_weights.py::test_"
            "a_parametrized_module_draws_once_per_call_and_can_be_copied",
        ),
        ("torch",),
    ),
    Mutation(
        "the table of the family forgets a library",
        "docs/family.md",
        "| `zoneout`, `Zoneout` | `zoneout`, `Zoneout` |",
        "| `zoneout`, `Zoneout` | not there |",
        ("tests/test_docs.py::test_the_table_of_the_family_says_where_each_member_is",),
    ),
    Mutation(
        "devices with masks of their own share a gradient",
        "python/fastdrop/jax/_primitive.py",
        'jax.lax.pcast(operand, tuple(union - kind), to="varying") if kind != union else operand',
        "operand",
        (JAX + "devices_with_keys_of_their_own_draw_other_masks",),
        ("jax",),
    ),
    Mutation(
        "the gradient of a batch of masks is that of one",
        "python/fastdrop/jax/_primitive.py",
        "gradient.sum(repeated, keepdims=True) if repeated else gradient",
        "gradient",
        (JAX + "the_gradient_of_a_batch_of_masks_is_their_sum",),
        ("jax",),
    ),
    Mutation(
        "each shard of an array draws the beginning of the mask",
        "python/fastdrop/jax/_partition.py",
        "index * (max(self.lengths[name]) // parts) if name is not None else 0",
        "0",
        (JAX + "a_compiled_function_of_a_sharded_array_gathers_nothing",),
        ("jax",),
    ),
    Mutation(
        "devices with heads of their own draw the mask of the first",
        "python/fastdrop/jax/_attend.py",
        "_ROWS), _WEIGHTS)",
        "_ROWS), (None,) * 4)",
        (JAX_ATTENTION + "a_compiled_function_of_sharded_arrays_gathers_nothing[4]",),
        ("jax",),
    ),
    Mutation(
        "all tiles of a linear map draw the mask of the first",
        "python/fastdrop/jax/_connect.py",
        "jnp.stack([jnp.asarray(at, np.int32)",
        "jnp.stack([np.int32(0)",
        (JAX_MEMBERS + "connections_of_many_examples_are_those_of_arrays",),
        ("jax",),
    ),
    Mutation(
        "dropped blocks reach one element less",
        "python/fastdrop/jax/_blocks.py",
        "while reach < size:",
        "while reach < size - 1:",
        (JAX_MEMBERS + "results_are_those_of_arrays[DropBlock1d-3]",),
        ("jax",),
    ),
    Mutation(
        "modules of Equinox ignore their options",
        "python/fastdrop/jax/equinox.py",
        "{name: getattr(self, name) for name in self._options}",
        "{}",
        (JAX_MEMBERS + "modules_of_equinox_call_their_function[LockedDropout-1]",),
        ("jax", "equinox"),
    ),
    Mutation(
        "the gradient of a logit is the value",
        "python/fastdrop/jax/_relaxed.py",
        "k, k * (p - z / options[3])",
        "k, k * 1.0",
        (JAX_MEMBERS + "the_gradient_of_a_logit_is_that_of_arrays",),
        ("jax",),
    ),
    Mutation(
        "a causal mask of a shard begins at the shard's first query",
        "src/python/xla/attention.rs",
        "self.is_causal.then(|| query_start.wrapping_sub(key_start) as isize)",
        "self.is_causal.then_some(0)",
        (JAX_ATTENTION + "shards_compute_their_part_of_the_whole[batch and queries]",),
        ("jax",),
    ),
    Mutation(
        "the gradient of a bias is added to what memory held",
        "src/python/xla/attention.rs",
        "            gradient.clear(&place);\n",
        "",
        (JAX_ATTENTION + "results_and_gradients_have_the_bits_of_numpy",),
        ("jax",),
    ),
    Mutation(
        "tangents of attention drop no weights",
        "python/fastdrop/jax/_attend.py",
        "elif p != 0.0:",
        "elif p is None:",
        (JAX_ATTENTION + "derivatives_are_those_of_stored_weights",),
        ("jax",),
    ),
    Mutation(
        "tangents of attention come in a batch only if inputs do",
        "python/fastdrop/jax/_attend.py",
        "jnp.broadcast_arrays(*pair) for pair in zip(",
        "pair for pair in zip(",
        (JAX_ATTENTION + "jacobians_in_both_directions_agree",),
        ("jax",),
    ),
    Mutation(
        "queries beyond the end of their sequence have a result",
        "python/fastdrop/jax/_attention.py",
        "jnp.where(valid[..., None], y, 0)",
        "y",
        (JAX_ATTENTION + "without_dropout_each_option_is_that_of_jax",),
        ("jax",),
    ),
    Mutation(
        "fusing ignores the hooks of an activation",
        "python/fastdrop/torch/_fused.py",
        "    if _is_observed(activation):\n",
        "    if activation is None:\n",
        (TORCH_FUSE + "hooks_see_what_they_saw",),
        ("torch",),
    ),
    Mutation(
        "fusing leaves alone what an activation changes in place",
        "python/fastdrop/torch/_fused.py",
        "type(before) not in _PRODUCERS or",
        "before is None or",
        (TORCH_FUSE + "an_activation_in_place_changes_what_others_hold",),
        ("torch",),
    ),
    Mutation(
        "compiled models are not fused",
        "python/fastdrop/torch/_fused.py",
        'getattr(forward, "func", None) is not _forward',
        "not isinstance(forward, _Replaced)",
        (TORCH_FUSE + "compiled_models_are_fused_and_draw_the_same_masks[mlp-1]",),
        ("torch",),
    ),
    Mutation(
        "a fused residual belongs to one Monte Carlo sample",
        "python/fastdrop/torch/_fused.py",
        "and keys is not None and keys.parts is not None:",
        "and keys is not None and keys.parts is keys:",
        (TORCH_FUSE + "monte_carlo_samples_are_those_of_the_modules",),
        ("torch",),
    ),
    Mutation(
        "a fused encoder leaves torch's fast path",
        "python/fastdrop/torch/_fused.py",
        "    if not layer.training or has_own_blocks(layer):\n"
        "        return type(layer).forward(layer, src,",
        "    if has_own_blocks(layer):\n        return type(layer).forward(layer, src,",
        (TORCH_FUSE + "torchs_fast_path_computes_a_fused_encoder",),
        ("torch",),
    ),
    Mutation(
        "fused code forgets that a variable is used again",
        "python/fastdrop/torch/_rewrite.py",
        "if not (ends or self._loads.count(name) == 1):",
        "if not name:",
        (TORCH_FUSE + "code_is_left_alone_where_fusion_would_change_what_it_does",),
        ("torch",),
    ),
    Mutation(
        "fused code draws in another order",
        "python/fastdrop/torch/_rewrite.py",
        "((after or known) and not is_simple(other))",
        "(known and after)",
        (TORCH_FUSE + "code_is_left_alone_where_fusion_would_change_what_it_does",),
        ("torch",),
    ),
    Mutation(
        "fused code forgets augmented assignments",
        "python/fastdrop/torch/_rewrite.py",
        "if isinstance(node, ast.AugAssign)",
        "if isinstance(node, ast.Global)",
        (TORCH_FUSE + "code_is_left_alone_where_fusion_would_change_what_it_does",),
        ("torch",),
    ),
    Mutation(
        "fused code forgets who reads a variable after an exception",
        "python/fastdrop/torch/_rewrite.py",
        "inside = joins and not isinstance(statement, catches)",
        "inside = joins or isinstance(statement, catches)",
        (TORCH_FUSE + "code_is_left_alone_where_fusion_would_change_what_it_does",),
        ("torch",),
    ),
    Mutation(
        "fused code is not that of its class",
        "python/fastdrop/torch/_rewrite.py",
        "    if not _same(_compiled(",
        "    if not (_compiled(",
        (TORCH_FUSE + "code_that_cannot_be_rewritten_is_left_alone_with_a_reason",),
        ("torch",),
    ),
    Mutation(
        "a fused sum has another layout",
        "python/fastdrop/torch/_fused.py",
        "x.shape == residual.shape and x.stride() == residual.stride()",
        "x.shape == residual.shape",
        (TORCH_FUSE + "code_is_left_alone_where_fusion_would_change_what_it_does",),
        ("torch",),
    ),
    Mutation(
        "fusing makes calls on small tensors slower",
        "python/fastdrop/torch/_fused.py",
        "not native.ready or x.numel() >= LEAST",
        "x.numel() >= 0",
        (TORCH_FUSE + "small_tensors_are_fused_only_where_it_is_faster",),
        ("torch",),
    ),
    Mutation(
        "fused code outlives that of its class",
        "python/fastdrop/torch/_fuse.py",
        "rewritten if type(module).forward is original else",
        "rewritten if original else",
        (TORCH_FUSE + "new_code_of_a_class_replaces_fused_code",),
        ("torch",),
    ),
    Mutation(
        "tanh cancels near 0",
        "src/kernel/activation.rs",
        "let t = exp_m1(x + x);",
        "let t = exp(x + x) - R::from_f64(1.0);",
        ("tests/test_fused.py::test_named_activations_are_accurate_to_a_few_units",),
    ),
    Mutation(
        "evaluation forgets the parameter of an activation",
        "python/fastdrop/_base/plans.py",
        "scale if member.numbers is scaled else",
        "scale if member.fuses else",
        ("tests/test_fused.py::test_evaluation_knows_the_parameter_of_an_activation",),
    ),
    Mutation(
        "evaluation in torch forgets the parameter of an activation",
        "python/fastdrop/torch/_arguments.py",
        "    return How(member.operation, 0.0, (), Numbers(scale, shift))",
        "    return How(member.operation, 0.0, (), Numbers(scale))",
        (
            "tests/test_torch_functional.py::test_activations_and_slopes_are_those_of_torch_also_at_"
            "corners_and_far_out",
        ),
        ("torch",),
    ),
    Mutation(
        "rounding reaches the upper bound",
        "src/stream/number.rs",
        "most: below.max(from)",
        "most: to",
        (TORCH_RANDOM + "bounds_hold_in_every_dtype",),
        modules=("torch",),
    ),
    Mutation(
        "exponential numbers round to 0",
        "src/stream/number.rs",
        "            Element::F16 => 2f64.powi(-24),\n",
        "            Element::F16 => 2f64.powi(-60),\n",
        (TORCH_RANDOM + "bounds_hold_in_every_dtype",),
        modules=("torch",),
    ),
    Mutation(
        "numbers of four groups have one index",
        "src/stream/number.rs",
        "        let first = first.wrapping_add((TOGETHER * at) as u64);\n        let is_uniform",
        "        let is_uniform",
        (TORCH_RANDOM + "numbers_are_those_of_the_key",),
        modules=("torch",),
    ),
    Mutation(
        "probabilities are compared by their upper digits",
        "src/kernel/flags.rs",
        "u64::BITS - 1 - DIGITS",
        "u64::BITS - 2 - DIGITS",
        (TORCH_RANDOM + "each_probability_is_compared_with_its_elements_uniform",),
        modules=("torch",),
    ),
    Mutation(
        "native kernels ignore generators",
        "src/python/native/random.rs",
        "let (own, generator) = (*stack as Handle, *stack.add(N - 1));",
        "let (own, generator) = (*stack as Handle, 0);",
        (TORCH_RANDOM + "generators_advance_and_repeat",),
        modules=("torch",),
    ),
    Mutation(
        "a bad number is found after the key is drawn",
        "python/fastdrop/torch/_random.py",
        "    _core.check_numbers(name, *numbers, target)\n",
        "    key = draw_key(generator)\n    _core.check_numbers(name, *numbers, target)\n",
        (TORCH_RANDOM + "errors_are_torchs_and_draw_nothing",),
        modules=("torch",),
    ),
    Mutation(
        "bits overwrite probabilities yet to be read",
        "python/fastdrop/torch/_random.py",
        "        p = p.clone()\n",
        "        pass\n",
        (TORCH_RANDOM + "bits_may_replace_their_probabilities",),
        modules=("torch",),
    ),
    Mutation(
        "native random kernels outlive uninstall",
        "python/fastdrop/torch/_random.py",
        "    _core.native_random(False)\n",
        "    pass\n",
        (TORCH_RANDOM + "uninstalling_restores_torchs_numbers",),
        modules=("torch",),
    ),
    Mutation(
        "a copy of a bit generator spawns the children of the original again",
        "python/fastdrop/_family/bits.py",
        "own.spawn(seeds.n_children_spawned)",
        "own.spawn(0)",
        ("tests/test_bits.py::test_children_differ_and_follow_from_the_key",),
    ),
    Mutation(
        "compiled code fuses over a change in place",
        "python/fastdrop/torch/_compiled.py",
        "        if not isinstance(number, (int, float, torch.SymInt, torch.SymFloat)):\n",
        "        if node.op == 'root':\n",
        (TORCH_COMPILED + "what_is_no_pair_stays_as_it_is[changed before dropout]",),
        ("torch",),
    ),
    Mutation(
        "compiled code leaves alone what an activation changes in place",
        "python/fastdrop/torch/_compiled.py",
        "(x.target in _PRODUCERS and len(x.users) == 1)",
        "x.target in _PRODUCERS",
        (TORCH_COMPILED + "what_is_no_pair_stays_as_it_is[a layer's result changed in place]",),
        ("torch",),
    ),
    Mutation(
        "compiled code calls operators by torch's dispatcher",
        "python/fastdrop/torch/_direct.py",
        'if node.get_device().type == "cpu":',
        'if node.get_device().type == "meta":',
        (TORCH_COMPILED + "compiled_code_calls_kernels_without_the_dispatcher",),
        ("torch",),
    ),
    Mutation(
        "compiled code draws shared decisions again for the gradient",
        "python/fastdrop/torch/_dispatch.py",
        "    if is_plain_mask and torch.compiler.is_compiling():",
        "    if is_plain_mask and torch.compiler.is_exporting():",
        (TORCH_COMPILED + "compiled_code_draws_shared_decisions_once_and_each_once",),
        ("torch",),
    ),
    Mutation(
        "a fused sum has the layout of the residual",
        "python/fastdrop/torch/_compiled.py",
        "zip((*one.shape, *one.stride()), (*other.shape, *other.stride()), strict=True)",
        "zip(one.shape, other.shape, strict=True)",
        (TORCH_COMPILED + "what_is_no_pair_stays_as_it_is[another layout]",),
        ("torch",),
    ),
    Mutation(
        "compiled code forgets the user's passes",
        "python/fastdrop/torch/_compiled.py",
        "        for each in self._all():\n",
        "        for each in ():\n",
        (TORCH_COMPILED + "passes_of_the_user_run_and_ours_too",),
        ("torch",),
    ),
    Mutation(
        "uninstalling leaves fused code",
        "python/fastdrop/torch/_install.py",
        "        remove_pass()\n",
        "",
        (TORCH_COMPILED + "passes_of_the_user_run_and_ours_too",),
        ("torch",),
    ),
    Mutation(
        "the gradient of traced ReLU passes at 0",
        "python/fastdrop/torch/_autograd.py",
        "torch.where(x <= 0, 0.0,",
        "torch.where(x < 0, 0.0,",
        (TORCH_COMPILED + "neighbours_are_fused_with_the_masks_of_eager_mode[functions]",),
        ("torch",),
    ),
    Mutation(
        "importing torch imports fastdrop unasked",
        "python/_fastdrop_autoload/__init__.py",
        'not in ("", "0")',
        'not in ("",)',
        (TORCH_PROCESSES + "importing_torch_imports_nothing_of_fastdrop_unless_asked",),
        modules=("torch",),
    ),
    Mutation(
        "the runner keeps its choice to itself",
        "python/fastdrop/torch/__main__.py",
        "    os.environ[VARIABLE] = ",
        "    _ = ",
        (TORCH_PROCESSES + "a_program_and_its_workers_run_with_fastdrop",),
        modules=("torch", "joblib"),
    ),
    Mutation(
        "a word that is not known is not read",
        "python/fastdrop/torch/_install.py",
        '    if not words <= {"1", *options}:\n',
        "    if not words:\n",
        (TORCH_PROCESSES + "a_wrong_value_in_the_environment_is_named_in_a_sentence",),
        modules=("torch",),
    ),
    Mutation(
        "a report runs with the model's own buffers",
        "python/fastdrop/torch/_report.py",
        "copies.setdefault(id(x), x.detach().clone())",
        "x",
        (REPORT + "a_report_leaves_everything_as_it_was",),
        modules=("torch",),
    ),
    Mutation(
        "a report counts its calls with a module's keys",
        "python/fastdrop/torch/_report.py",
        "                vars(module).pop(KEYS, None)\n",
        "",
        (REPORT + "a_report_leaves_everything_as_it_was",),
        modules=("torch",),
    ),
    Mutation(
        "the step without dropout drops paths",
        "python/fastdrop/torch/_report.py",
        '0.0 if case == "no_dropout" else p',
        "p",
        (REPORT + "a_step_is_timed_with_each_dropout_and_without_any",),
        modules=("torch",),
    ),
    Mutation(
        "a message repeats a long argument",
        "python/fastdrop/_base/arguments.py",
        "must be True or False, got {shown(value)}",
        "must be True or False, got {value!r}",
        ("tests/test_arguments.py::test_long_arguments_are_cut_in_messages",),
    ),
    Mutation(
        "a p that is no number gets Python's error in PyTorch",
        "python/fastdrop/torch/_arguments.py",
        '    except TypeError:\n        raise TypeError(f"{prefix}p',
        '    except ZeroDivisionError:\n        raise TypeError(f"{prefix}p',
        ("tests/test_torch_functional.py::test_bad_input_is_named",),
        modules=("torch",),
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
