"""Leases between hosts: one holder at a time, expiry of dead ones, independence of clocks."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from writers import lease
from writers.lease import Holder

FAR, FARTHER = Holder("far", "boot-of-far", 1), Holder("farther", "boot-of-farther", 2)


def aged(path: Path, seconds: float) -> None:
    """Set the renewal time of a lease to this number of seconds ago."""
    now = lease.file_system_time(path.parent / "lock")
    os.utime(path, (now - seconds, now - seconds))


def test_a_lease_has_one_holder_at_a_time(tmp_path: Path):
    held = lease.take(tmp_path, FAR)
    assert held is not None and lease.holder_of(tmp_path) == FAR
    assert lease.take(tmp_path, FARTHER) is None and lease.is_held(tmp_path)
    with lease.hold(tmp_path) as ours:
        assert ours is None
    held.release()
    assert not lease.is_held(tmp_path)
    with lease.hold(tmp_path) as ours:
        assert ours is not None and not ours.is_lost()
        assert lease.take(tmp_path, FAR) is None
    assert len(list(tmp_path.glob("lease-*"))) == 1


def test_a_lease_expires_and_its_late_holder_notices(tmp_path: Path):
    held = lease.take(tmp_path, FAR)
    aged(held.path, lease.EXPIRES_S - 5)
    assert lease.take(tmp_path, FARTHER) is None
    held.beat()
    aged(held.path, lease.EXPIRES_S + 5)
    successor = lease.take(tmp_path, FARTHER)
    assert successor is not None and lease.holder_of(tmp_path) == FARTHER
    held.beat()
    assert held.is_lost()
    held.release()  # must not affect the successor's lease
    assert lease.take(tmp_path, FAR) is None and not successor.is_lost()


def test_a_lease_from_the_future_does_not_hold_until_then(tmp_path: Path):
    """The server's clock was set back, or the folder was copied with its times."""
    held = lease.take(tmp_path, FAR)
    aged(held.path, 5 - lease.EXPIRES_S)
    assert lease.take(tmp_path, FARTHER) is None
    aged(held.path, -1e6)
    assert not lease.is_held(tmp_path)
    assert lease.take(tmp_path, FARTHER) is not None
    held.beat()
    assert held.is_lost()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"host": 1}', "[]", "\x00"])
def test_files_that_only_look_like_leases_do_not_raise(tmp_path: Path, text: str):
    (tmp_path / "lease-\u00b2").touch()  # superscript 2: isdigit, but int() fails
    (tmp_path / "lease-000001").write_text(text)
    assert lease.take(tmp_path, FAR) is None
    aged(tmp_path / "lease-000001", lease.EXPIRES_S + 5)
    assert lease.take(tmp_path, FAR) is not None


def test_a_dead_process_of_this_host_is_replaced_at_once(tmp_path: Path):
    """The local lock is free, so the holder is dead, although its lease has not expired."""
    assert lease.take(tmp_path, Holder.me()) is not None
    with lease.hold(tmp_path) as held:
        assert held is not None


@pytest.mark.parametrize("skew_s", [-3600.0, 3600.0])
def test_the_clock_of_a_host_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_s: float
):
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + skew_s)
    held = lease.take(tmp_path, FAR)
    assert held is not None and lease.take(tmp_path, FARTHER) is None
    aged(held.path, lease.EXPIRES_S + 5)
    assert lease.take(tmp_path, FARTHER) is not None


def test_a_holder_renews_while_it_works(tmp_path: Path):
    with lease.hold(tmp_path, beat_s=0.02) as held:
        aged(held.path, lease.EXPIRES_S - 5)
        deadline = time.monotonic() + 240
        while held.path.stat().st_mtime < real_now(tmp_path) - 60:
            assert time.monotonic() < deadline, "the lease is not renewed"
            time.sleep(0.01)
        assert lease.take(tmp_path, FAR) is None and not held.is_lost()


def test_numbers_only_increase_and_one_of_two_successors_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = lease.take(tmp_path, FAR)
    first.release()
    lease.take(tmp_path, FARTHER).release()
    newest = lease.take(tmp_path, FAR)
    assert [path.name for path in tmp_path.glob("lease-*")] == [newest.path.name]
    assert newest.path.name > first.path.name
    # A process that listed the folder before the lease changed hands twice:
    listing = lease._newest
    stale = iter([first.path])
    monkeypatch.setattr(lease, "_newest", lambda folder: next(stale, None) or listing(folder))
    assert lease.take(tmp_path, FARTHER) is None and not newest.is_lost()


def test_one_of_many_processes_takes_an_expired_lease(tmp_path: Path):
    with multiprocessing.get_context("fork").Pool(8) as pool:
        for round_ in range(5):
            folder = tmp_path / str(round_)
            folder.mkdir()
            dead = lease.take(folder, FAR)
            aged(dead.path, lease.EXPIRES_S + 5)
            won = pool.map(_take_as_another_host, [(folder, index) for index in range(8)])
            assert sum(won) == 1


def _take_as_another_host(arguments: tuple[Path, int]) -> bool:
    folder, index = arguments
    return lease.take(folder, Holder(f"host{index}", f"boot{index}", index)) is not None


def test_an_unreadable_lease_is_respected_until_it_expires(tmp_path: Path):
    (tmp_path / "lease-000007").write_text("")
    assert lease.take(tmp_path, FAR) is None
    aged(tmp_path / "lease-000007", lease.EXPIRES_S + 5)
    assert lease.take(tmp_path, FAR).path.name == "lease-000008"


def real_now(folder: Path) -> float:
    return lease.file_system_time(folder / "lock")
