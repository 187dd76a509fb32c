"""Products with matrices that are zero away from a diagonal."""

import pytest
import torch

from rtjazz_hf.codec.transforms import banded_product, constant


@pytest.mark.parametrize(("name", "transposed"), [("mean_mel_matrix", True), ("level_spread", False)])
@pytest.mark.parametrize("bands", [128, 64, 4])
def test_a_banded_product_is_the_whole_one(name, transposed, bands):
    matrix = constant(name, 2048, bands, 48000)
    whole = matrix.T if transposed else matrix
    x = torch.randn(2, 3, len(whole), generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    torch.testing.assert_close(banded_product(x, name, 2048, bands, 48000, transposed=transposed), x @ whole)
