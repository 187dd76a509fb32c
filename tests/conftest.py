"""Shared fixtures: a pipeline of the real classes, small enough for a test."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches the network; pushing: tests/hub_stub.py
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models of a test are too small to share out
os.environ.setdefault("RTJAZZ_GRAPHS", "")  # every graph is made: tests/runtime/test_kept_graphs.py
# Two workers that compile librosa's functions into one cache at once leave it broken, and every later call crashes.
_worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
_caches = Path(__file__).resolve().parent.parent / ".pytest_cache"
os.environ.setdefault("NUMBA_CACHE_DIR", str(_caches / f"numba-{_worker}"))

# What is imported stays: looking through it for garbage, again and again, is a tenth of the suite's time.
gc.disable()

import pytest  # noqa: E402
from tiny_models import build_tiny_pipeline  # noqa: E402

# Files whose tests have librosa's functions compiled, half a minute of a core for each process that does it.
COMPILED = {
    f"tests/{folder}/test_{name}.py"
    for folder, names in {
        "corpus": ("personal", "retiming", "evaluate_analysis", "fit_tempo", "chord_matching", "hearing"),
        "evaluation": ("evaluate_codec", "report", "obedience", "notes", "presence", "style_gain"),
        "trainers": ("lora_training", "probe_latents"),
    }.items()
    for name in names
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests run in one process, so that what they share is made once; those of COMPILED all in one."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "compiled" if file in COMPILED else file

    return ByFile(config, log)


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def tiny_pipeline():
    return build_tiny_pipeline()


@pytest.fixture(scope="session")
def tiny_folder(tiny_pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    tiny_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A small disk that a test fills (`tests/full_disk.py`)."""
    from full_disk import Disk

    try:
        disk = Disk(tmp_path_factory.mktemp("mounted") / "disk")
    except OSError as error:
        pytest.skip(f"wants to mount a tmpfs: {error}")
    yield disk
    disk.close()


@pytest.fixture(scope="module")  # while it is open, asyncio.run cannot be called in its thread
def browser():
    """A Chromium that may make sound."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="drives the browser (the dev extra)")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--autoplay-policy=no-user-gesture-required", "--no-sandbox"]
        )
        yield browser
        browser.close()
