"""Send a recording through the codec, a few codes at a time, as over a thin line.

python pipelines/examples/codec_round_trip.py recording.flac --out received.wav --levels 4
"""

from __future__ import annotations

import argparse

import torch

from rtjazz_hf.audio import read_audio, write_audio
from rtjazz_hf.hub import load_codec

PACKET_FRAMES = 15  # 0.2 s

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("recording", help="wav, flac, ogg or mp3 of any rate, mono or stereo")
parser.add_argument("--model", default="rtjazz-mini", help="bundled name, folder or Hub id")
parser.add_argument("--out", default="received.wav")
parser.add_argument("--levels", type=int, help="levels of codes that are sent (default: all)")
args = parser.parse_args()

codec = load_codec(args.model)
audio = torch.from_numpy(read_audio(args.recording))[None]  # (1, 2, samples) at 48 kHz
codes = codec.encode(audio, num_codebooks=args.levels).codes  # (1, levels, frames)

state, pieces = None, []
for packet in codes.split(PACKET_FRAMES, dim=-1):
    received = codec.decode(codes=packet, state=state)  # the state joins the pieces without a seam
    state = received.state
    pieces.append(received.audio)
write_audio(args.out, torch.cat(pieces, dim=-1)[0, :, : audio.shape[-1]].numpy(), overwrite=True)
print(f"{args.out}: {codes.shape[1]} levels, {codec.bitrate(codes.shape[1]) / 1000:.2f} kbit/s")
