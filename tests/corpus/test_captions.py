import re

import numpy as np
import pytest

from rtjazz_hf.band import random_lead_sheet
from rtjazz_hf.corpus.captions import caption, captions, tags
from rtjazz_hf.music import GENRES


@pytest.mark.parametrize("genre", GENRES)
def test_captions_are_varied_and_tidy(genre):
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(20):
        sheet = random_lead_sheet(rng, genre)
        three = captions(sheet, rng)
        assert len(set(three)) == 3
        texts += three
    assert len(set(texts)) > 50
    for text in texts:
        assert text == text.strip() and "  " not in text and ",," not in text and "None" not in text
        assert not re.search(r"\ba [aeiou]", text) and "_" not in text, text


def test_same_state_same_caption():
    sheet = random_lead_sheet(np.random.default_rng(1))
    assert caption(sheet, np.random.default_rng(2)) == caption(sheet, np.random.default_rng(2))


def test_tempo_in_a_caption_is_the_sheet_s():
    rng = np.random.default_rng(3)
    for _ in range(50):
        sheet = random_lead_sheet(rng)
        for number in re.findall(r"(\d+) (?:bpm|BPM)", caption(sheet, rng)):
            assert int(number) == round(sheet.tempo)


def test_tags_name_everything():
    sheet = random_lead_sheet(np.random.default_rng(4))
    found = tags(sheet)
    assert found["genre"] == sheet.genre and found["instruments"] == list(sheet.instruments)
    assert set(found["leads"]) <= set(found["instruments"]) and found["roles"]
