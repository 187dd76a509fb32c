"""The decoder's network by other engines: the same sound, in any pieces, and torch where they cannot play."""

import copy

import pytest
import torch

from rtjazz_hf.codec import RealTimeJazzCodec, RealTimeJazzCodecConfig
from rtjazz_hf.runtime.engines import is_installed

SMALL = dict(latent_dim=16, codebook_size=32, encoder_hidden_size=32, encoder_layers=1, decoder_hidden_size=32,
             decoder_layers=2, expansion=2, noise_frames=50, seanet_filters=4)  # fmt: skip


def build(**changes) -> RealTimeJazzCodec:
    torch.manual_seed(0)
    codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**SMALL, **changes))
    codec.fit_start([0.1 * torch.randn(1, 2, 48_000)])
    for parameter in codec.decoder.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return codec.eval()


def decoded(codec, sizes=(6, 1, 12), rows=1):
    latents, state, pieces = torch.randn(rows, 16, 19, generator=torch.Generator().manual_seed(1)), None, []
    for piece in latents.split(list(sizes), dim=-1):
        output = codec.decode(latents=piece, state=state)
        state = output.state
        pieces.append(output.audio)
    return torch.cat(pieces, dim=-1)


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_plays_the_same_in_any_pieces(engine):
    if not is_installed(engine):
        pytest.skip(f"{engine} is not installed")
    plain = build()
    other = copy.deepcopy(plain)
    assert other.use_engine(engine, "float32") == engine
    assert other.decoder.engine is not None
    for rows, sizes in ((1, (6, 1, 12)), (3, (19,))):
        torch.testing.assert_close(decoded(other, sizes, rows), decoded(plain, sizes, rows), atol=1e-4, rtol=0)
    assert copy.deepcopy(other).decoder.engine is None and other.use_engine("torch") == "torch"
    torch.testing.assert_close(decoded(other), decoded(plain), atol=1e-5, rtol=0)  # by packed weights


def test_torch_plays_on_when_weights_change_and_says_so():
    pytest.importorskip("openvino")
    codec = build()
    codec.use_engine("openvino", "float32")
    before = decoded(codec)
    with torch.no_grad():
        codec.decoder.project_out.bias.add_(1)
    with pytest.warns(UserWarning, match="use_engine"):
        after = decoded(codec)
    assert not torch.allclose(before, after)


def test_a_codec_that_an_engine_does_not_take():
    pytest.importorskip("openvino")
    codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**SMALL, backbone="seanet"))
    with pytest.warns(UserWarning, match="backbone is 'seanet'"):
        assert codec.use_engine("openvino") == "torch"


class TestPackedWeights:
    """What torch plays by once it was chosen: a copy of the blocks' weights."""

    def test_plays_the_same(self):
        plain, packed = build(), build()
        assert packed.use_engine("torch") == "torch"
        torch.testing.assert_close(decoded(packed), decoded(plain), atol=1e-5, rtol=0)

    def test_goes_when_weights_change(self):
        codec = build()
        codec.use_engine("torch")
        before = decoded(codec)
        with torch.no_grad():
            codec.decoder.blocks[0].expand.weight.mul_(2)
        changed = decoded(codec)
        assert not torch.allclose(before, changed)
        torch.testing.assert_close(changed, decoded(copy.deepcopy(codec)), atol=1e-5, rtol=0)

    def test_goes_when_somebody_listens(self):
        codec, heard = build(), []
        codec.use_engine("torch")
        codec.decoder.blocks[1].contract.register_forward_hook(lambda *given: heard.append(given))
        decoded(codec)
        assert len(heard) == 3
