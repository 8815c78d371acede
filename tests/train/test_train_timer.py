"""Spans add up, and the verdict says what they mean."""

import time

import pytest

from harness.timer import SPANS, Timer, summary, verdict


def test_spans_add_up_and_come_from_the_clock():
    timer = Timer("cpu")
    started = time.perf_counter()
    for _ in range(3):
        with timer.span("attack"):
            time.sleep(0.01)
    whole = time.perf_counter() - started
    with pytest.raises(KeyError), timer.span("optimizer"):
        raise KeyError
    assert 0.03 <= timer.read()["attack"] <= whole
    assert "optimizer" not in timer.read()


def test_the_summary_divides_by_what_it_says():
    timing = summary({"data_wait": 1.0, "forward_backward": 8.0}, num_steps=50, num_images=1000, train_s=10.0, eval_s=1.0,
                     checkpoint_s=0.5, startup_s=2.0, replay_img_per_s=125.0)
    assert timing["spans_s"] == {"data_wait": 1.0, "copy": 0.0, "attack": 0.0, "forward_backward": 8.0, "optimizer": 0.0}
    assert timing["per_step_ms"]["forward_backward"] == pytest.approx(160)
    assert (timing["img_per_s"], timing["fed"], timing["data_wait_fraction"]) == (100.0, 0.8, 0.1)
    assert set(timing["per_step_ms"]) == set(SPANS)
    unknown = summary({}, num_steps=0, num_images=0, train_s=0.0, eval_s=0.0, checkpoint_s=0.0, startup_s=0.0,
                      replay_img_per_s=None)
    assert (unknown["img_per_s"], unknown["fed"]) == (0.0, None)


@pytest.mark.parametrize(("waits", "copies", "words"), [
    (0.0, 0.0, "busy 100 %"), (0.03, 0.0, "busy 97 %"), (0.41, 0.0, "waits for data 41 %"), (0.41, 0.2, "waits for data 41 %"),
    (0.02, 0.02, "busy 96 %"), (0.1, 0.3, "waits 40 % of the time, most of it for copies")])
def test_the_verdict(waits, copies, words):
    assert words in verdict(waits, copies)


def test_a_model_that_waits_for_copies_is_not_called_busy():
    timing = summary({"copy": 4.0}, num_steps=1, num_images=1, train_s=10.0, eval_s=0.0, checkpoint_s=0.0, startup_s=0.0,
                     replay_img_per_s=None)
    assert timing["data_wait_fraction"] == 0
    assert "40 %" in timing["verdict"] and "busy" not in timing["verdict"]
