"""Play a clip over a chord chart, and write it with the codes that the codec would send for it.

python pipelines/examples/whole_clip.py --out trio.wav
"""

from __future__ import annotations

import argparse

import torch

from rtjazz_hf import RealTimeJazzPipeline
from rtjazz_hf.audio import write_audio

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="rtjazz-mini", help="bundled name, folder or Hub id")
parser.add_argument("--out", default="trio.wav")
parser.add_argument("--seconds", type=float, default=10.0)
args = parser.parse_args()

pipe = RealTimeJazzPipeline.from_pretrained(args.model)
out = pipe(
    "relaxed medium swing piano trio with brushes",
    duration=args.seconds,
    chords="Dm7 | G7 | Cmaj7 | A7b9",
    tempo=132,
    generator=torch.Generator().manual_seed(1),
)
write_audio(args.out, out.audios[0], overwrite=True)  # (2, samples) float32 at 48 kHz
print(f"{args.out}: {out.lead_sheets[0].to_text()}")

codes = pipe.codec.latents_to_codes(out.latents)  # (1, 4, frames)
print(f"codes {tuple(codes.shape)}, {pipe.codec.bitrate() / 1000:.1f} kbit/s")
