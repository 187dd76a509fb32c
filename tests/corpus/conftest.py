import pytest
from sample_files import write_tone

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


@pytest.fixture(scope="session")
def sfizz():
    return pytest.importorskip("pysfizz", reason="pip install 'rtjazz-hf[corpus]'")


@pytest.fixture(scope="session")
def instruments_folder(tmp_path_factory):
    """Three tiny instruments: a bass of two round robins and two layers, a saxophone whose samples begin late and have
    a rate of their own, a trumpet whose mapping uses definitions, inclusions and a path."""
    folder = tmp_path_factory.mktemp("instruments")
    bass = ["<global> ampeg_release=0.1 amp_veltrack=60", "<group> seq_length=2"]
    for key in (31, 43, 55):
        low, high = (0, 36) if key == 31 else (key - 6, 127 if key == 55 else key + 5)
        for robin in (1, 2):
            write_tone(folder / "upright_bass" / f"samples/{key} {robin}.wav", key, 48_000, seed=robin)
            for layer in ("lovel=0 hivel=70", "lovel=71 hivel=127"):
                bass.append(
                    f"<region> sample=samples/{key} {robin}.wav lokey={low} hikey={high} pitch_keycenter={key} {layer} "
                    f"seq_position={robin}"
                )
    (folder / "upright_bass" / "bass.sfz").write_text("\n".join(bass))
    sax = ["<control> hint_ram_based=1", "<global> amp_veltrack=70"]
    for key in (50, 65, 80):
        write_tone(folder / "alto_sax" / f"{key}.flac", key, 22_050, rise_s=0.06)
        sax.append(f"<region> sample={key}.flac lokey={key - 7} hikey={key + 7} pitch_keycenter={key}")
    (folder / "alto_sax" / "sax.sfz").write_text("\n".join(sax))
    write_tone(folder / "trumpet" / "wav/high.wav", 67, 44_100)
    (folder / "trumpet" / "keys.inc").write_text("<region> sample=high.wav $RANGE pitch_keycenter=$MIDDLE\n")
    (folder / "trumpet" / "trumpet.sfz").write_text(
        "/* a test */\n#define $RANGE lokey=40\n#define $MIDDLE 67\n<control> default_path=wav\\\n"
        '<group> hikey=100 // all\n#include "keys.inc"\n'
    )
    (folder / "README.md").write_text(
        "| folder | what | keys | source | terms |\n|---|---|---|---|---|\n"
        "| upright_bass, trumpet | a tone | all | this test | CC0 1.0 |\n"
    )
    return folder
