"""The training step on the fake device: the CPU's numbers, and no wait for the GPU.

Tensors of the fake report the device "cpu", so branches on `tensor.is_cuda` or `tensor.device` take
the CPU's path. The waits in `replay_rate`, and the memory of other processes in `out_of_memory`,
are therefore not tested.
"""

import gc
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.config.attack import AttackSettings
from harness.profiling.timer import SPANS
from harness.runner import worker
from harness.runner.context import RestartRequiredError
from harness.train import compilation, compile_choice, mode_trials
from tests.rehearsal import graphs, machine, product
from tests.rehearsal.cuda import no_sync

ATTACKS = {
    "clean": None,
    "pgd l2": AttackSettings(steps=2, best_iterate=True),
    "pgd linf": AttackSettings(steps=2, norm="linf", random_start="ball"),
    "fast": AttackSettings(method="fast", norm="linf"),
    "free": AttackSettings(method="free", replays=2),
}


def trained(device: str, way: str, attack: str, **settings) -> tuple[dict, list[torch.Tensor]]:
    """Train on five batches of three shapes; return the learner's totals and its weights."""
    learner = product.make_learner(device, way, attack=ATTACKS[attack], **settings)
    for number, (size, side) in enumerate(((8, 24), (8, 24), (5, 24), (8, 32), (8, 32))):
        images, labels = product.make_batch(device, size, side)
        learner.train_batch(images + 40 * number, labels.roll(number))  # uint8 wraps around
    return learner.totals(), product.weights_of(learner)


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_compile_mode_gives_the_numbers_of_the_cpu(attack, request):
    totals, weights = trained("cpu", "eager", attack)
    request.getfixturevalue("faked")
    ways = (
        product.COMPILE_MODES if ATTACKS[attack] and attack != "free" else product.COMPILE_MODES[:3]
    )
    for way in ways:
        found, found_weights = trained("cuda:0", way, attack)
        assert found == totals, way
        assert all(map(torch.equal, found_weights, weights)), way


def test_a_captured_attack_counts_each_zero_gradient_once(faked):
    """With a head of zeros, all gradients of the first step are zero; a capture must not count."""
    found = []
    for way in ("eager", "captured_attack"):
        learner = product.make_learner("cuda:0", way, attack=ATTACKS["pgd l2"])
        with torch.no_grad():
            learner.model.head.weight.zero_()
        learner.train_batch(*product.make_batch("cuda:0"))
        found.append(learner.totals()["zero_gradients"])
    assert found[0] == found[1] == 2 * product.BATCH_SIZE


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_trains(faked, precision):
    totals, weights = trained("cuda:0", "captured_attack", "pgd l2", precision=precision)
    assert all(weight.isfinite().all() for weight in weights)
    assert totals["num_images"] == 37 and 0 < totals["loss"] < 10


@pytest.mark.parametrize("way", product.COMPILE_MODES)
@pytest.mark.parametrize(
    "settings", [{}, {"precision": "fp16"}, {"num_micro_batches": 2}, {"ema_decay": 0.9}]
)
def test_the_step_does_not_wait_for_the_gpu(faked, way, settings):
    learner = product.make_learner("cuda:0", way, attack=ATTACKS["pgd l2"], **settings)
    batch = product.make_batch("cuda:0")
    for _ in range(2):  # a capture waits
        learner.train_batch(*batch)
    with no_sync():
        learner.set_rate(0.5)
        learner.train_batch(*batch)


def test_the_timer_reads_events_that_have_happened(faked):
    learner = product.make_learner("cuda:0", "captured_attack", attack=ATTACKS["pgd l2"])
    for _ in range(3):
        learner.train_batch(*product.make_batch("cuda:0"))
    spans = product.read_timer(learner)["spans_s"]
    assert set(spans) == set(SPANS)


def test_a_resumed_run_continues_bit_for_bit(faked):
    batch = product.make_batch("cuda:0")
    runs = [
        product.make_learner("cuda:0", "captured_attack", attack=ATTACKS["pgd linf"])
        for _ in range(2)
    ]
    runs[0].train_batch(*batch)
    runs[1].load_state_dict(product.checkpoint_of(runs[0]))
    for run in runs:
        run.train_batch(*batch)
    assert all(map(torch.equal, *(product.weights_of(run) for run in runs)))


def test_auto_times_every_compile_mode_and_restores_all_state(faked):
    learner = product.make_learner("cuda:0", attack=ATTACKS["pgd linf"])
    before = product.weights_of(learner)
    measured = product.choose(learner)
    assert set(measured) == {*product.COMPILE_MODES, "chosen"}
    assert all(measured[way]["step_s"] > 0 for way in product.COMPILE_MODES)
    assert all(map(torch.equal, before, product.weights_of(learner)))


