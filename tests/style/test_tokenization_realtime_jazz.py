from __future__ import annotations

import pytest
from transformers import AutoTokenizer

import rtjazz_hf  # noqa: F401 - registers the Auto classes
from rtjazz_hf.style import RealTimeJazzStyleEncoderConfig, RealTimeJazzTokenizer, train_tokenizer

CAPTIONS = [
    "A relaxed medium swing piano trio at 120 bpm",
    "Bossa nova with nylon guitar and brushes, 137 bpm in F",
    "Slow blues, muted trumpet and organ",
] * 5


@pytest.fixture(scope="module")
def tokenizer() -> RealTimeJazzTokenizer:
    return train_tokenizer(CAPTIONS, vocab_size=400)


class TestTokens:
    def test_form(self, tokenizer):
        batch = tokenizer(
            ["slow blues", "a relaxed medium swing piano trio"], padding=True, return_tensors="pt"
        )
        assert set(batch) == {"input_ids", "attention_mask"}
        assert (batch.input_ids[:, 0] == tokenizer.bos_token_id).all()
        assert batch.input_ids[0][batch.attention_mask[0] == 0].eq(tokenizer.pad_token_id).all()
        assert tokenizer.pad_token_id == 0 == RealTimeJazzStyleEncoderConfig().pad_token_id
        assert len(tokenizer) <= 400

    def test_case_and_spaces_do_not_matter(self, tokenizer):
        assert tokenizer("  Slow   BLUES\n").input_ids == tokenizer("slow blues").input_ids

    @pytest.mark.parametrize("text", ["slow blues", "dm7 | g7 | cø△", "日本のジャズ 🎷", "137 bpm"])
    def test_anything_can_be_read_and_written_back(self, tokenizer, text):
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == text

    def test_digits_are_single(self, tokenizer):
        one, two = tokenizer("120 bpm").input_ids, tokenizer("137 bpm").input_ids
        assert len(one) == len(two)

    def test_long_texts_are_cut(self, tokenizer):
        assert len(tokenizer("xyz " * 200, truncation=True).input_ids) == 64


class TestTraining:
    def test_repeatable(self, tokenizer):
        assert train_tokenizer(CAPTIONS, vocab_size=400).get_vocab() == tokenizer.get_vocab()

    def test_refusals(self):
        with pytest.raises(ValueError, match="at least 260"):
            train_tokenizer(CAPTIONS, vocab_size=100)
        with pytest.raises(ValueError, match="no text"):
            train_tokenizer(["", "  "])

    def test_saved_and_loaded(self, tokenizer, tmp_path):
        tokenizer.save_pretrained(tmp_path)
        for loaded in (
            RealTimeJazzTokenizer.from_pretrained(tmp_path),
            AutoTokenizer.from_pretrained(tmp_path),
        ):
            assert type(loaded) is RealTimeJazzTokenizer
            assert loaded("A Bossa in 5/4").input_ids == tokenizer("A Bossa in 5/4").input_ids
            assert loaded.model_max_length == 64
            assert loaded.pad_token_id == 0
            assert loaded.model_input_names == ["input_ids", "attention_mask"]
