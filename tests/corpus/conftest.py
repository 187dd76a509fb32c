import pytest

from rtjazz_hf.corpus.renderer import Renderer, RendererUnavailable


@pytest.fixture(scope="session", params=["musescore", "fluid"])
def renderer(request):
    """A real renderer; skipped with its own words where FluidSynth or the font is not installed."""
    pytest.importorskip("pyloudnorm", reason="pip install 'rtjazz-hf[corpus]'")
    pytest.importorskip("scipy", reason="pip install 'rtjazz-hf[corpus]'")
    try:
        return Renderer(request.param)
    except RendererUnavailable as error:
        pytest.skip(str(error))
