import numpy as np
import pytest

from rtjazz_hf.evaluation.measures.embeddings import ClipEmbedding
from rtjazz_hf.evaluation.measures.style_gain import obedience, style_gain, verdicts
from rtjazz_hf.music import LeadSheet

RNG = np.random.default_rng(0)
OWN, OTHER, NEUTRAL = np.eye(8)[:3]


def clips(centre, count=12, spread=0.1):
    made = []
    for _ in range(count):
        features = (centre + spread * RNG.standard_normal((3, 8))).astype(np.float32)
        made.append(
            ClipEmbedding(
                np.arange(3) * 5.0, 5.0, features, features / np.linalg.norm(features, axis=1)[:, None]
            )
        )
    return made


def test_clips_of_the_own_player_are_a_gain():
    gain = style_gain(clips(NEUTRAL), clips(OWN), clips(OWN), clips(OTHER))
    assert gain["frechet_gain"] > 0.8 and gain["cosine_gain"] > 0.8 and gain["own_share"] == 1.0
    same = {"chords": 0.8, "beats": 0.9}
    assert all(verdicts(gain, same, same).values())
    assert not verdicts(gain, same, {"chords": 0.7, "beats": 0.9})["chords kept"]


def test_an_adapter_that_does_nothing_gains_nothing():
    base = clips(NEUTRAL)
    gain = style_gain(base, base, clips(OWN), clips(OTHER))
    assert gain["frechet_gain"] == gain["cosine_gain"] == 0.0 and gain["own_share"] == gain["own_share_base"]


def test_towards_the_other_player_is_a_loss():
    gain = style_gain(clips(0.5 * OWN + NEUTRAL), clips(OTHER), clips(OWN), clips(OTHER))
    assert gain["cosine_gain"] < 0 and gain["own_share"] == 0.0


def test_empty_sets_are_named():
    with pytest.raises(ValueError, match="no clips of adapted, other"):
        style_gain(clips(OWN), [], clips(OWN), [])


def test_obedience_of_a_take_to_its_own_chart():
    pytest.importorskip("librosa")
    pytest.importorskip("mir_eval")
    from synthetic_takes import played

    chart = "Dm7 | G7 | Cmaj7 | A7"
    kept = obedience([played(120, 12.0, chart)], [LeadSheet.from_chart(chart, 120)])
    assert kept["chords"] > 0.9 > kept["chords_rotated"] and kept["beats"] > 0.9
