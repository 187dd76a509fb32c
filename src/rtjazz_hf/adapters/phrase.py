"""A learnt style in a prompt: "slow ballad in the style of <name>"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch

from ..style import mix_styles

STYLE_WEIGHT = 2.0  # of learnt styles beside other words, which weigh 1: who calls a player wants to hear the player


def split_style(words: str, names: Iterable[str]) -> tuple[str, list[str]]:
    """Take "in the style of <name>" out of `words`: what is left, and those of `names` that were called."""
    by_name = {name.casefold(): name for name in names}
    if not by_name:
        return words, []
    options = "|".join(re.escape(name) for name in sorted(by_name, key=len, reverse=True))
    phrase = re.compile(rf"[,;]?\s*\bin the style of\s+[\"']?({options})[\"']?(?!\w)", re.IGNORECASE)
    called = [by_name[match.casefold()] for match in phrase.findall(words)]
    return phrase.sub("", words).strip(" ,;."), called


def call_style(words: torch.Tensor | None, styles: Sequence[torch.Tensor]) -> torch.Tensor:
    """The style embedding of words with a learnt style: the unit vector between the two, nearer to the style.

    Args:
        words: `(style_dim,)`, of the prompt without the phrase; None if nothing else was said.
        styles: learnt embeddings `(style_dim,)`, all that were called, in equal parts.
    """
    style = mix_styles(torch.stack(list(styles)), [1.0] * len(styles))
    return style if words is None else mix_styles(torch.stack([words, style.to(words)]), [1.0, STYLE_WEIGHT])


__all__ = ["call_style", "split_style"]
