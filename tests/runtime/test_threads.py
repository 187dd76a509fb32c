"""Threads: how they wait, how many cores there are for them, and how many of them make a block."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import psutil
import pytest
import torch

from rtjazz_hf.runtime import threads
from rtjazz_hf.runtime.threads import (
    BlockThreads,
    cgroup_cores,
    let_threads_sleep,
    thread_counts,
    threads_sleep,
    torch_threads,
    usable_cores,
)

WAITS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.fixture
def environment(monkeypatch):
    """No word about threads in it."""
    for name in (*WAITS, "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


class TestWaiting:
    @pytest.mark.parametrize("given", ["", "OMP_WAIT_POLICY=active", "GOMP_SPINCOUNT=7", "KMP_BLOCKTIME=200"])
    def test_the_package_says_it_before_torch_comes(self, environment, given):
        if given:
            environment.setenv(*given.split("="))
        script = (
            "import os, sys, rtjazz_hf; from rtjazz_hf.runtime.threads import threads_sleep\n"
            "print('torch' in sys.modules, os.environ.get('OMP_WAIT_POLICY'), threads_sleep())"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        policy = {"": "PASSIVE", "OMP_WAIT_POLICY=active": "active"}.get(given, "None")
        assert done.stdout.split() == ["False", policy, str(not given)]

    def test_it_is_not_said_when_torch_is_there(self, environment):
        let_threads_sleep()
        assert "OMP_WAIT_POLICY" not in os.environ and not threads_sleep()

    @pytest.mark.parametrize("name,value", [("OMP_WAIT_POLICY", " Passive"), ("GOMP_SPINCOUNT", "0"),
                                            ("KMP_BLOCKTIME", "0")])  # fmt: skip
    def test_each_way_to_have_them_sleep(self, environment, name, value):
        environment.setenv(name, value)
        assert threads_sleep()


class TestCores:
    @pytest.mark.parametrize("files,cores", [
        ({}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "50000 100000\n"}, 0.5),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
          "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/elsewhere\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        ({"proc/self/cgroup": "7:memory:/a\n4:cpu,cpuacct:/a\n", "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "300000\n",
          "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n"}, 3.0),
        ({"proc/self/cgroup": "4:cpu:/a\n", "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n",
          "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "rubbish\n"}, None),
    ], ids=["none", "max", "half", "around", "container", "first", "first-free", "rubbish"])  # fmt: skip
    def test_the_limit_of_a_cgroup(self, tmp_path, files, cores):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert cgroup_cores(tmp_path) == cores

    @pytest.mark.parametrize("allowed,quota,usable", [(1, None, 1), (128, None, 128), (128, 0.5, 1), (2, 1.5, 1),
                                                      (4, 3.0, 3)])  # fmt: skip
    def test_a_part_of_a_core_is_no_core(self, monkeypatch, allowed, quota, usable):
        monkeypatch.setattr(threads, "allowed_cores", lambda: allowed)
        monkeypatch.setattr(threads, "cgroup_cores", lambda: quota)
        assert usable_cores() == usable


class TestCounts:
    @pytest.mark.parametrize("cores,quota,counts", [(1, None, (1,)), (2, None, (1, 2)), (6, None, (1, 2, 4)),
                                                    (128, None, (1, 2, 4, 8)), (128, 0.5, (1,))])  # fmt: skip
    def test_as_many_as_there_are_cores(self, environment, cores, quota, counts):
        environment.setenv("OMP_WAIT_POLICY", "passive")
        environment.setattr(threads, "allowed_cores", lambda: cores)
        environment.setattr(threads, "cgroup_cores", lambda: quota)
        environment.setattr(torch, "get_num_threads", lambda: cores)
        assert thread_counts() == counts

    def test_what_somebody_asked_for_is_no_choice(self, environment):
        environment.setenv("OMP_WAIT_POLICY", "passive")
        other = psutil.cpu_count() + 1
        with torch_threads(other):
            assert thread_counts() == (other,)
        environment.setenv("OMP_NUM_THREADS", "2")
        assert thread_counts() == (torch.get_num_threads(),)

    def test_one_where_they_spin(self, environment):
        environment.setattr(threads, "allowed_cores", lambda: 4)
        environment.setattr(torch, "get_num_threads", lambda: 4)
        assert thread_counts() == (1,)

    def test_torch_gets_its_own_back(self):
        before = torch.get_num_threads()
        with pytest.raises(KeyError), torch_threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise KeyError
        with torch_threads(None):
            assert torch.get_num_threads() == before


class Machine:
    """One that makes a block of a second in `shares[count]` seconds."""

    def __init__(self, shares, counts=(1, 2, 4), **options):
        self.now, self.shares = 0.0, shares
        self.threads = BlockThreads(counts, clock=lambda: self.now, **options)

    def play(self, blocks=1):
        """Threads of each of the blocks."""
        used = []
        for _ in range(blocks):
            used.append(self.threads.count)
            self.threads.note(used[-1], self.shares[used[-1]], 1.0)
            self.now += max(1.0, self.shares[used[-1]])
        return used


class TestBlockThreads:
    def test_one_is_enough_where_it_keeps_up(self):
        assert set(Machine({1: 0.49, 2: 0.1, 4: 0.1}).play(100)) == {1}

    def test_more_where_a_block_is_slow_and_they_pay(self):
        machine = Machine({1: 0.9, 2: 0.6, 4: 0.55})
        used = machine.play(20)
        assert used[:4] == [1] * 4 and used[4:8] == [2] * 4 and used[8:12] == [4] * 4  # 4 gain less than a tenth
        assert set(used[12:]) == {2}

    def test_what_did_not_pay_is_tried_again_ever_more_rarely(self):
        used = Machine({1: 0.9, 2: 0.9}, (1, 2)).play(400)
        tries = [at for at in range(1, len(used)) if used[at - 1] < used[at]]
        assert len(tries) >= 3 and np.all(np.diff(tries, 2) > 0) and used.count(2) == 4 * len(tries)

    def test_a_late_block_lowers_the_number_at_once(self):
        machine = Machine({1: 0.9, 2: 0.6, 4: 0.4})
        machine.play(30)
        assert machine.threads.count == 4
        machine.shares = {1: 0.8, 2: 1.1, 4: 1.2}
        assert machine.play(3) == [4, 2, 1]

    def test_whole_clips_look_for_the_fastest(self):
        assert set(Machine({1: 0.1, 2: 0.08, 4: 0.06}, enough=0.0).play(40)[-8:]) == {4}
        machine = Machine({1: 0.1, 2: 0.08}, (1, 2), enough=0.0)
        machine.play(10)
        machine.shares = {1: 0.2, 2: 0.9}  # somebody else came
        assert machine.play(10)[-1] == 1

    def test_one_core(self):
        machine = Machine({1: 3.0}, (1,))
        assert set(machine.play(10)) == {1}

    def test_a_machine_that_slept_is_not_slow(self):
        machine = Machine({1: 0.9, 2: 0.5}, (1, 2))
        machine.play(10)
        machine.threads.note(2, 8 * 3600.0, 1.0)
        assert machine.threads.count == 2

    def test_torch_has_them_while_a_block_is_made(self):
        before = torch.get_num_threads()
        chosen = BlockThreads((before + 1, before + 2))
        with chosen.block(1.0):
            assert torch.get_num_threads() == before + 1
        assert torch.get_num_threads() == before


def test_music_does_not_depend_on_them(tiny_pipeline, monkeypatch):
    def play(counts):
        monkeypatch.setattr(tiny_pipeline.models, "threads", BlockThreads(counts))
        monkeypatch.setattr(tiny_pipeline.models, "clip_threads", BlockThreads(counts))
        with tiny_pipeline.live("swing trio", block_frames=12, seed=3) as session:
            live = [next(session).audio for _ in range(3)]
        clip = tiny_pipeline("swing trio", duration=0.4, generator=torch.Generator().manual_seed(3))
        return np.concatenate(live, axis=1), clip.audios[0]

    before = torch.get_num_threads()
    for one, two in zip(play((1,)), play((2,))):
        np.testing.assert_allclose(one, two, atol=1e-5)
    assert torch.get_num_threads() == before
