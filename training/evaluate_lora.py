"""Measure what a personal adapter brings: distance to the player's held-out takes, and obedience, before and after.

    python training/evaluate_lora.py my-style/adapter --own players/a/held_out --other players/b/held_out

The charts are the band leader's, of all bands and genres, and the same for all, and so are the seeds. Where the
adapter knows its player's band, it plays them, as it does for who calls the style. The base plays the charts twice: as
they are, which is what the gain is of, and with that band too, which leaves to the adapter what is the adapter's
("same_band").
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rtjazz_hf import RealTimeJazzPipeline
from rtjazz_hf.adapters import read_adapter
from rtjazz_hf.audio import read_audio, write_audio
from rtjazz_hf.band import random_lead_sheet
from rtjazz_hf.corpus.personal import find_recordings, other_files
from rtjazz_hf.evaluation.measures.embeddings import TowerEmbedder
from rtjazz_hf.evaluation.measures.style_gain import obedience, style_gain, verdicts
from rtjazz_hf.runtime.files import whole_or_not_at_all
from rtjazz_hf.trainers.run import disk_errors, input_errors


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", help="folder of the adapter")
    parser.add_argument("--own", required=True, help="folder of held-out recordings of its player")
    parser.add_argument("--other", required=True, help="folder of recordings of another player")
    parser.add_argument("--base", default="rtjazz-mini", help="pipeline (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=24, help="charts that are played (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each (default: %(default)g)")
    parser.add_argument(
        "--words",
        default="",
        help='said before "in the style of": with "jazz" a third of the style is the words\'',
    )
    parser.add_argument("--scale", type=float, default=1.0, help="strength of the adapter, -2 to 2")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips-out", type=Path, help="folder that is there, for the clips as FLAC")
    parser.add_argument("--out", help="file for the measures as JSON (printed anyway)")
    return parser.parse_args(argv)


def generate(pipe: RealTimeJazzPipeline, sheets, prompt: str, seconds: float, **how) -> list[np.ndarray]:
    """One clip `(2, samples)` of each sheet; chart i has seed i."""
    clips = []
    for index, sheet in enumerate(sheets):
        made = pipe(prompt, duration=seconds, lead_sheet=sheet,
                    generator=torch.Generator().manual_seed(index), **how)  # fmt: skip
        clips.append(np.asarray(made.audios[0]))
    return clips


@disk_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with input_errors():
        pipe = RealTimeJazzPipeline.from_pretrained(args.base, engine="torch")
        pipe.set_progress_bar_config(disable=True)
        rng = np.random.default_rng(args.seed)
        sheets = [random_lead_sheet(rng) for _ in range(args.clips)]
        embed = TowerEmbedder(pipe.style_encoder)
        for path in (path for folder in (args.own, args.other) for path in other_files(folder)):
            print(f"passed over: '{path}' is no recording, by its name", file=sys.stderr)
        own, other = ([embed(read_audio(f)) for f in find_recordings(d)] for d in (args.own, args.other))
        adapter = read_adapter(args.adapter)
        style = f"{args.words} in the style of {adapter.style_name}".strip() if adapter.style_name else "jazz"
        asked = [sheet.with_band(adapter.band) for sheet in sheets] if adapter.band else sheets
        base = generate(pipe, sheets, "jazz", args.seconds)
        same_band = generate(pipe, asked, "jazz", args.seconds) if adapter.band else base
        name = pipe.load_lora_weights(args.adapter) or "default"
        adapted = generate(pipe, asked, style, args.seconds, adapter_scale=args.scale)
        base_heard, band_heard, adapted_heard = (
            [embed(c) for c in clips] for clips in (base, same_band, adapted)
        )
        gain = style_gain(base_heard, adapted_heard, own, other)
        before, after = obedience(same_band, asked), obedience(adapted, asked)
        result = {"adapter": str(args.adapter), "loaded_as": str(name), "prompt": style, "band": adapter.band, **gain,
                  "same_band": style_gain(band_heard, adapted_heard, own, other), "before": before, "after": after,
                  "verdicts": verdicts(gain, before, after)}  # fmt: skip
        if args.clips_out:
            for index, clip in enumerate(zip(base, same_band, adapted)):
                for what, audio in zip(("base", "same_band", "adapted"), clip):
                    write_audio(args.clips_out / f"{index:02d}_{what}.flac", audio, overwrite=True)
        text = json.dumps(result, indent=2)
        print(text)
        if args.out:
            with whole_or_not_at_all(Path(args.out)) as partial:
                partial.write_text(text)


if __name__ == "__main__":
    main()