def test_an_optional_compile_mode_that_runs_out_of_memory_is_skipped(faked, monkeypatch):
    learner = product.make_learner("cuda:0", attack=ATTACKS["pgd l2"])
    train, compile = learner.train_batch, learner.compile

    def compile_and_note(name: str, batch_size: int) -> None:
        compile(name, batch_size)
        learner.compile_mode = name

    def train_or_fail(*batch: torch.Tensor) -> None:
        if learner.compile_mode == "captured_attack":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        train(*batch)

    monkeypatch.setattr(learner, "compile", compile_and_note)
    monkeypatch.setattr(learner, "train_batch", train_or_fail)
    measured = product.choose(learner)
    assert "failed" in measured["captured_attack"] and measured["chosen"] != "captured_attack"


def test_the_peak_of_memory_is_that_of_training(faked, monkeypatch):
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda *_: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty"))
    product.choose(product.make_learner("cuda:0", attack=ATTACKS["pgd l2"]))
    assert calls[-2:] == ["empty", "reset"]


def test_graphs_of_the_whole_step_are_not_tried_with_accumulation(faked):
    learner = product.make_learner("cuda:0", attack=ATTACKS["pgd l2"], num_micro_batches=2)
    assert "cuda_graphs" not in product.choose(learner)


def test_a_failed_capture_requires_a_new_process_without_it(faked, tmp_path):
    """Both ways with the captured attack would fail; the recorded choice is then used again."""
    learner = product.make_learner("cuda:0", attack=ATTACKS["pgd l2"])

    def waits(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return images.float().div(255).clamp(max=labels.max().item())

    product.replace_attack(learner, waits)
    with pytest.raises(RestartRequiredError, match="captured_attack failed"):
        product.choose_for(learner, tmp_path)
    again = product.make_learner("cuda:0", attack=ATTACKS["pgd l2"])
    product.replace_attack(again, waits)
    measured = product.choose_for(again, tmp_path)
    assert set(measured) == {"chosen", *(w for w in product.COMPILE_MODES if "captured" not in w)}
    again.train_batch(*product.make_batch("cuda:0"))
    assert again.totals()["num_images"] == 8
    third = product.make_learner("cuda:0", attack=ATTACKS["pgd l2"])
    assert product.choose_for(third, tmp_path) == measured
    assert third.compile_mode == again.compile_mode == measured["chosen"]


def test_a_checkpoint_of_an_excluded_compile_mode_resumes_without_it(faked, tmp_path):
    saved = product.make_learner("cuda:0", "captured_attack", attack=ATTACKS["pgd l2"])
    saved.train_batch(*product.make_batch("cuda:0"))
    compile_choice.restart_without(tmp_path, "captured_attack", "the capture failed")
    resumed = product.make_learner("cuda:0", attack=ATTACKS["pgd l2"])
    product.choose_for(resumed, tmp_path)
    resumed.load_state_dict(product.checkpoint_of(saved))
    assert "captured" not in resumed.compile_mode
    assert all(map(torch.equal, product.weights_of(saved), product.weights_of(resumed)))


@pytest.mark.parametrize("factor", [0.5, float("nan")])
def test_a_compile_mode_that_differs_from_the_eager_step_is_skipped(faked, monkeypatch, factor):
    """Simulate graphs that dropped half of the gradient, or returned memory that was overwritten."""
    learner = product.make_learner("cuda:0", attack=ATTACKS["pgd l2"])
    backward = learner._backward

    def wrong(loss: torch.Tensor) -> None:
        backward(loss * (factor if learner.compile_mode == "cuda_graphs" else 1))

    monkeypatch.setattr(learner, "_backward", wrong)
    measured = product.choose(learner)
    assert "deviates" in measured["cuda_graphs"]["failed"]
    assert measured["chosen"] != "cuda_graphs"
    assert all(measured[way]["deviation"] == 0 for way in ("compiled", "captured_attack"))


def test_a_replay_that_differs_from_the_eager_step_is_skipped(faked, monkeypatch):
    """Torch's graphs compute the first step eagerly and record the second: both may be right."""
    learner = product.make_learner("cuda:0", attack=ATTACKS["pgd l2"])
    backward, calls = learner._backward, []

    def wrong(loss: torch.Tensor) -> None:
        calls.append(learner.compile_mode)
        backward(loss * (0.5 if calls.count("cuda_graphs") > 2 else 1))

    monkeypatch.setattr(learner, "_backward", wrong)
    measured = product.choose(learner)
    assert "deviates" in measured["cuda_graphs"]["failed"]


def fail_in(learner: Any, mode: str, error: Exception, monkeypatch: Any) -> list[str]:
    """Let the steps of a compile mode fail; returns a list to which failed steps are added."""
    train, failed = learner.train_batch, []

    def train_or_fail(*batch: torch.Tensor) -> None:
        if learner.compile_mode == mode:
            failed.append(mode)
            raise error
        train(*batch)

    monkeypatch.setattr(learner, "train_batch", train_or_fail)
    return failed


def test_a_compiled_kernel_that_breaks_the_gpu_requires_a_new_process(faked, monkeypatch, tmp_path):
    """After an invalid access, CUDA refuses all work of the process, and any call may report it."""
    broken = RuntimeError("CUDA error: an illegal memory access was encountered")
    learner = product.make_learner("cuda:0", attack=ATTACKS["pgd l2"])
    failed = fail_in(learner, "compiled", broken, monkeypatch)
    wait = torch.cuda.synchronize

    def wait_or_fail(device: object = None) -> None:
        if failed:
            raise broken
        wait(device)

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "synchronize", wait_or_fail)
        with pytest.raises(RestartRequiredError, match="compiled failed"):
            product.choose_for(learner, tmp_path)
    again = product.make_learner("cuda:0", attack=ATTACKS["pgd l2"])
    assert set(product.choose_for(again, tmp_path)) == {"chosen", "eager", "captured_attack"}


