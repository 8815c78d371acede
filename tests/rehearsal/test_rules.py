"""Errors of the rehearsal: each rule is broken on purpose, and next to it the correct order runs."""

import threading

import numpy as np
import pytest
import torch

from tests.rehearsal import product
from tests.rehearsal.cuda import no_sync
from tests.rehearsal.streams import NUM_POOLED, CudaError, RehearsalError


def pinned(values: list[float]) -> torch.Tensor:
    return torch.tensor(values).pin_memory()


def in_thread(work) -> list[BaseException]:
    """Run `work` in a thread; returns what it raised."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return errors


# Devices


def test_cuda_tensors_are_made_in_every_thread(faked):
    assert torch.cuda.is_available() and torch.cuda.device_count() == 1
    assert not in_thread(lambda: torch.zeros(2, device="cuda:0").to("cuda").sum().item())
    with pytest.raises(CudaError, match="invalid device ordinal"):
        torch.zeros(2, device="cuda:1")


def test_a_copy_to_the_device_or_back_is_a_copy(faked):
    values = torch.zeros(2)
    for copy in (values.to("cuda"), values.cuda(), values.cpu(), values.to("cpu")):
        copy.fill_(1)
    assert values.tolist() == [0, 0]


def test_a_generator_of_the_cpu_draws_nothing_on_the_device(faked):
    drawn = torch.rand(3, device="cuda", generator=torch.Generator("cuda").manual_seed(5))
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(5)))
    with pytest.raises(CudaError, match="Expected a 'cuda' device type for generator"):
        torch.rand(3, device="cuda", generator=torch.Generator())


def test_the_allocator_refuses_before_cuda_is_initialized(faked):
    with pytest.raises(RuntimeError, match="did you call init"):
        torch.cuda.max_memory_allocated()
    torch.cuda.init()
    assert torch.cuda.max_memory_allocated() > 0


def test_memory_of_the_device_cannot_be_pinned(faked):
    with pytest.raises(CudaError, match="cannot pin"):
        torch.zeros(2, device="cuda").pin_memory()
    assert torch.zeros(2, pin_memory=True).is_pinned() and not torch.zeros(2).is_pinned()


# Streams


def test_streams_come_from_a_pool_of_32(faked):
    streams = [torch.cuda.Stream() for _ in range(NUM_POOLED + 1)]
    assert len(set(streams)) == NUM_POOLED == 32 and streams[0] == streams[-1]
    assert torch.cuda.Stream(priority=-1) not in streams
    assert torch.cuda.default_stream() not in streams


def test_each_thread_has_a_current_stream(faked):
    stream, seen = torch.cuda.Stream(), []
    with torch.cuda.stream(stream):
        assert torch.cuda.current_stream() == stream
        in_thread(lambda: seen.append(torch.cuda.current_stream()))
    assert seen == [torch.cuda.default_stream()] == [torch.cuda.current_stream()]


# Events


def test_an_event_is_read_only_after_it_was_recorded_and_awaited(faked):
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    with pytest.raises(CudaError, match="must be recorded"):
        first.elapsed_time(last)
    last.record()
    with pytest.raises(CudaError, match="must be completed"):
        first.elapsed_time(last)
    last.synchronize()
    assert first.elapsed_time(last) >= 0


def test_an_event_without_timing_has_no_time(faked):
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event()
    first.record()
    last.record()
    last.synchronize()
    with pytest.raises(CudaError, match="enable_timing"):
        first.elapsed_time(last)


def test_a_wait_for_one_stream_does_not_cover_another(faked):
    stream, last = torch.cuda.Stream(), torch.cuda.Event(enable_timing=True)
    last.record(stream)
    torch.cuda.current_stream().synchronize()
    with pytest.raises(CudaError, match="must be completed"):
        last.elapsed_time(last)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.current_stream().synchronize()
    assert last.elapsed_time(last) == 0


# Copies


def test_a_slot_refilled_before_its_copy_ended_gives_the_wrong_batch(faked):
    faked.expects_faults = True
    slot, batch = pinned([1.0, 2.0]), torch.zeros(2, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        batch.copy_(slot, non_blocking=True)
    slot.numpy()[:] = 9
    torch.cuda.current_stream().wait_stream(stream)
    assert (batch + 0).numpy().tolist() == [9, 9]
    with pytest.raises(RehearsalError, match="Pinned memory was written"):
        torch.cuda.synchronize()
    assert faked.faults


def test_a_slot_refilled_after_a_kernel_used_the_batch_is_found_all_the_same(faked):
    """A stream that waits does not make the host wait: the copy may still be queued."""
    faked.expects_faults = True
    slot, batch = pinned([1.0, 2.0]), torch.zeros(2, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        batch.copy_(slot, non_blocking=True)
    torch.cuda.current_stream().wait_stream(stream)
    assert (batch + 0).numpy().tolist() == [1, 2]
    slot.numpy()[:] = 9
    with pytest.raises(RehearsalError, match="Pinned memory"), torch.cuda.stream(stream):
        batch.copy_(slot, non_blocking=True)
    assert faked.faults


def test_a_slot_may_be_refilled_after_the_host_has_waited(faked):
    slot, batch = pinned([1.0, 2.0]), torch.zeros(2, device="cuda")
    stream = torch.cuda.Stream()
    for value in (3.0, 4.0):
        slot.numpy()[:] = value
        with torch.cuda.stream(stream):
            stream.wait_stream(torch.cuda.default_stream())
            batch.copy_(slot, non_blocking=True)
        copied = stream.record_event()
        torch.cuda.current_stream().wait_stream(stream)
        assert batch.tolist() == [value, value]
        copied.synchronize()


def test_a_copy_over_a_batch_in_use_must_wait_for_its_user(faked):
    faked.expects_faults = True
    slots, batch = [pinned([1.0]), pinned([2.0])], torch.zeros(1, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        batch.copy_(slots[0], non_blocking=True)
    torch.cuda.current_stream().wait_stream(stream)
    used = batch * 2  # in the current stream
    found = pytest.raises(RehearsalError, match="another stream may still read")
    with found, torch.cuda.stream(stream):
        batch.copy_(slots[1], non_blocking=True)
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        batch.copy_(slots[1], non_blocking=True)
    assert used.tolist() == [2]
    assert faked.faults


def test_a_result_is_on_the_host_only_after_the_host_has_waited(faked):
    result, place = torch.full((2,), 5.0, device="cuda"), pinned([0.0, 0.0])
    place.copy_(result, non_blocking=True)
    assert place.numpy().tolist() == [0, 0]
    torch.cuda.synchronize()
    assert place.numpy().tolist() == [5, 5]


def test_a_kernel_of_the_stream_comes_after_its_copies(faked):
    moved = pinned([1.0, 2.0]).to("cuda", non_blocking=True)
    assert (moved * 2).tolist() == [2, 4]


# Waiting in the step


SYNCS = {
    "item": lambda loss: loss.item(),
    "bool": lambda loss: bool(loss > 0),
    "cpu": lambda loss: loss.cpu(),
    "tolist": lambda loss: loss.tolist(),
    "nonzero": lambda loss: loss.reshape(1).nonzero(),
    "mask": lambda loss: loss.reshape(1)[loss.reshape(1) > 0],
    "host values": lambda loss: loss + torch.tensor(1.0, device="cuda"),
    "pageable": lambda loss: loss + torch.from_numpy(np.ones(1)).to("cuda", non_blocking=True),
}


@pytest.mark.parametrize("name", SYNCS)
def test_a_wait_for_the_gpu_in_the_step_is_found(faked, name):
    learner, batch = product.make_learner("cuda"), product.make_batch("cuda")
    learner.train_batch(*batch)
    with no_sync():
        learner.train_batch(*batch)
    with product.step_that(learner, SYNCS[name]):
        learner.train_batch(*batch)
        with pytest.raises(CudaError, match="synchronizing"), no_sync():
            learner.train_batch(*batch)


def test_a_wait_in_a_backward_pass_is_found(faked):
    weight = torch.ones(3, device="cuda", requires_grad=True)
    weight.register_hook(lambda gradient: gradient * gradient.sum().item())
    loss = weight.sum()
    with pytest.raises(CudaError, match="synchronizing"), no_sync():
        loss.backward()


# Captures


def capture(work, *generators: torch.Generator, mode: str = "thread_local", stream=None):
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph, stream=stream, capture_error_mode=mode):
        result = work()
    return graph, result


def test_a_graph_computes_on_replay_and_not_before(faked):
    source, count = torch.ones(2, device="cuda"), torch.zeros((), device="cuda")

    def work() -> torch.Tensor:
        count.add_(1)
        return source * 3

    graph, result = capture(work)
    assert result.isnan().all() and count.item() == 0
    for value in (1.0, 2.0):
        source.fill_(value)
        graph.replay()
        assert result.tolist() == [3 * value] * 2
    assert count.item() == 2


def test_a_graph_with_a_backward_pass_is_replayed(faked):
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    images, twin = torch.rand(2, 3, 8, 8), None

    def gradient() -> torch.Tensor:
        variable = images.detach().requires_grad_()
        return torch.autograd.grad(layer(variable).square().sum(), variable)[0]

    before = [value.clone() for value in layer.state_dict().values()]
    graph, result = capture(gradient)
    assert all(
        torch.equal(one, other)
        for one, other in zip(before, layer.state_dict().values(), strict=True)
    )
    images.copy_(torch.rand(2, 3, 8, 8))
    twin = gradient()
    layer.load_state_dict(dict(zip(layer.state_dict(), before, strict=True)))
    graph.replay()
    assert torch.equal(result, twin)


def test_a_registered_generator_continues_from_replay_to_replay(faked):
    generator, twin = (torch.Generator("cuda").manual_seed(1) for _ in range(2))
    graph, result = capture(lambda: torch.rand(4, device="cuda", generator=generator), generator)
    for _ in range(3):
        graph.replay()
        assert torch.equal(result, torch.rand(4, device="cuda", generator=twin))


def test_an_unregistered_generator_is_refused(faked):
    generator = torch.Generator("cuda")
    with pytest.raises(CudaError, match="an unregistered generator"):
        capture(lambda: torch.rand(4, device="cuda", generator=generator))


@pytest.mark.parametrize(
    "work",
    [
        lambda values: values.sum().item(),
        lambda values: values.nonzero(),
        lambda values: values[values > 0],
        lambda values: values.index_put_((values > 0,), torch.zeros((), device="cuda")),
        lambda values: values.cpu(),
        lambda values: values + torch.tensor(1.0, device="cuda"),
        lambda values: values + torch.from_numpy(np.ones(4)).to("cuda"),
        lambda values: torch.cuda.synchronize(),
        lambda values: torch.cuda.current_stream().synchronize(),
    ],
    ids=[
        "item",
        "nonzero",
        "mask",
        "put by mask",
        "cpu",
        "host values",
        "pageable",
        "device",
        "stream",
    ],
)
def test_host_synchronization_is_refused_in_a_capture(faked, work):
    values = torch.ones(4, device="cuda")
    with pytest.raises(CudaError, match="the capture is invalid: "):
        capture(lambda: work(values))


def test_a_capture_that_caught_its_error_is_invalid_all_the_same(faked):
    values = torch.ones(4, device="cuda")

    def work() -> None:
        with pytest.raises(CudaError, match="not permitted"):
            values.sum().item()

    with pytest.raises(CudaError, match="invalid: "):
        capture(work)


def test_foreign_work_on_the_capturing_stream_is_refused(faked):
    errors: list[BaseException] = []

    def foreign() -> None:
        with torch.cuda.stream(stream):
            torch.zeros(2, device="cuda").add_(1)

    stream = torch.cuda.Stream()
    with pytest.raises(CudaError, match="another thread"):
        capture(lambda: errors.extend(in_thread(foreign)), stream=stream)
    assert len(errors) == 1 and "capture of another thread" in str(errors[0])
    other = torch.cuda.Stream()
    capture(lambda: errors.extend(in_thread(foreign)), stream=other)
    assert len(errors) == 1


@pytest.mark.parametrize(("mode", "allowed"), [("global", False), ("thread_local", True)])
def test_other_threads_may_pin_memory_while_one_captures_in_thread_local_mode(faked, mode, allowed):
    errors: list[BaseException] = []

    def pin() -> None:
        torch.empty(16, pin_memory=True)

    try:
        capture(lambda: errors.extend(in_thread(pin)), mode=mode)
    except CudaError:
        assert not allowed
    assert bool(errors) is not allowed


def test_the_default_stream_is_not_captured(faked):
    with pytest.raises(CudaError, match="non-default stream"):
        torch.cuda.CUDAGraph().capture_begin()
    with pytest.raises(CudaError, match="without a preceding"):
        torch.cuda.CUDAGraph().replay()
