"""What is emulated is not chosen."""

from __future__ import annotations

import pytest
import torch

from rtjazz_hf.benchmark.settings import BenchmarkSettings
from rtjazz_hf.runtime.precision import bfloat16_is_fast, training_precision


def test_other_precisions_and_devices_are_left_alone():
    assert bfloat16_is_fast("cuda")
    assert training_precision("no") == "no" and training_precision("fp16") == "fp16"


@pytest.mark.skipif(torch.cuda.is_available(), reason="training takes the GPU")
def test_bfloat16_where_the_cpu_has_it():
    assert training_precision("bf16") == ("bf16" if bfloat16_is_fast() else "no")
    assert bfloat16_is_fast() or torch.backends.cpu.get_cpu_capability() != "AVX512"


def test_a_benchmark_leaves_the_choice_to_the_machine():
    assert BenchmarkSettings().dtypes == ()
