import ctypes
import sys

import numpy as np
import psutil
import pytest

from rtjazz_hf.server.memory import give_back_memory


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="of glibc"
)
def test_what_is_free_goes_back_to_the_system():
    process = psutil.Process()
    blocks = [np.ones(8_000) for _ in range(4_000)]  # 64 kB each, below what glibc maps by itself
    last = np.ones(8_000)  # lies behind them in the heap, which cannot shrink
    full = process.memory_info().rss
    del blocks
    give_back_memory()
    assert full - process.memory_info().rss > 100e6 and last.sum() == 8_000
