"""Stream endless music, change what is played on the way, and write what came out.

python pipelines/examples/live_updates.py --out session.wav
"""

from __future__ import annotations

import argparse

import numpy as np

from rtjazz_hf import RealTimeJazzPipeline
from rtjazz_hf.audio import write_audio

# From which second on, what changes. The band leader decides what is not fixed here.
UPDATES = [
    (4.0, {"tempo": 126}),
    (8.0, {"prompt": {"bossa nova, nylon guitar": 0.4, "hard bop quintet": 0.6}}),
    (12.0, {"chords": "Am7 | D7 | Gmaj7 | E7b9", "instruments": ["guitar", "bass", "drums"]}),
]

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="rtjazz-mini", help="bundled name, folder or Hub id")
parser.add_argument("--out", default="session.wav")
parser.add_argument("--seconds", type=float, default=16.0)
args = parser.parse_args()

pipe = RealTimeJazzPipeline.from_pretrained(args.model)
waiting, blocks = list(UPDATES), []
with pipe.live("bossa nova, nylon guitar", tempo=120, seed=1) as session:
    for block in session:
        blocks.append(block.audio)  # (2, samples): what a sound card would get now
        place = f"bar {block.bar}, beat {block.beat:.2f}"
        print(f"{block.start:6.2f} s  {place:18} {block.chord.symbol:9} {block.tempo:g} BPM")
        while waiting and session.position >= waiting[0][0]:
            session.update(**waiting.pop(0)[1])
        if session.position >= args.seconds:
            break
    stats = session.stats()
write_audio(args.out, np.concatenate(blocks, axis=1), overwrite=True)
print(f"{args.out}: real-time factor {stats.real_time_factor:.2f}, {stats.under_runs} blocks came too late")