def test_a_gpu_that_is_full_after_a_failure_needs_no_new_process(faked, monkeypatch):
    """The traceback of the error still holds the memory of the step."""
    full = torch.cuda.OutOfMemoryError("CUDA out of memory.")
    learner = product.make_learner("cuda:0", attack=ATTACKS["pgd l2"])
    fail_in(learner, "compiled", full, monkeypatch)

    def refuse(*_: object, **options: object) -> None:
        raise full

    monkeypatch.setattr(torch, "ones", refuse)
    measured = product.choose(learner)
    assert "out of memory" in measured["compiled"]["failed"]
    assert all("step_s" in measured[mode] for mode in ("captured_attack", "cuda_graphs"))


def test_graphs_of_compile_modes_that_were_not_chosen_are_freed(faked, monkeypatch):
    freed: list[str] = []
    monkeypatch.setattr(compilation, "reset", lambda: freed.append("all"))
    learner = product.make_learner("cuda:0", attack=ATTACKS["pgd l2"])
    monkeypatch.setattr(mode_trials, "MAX_TIME_RATIO", 0.0)  # no way is fast enough
    assert product.choose(learner)["chosen"] == "eager"
    assert freed == ["all", "all"], "before the trials, and after them"


def test_a_worker_frees_graphs_between_stages(faked, monkeypatch):
    """Before torch's cache is emptied: graphs of whole models keep their memory until a reset."""
    calls: list[str] = []
    fake = SimpleNamespace(reset=lambda: calls.append("reset"))
    monkeypatch.setitem(sys.modules, "torch._dynamo", fake)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty"))
    torch.cuda.init()
    worker._free_memory()
    gc.unfreeze()
    assert calls == ["reset", "empty"]


def test_an_attack_that_draws_from_another_generator_is_not_captured(faked):
    foreign = torch.Generator("cuda").manual_seed(3)
    attack = product.captured(
        lambda images, labels: images + torch.rand(1, device="cuda", generator=foreign),
        torch.Generator("cuda"),
    )
    with pytest.raises(RuntimeError, match="unregistered generator"):
        attack(*product.make_batch("cuda:0"))


def test_a_capture_works_if_torch_registers_generators_by_itself(faked, monkeypatch):
    """Torch 2.14 warns that the method does nothing, and announces its removal."""

    class Graph(graphs.CUDAGraph):
        register = graphs.CUDAGraph.register_generator_state

        def capture_begin(self, *args: Any, **options: Any) -> None:
            self.register(generator)
            super().capture_begin(*args, **options)

        def __getattribute__(self, name: str) -> Any:
            if name == "register_generator_state":
                raise AttributeError(name)
            return super().__getattribute__(name)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    generator = torch.Generator("cuda").manual_seed(1)

    def attack(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return images + torch.rand(1, device="cuda", generator=generator)

    batch = product.make_batch("cuda:0")
    expected = torch.rand(1, generator=torch.Generator().manual_seed(1))
    found = product.captured(attack, generator)(*batch)
    assert torch.equal(found, batch[0] + expected)


def test_a_graph_owns_the_workspaces_of_its_matrix_products(faked, monkeypatch):
    """It may not use one that torch made before the capture, and torch may not keep its own."""
    workspaces: dict[torch.cuda.Stream, bool] = {}  # stream -> was it made in a capture?
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", workspaces.clear)
    owned = []

    def attack(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        is_captured = torch.cuda.is_current_stream_capturing()
        is_own = workspaces.setdefault(torch.cuda.current_stream(), is_captured)
        owned.extend([is_own] if is_captured else [])
        return images.float()

    product.captured(attack, torch.Generator("cuda"))(*product.make_batch("cuda:0"))
    assert owned == [True] and not workspaces


def test_a_wait_is_for_the_device_that_was_named(monkeypatch, faked):
    monkeypatch.setenv(machine.VARIABLE, machine.describe(machine.cards({}, {})))
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream("cuda:1"))
    product.wait_for("cuda:1")
    assert event.elapsed_time(event) == 0


def test_all_heads_of_a_grid_train_without_a_wait(faked):
    heads = product.make_heads("cuda:0", (0.5, 0.1, 0.02))
    batch = product.make_batch("cuda:0")
    heads.train_batch(*batch)
    with no_sync():
        heads.set_rate(0.5)
        heads.train_batch(*batch)
    assert heads.totals()["num_images"] == 2 * product.BATCH_SIZE
