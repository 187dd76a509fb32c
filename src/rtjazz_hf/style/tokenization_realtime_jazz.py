"""The style encoder's tokenizer: byte-level BPE over lower-case text, so that no prompt has an unknown
character."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rtjazz_hf.runtime.bundled import BundledMixin

SPECIAL_TOKENS = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
MAX_TOKENS = 64


class RealTimeJazzTokenizer(BundledMixin, PreTrainedTokenizerFast):
    """Text to the style encoder's `input_ids` and `attention_mask`: `<s> words </s>`, at most 64 with
    truncation.

    It has no `__init__` of its own on purpose: transformers then loads `tokenizer.json` as it stands.
    """

    bundled_part = "tokenizer"
    model_input_names = ["input_ids", "attention_mask"]


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = 2048, max_tokens: int = MAX_TOKENS
) -> RealTimeJazzTokenizer:
    """Learn byte-pair merges from texts (captions, vocabulary words); at most `vocab_size` tokens.

    Case, accents' encoding and outer spaces do not matter; digits stay single, so 137 bpm is as readable as
    140. Raises ValueError for a vocabulary that cannot hold all 256 bytes or for no texts. The same texts in
    the same order give the same tokenizer.
    """
    texts = [text for text in texts if text.strip()]
    smallest = len(pre_tokenizers.ByteLevel.alphabet()) + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size must be at least {smallest} (all bytes and special tokens), got {vocab_size}."
        )
    if not texts:
        raise ValueError("there is no text to learn a tokenizer from.")
    backend = Tokenizer(models.BPE(unk_token=SPECIAL_TOKENS["unk_token"]))
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Digits(individual_digits=True)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    bos, eos = SPECIAL_TOKENS["bos_token"], SPECIAL_TOKENS["eos_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} $B {eos}",
        special_tokens=[(token, backend.token_to_id(token)) for token in (bos, eos)],
    )
    return RealTimeJazzTokenizer(
        tokenizer_object=backend, model_max_length=max_tokens, padding_side="right", **SPECIAL_TOKENS
    )


__all__ = ["RealTimeJazzTokenizer", "train_tokenizer"]
