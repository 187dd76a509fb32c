"""Fill a latent store: each take is read once, encoded by the codec and embedded by the style encoder.

    python training/prepare_latents.py --takes data/corpus --codec runs/codec/final --style-encoder runs/style/final \\
        --data data/latents

What the store holds already is kept: stop it when you like, run it again when the corpus has grown. Several
processes share the work with --part 0/2, --part 1/2. Embeddings of another style encoder, without encoding again:
the same command with --styles NAME; train_flow.py --styles NAME then uses them.

A file that is damaged is named by --verify, or when training comes to it: delete it and run this again.

`train_flow.py --takes` fills its store too, before it trains.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.latent_filling import fill_takes
from rtjazz_hf.corpus.latent_store import LatentStore
from rtjazz_hf.hub import load_codec, load_style_encoder
from rtjazz_hf.trainers.run import input_errors


def parse_part(text: str) -> tuple[int, int]:
    """`"0/2"` -> (0, 2): the first half of the takes."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no part; write K/N with K from 0 to N - 1, such as 0/2"
        )
    return int(match[1]), int(match[2])


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--takes", required=True, help="corpus of prepare_corpus.py")
    parser.add_argument(
        "--codec", required=True, help="folder of a codec or pipeline, bundled name or Hub id"
    )
    parser.add_argument("--style-encoder", required=True, help="folder of train_style.py, or a pipeline")
    parser.add_argument("--data", required=True, type=Path, help="the store; what it holds is kept")
    parser.add_argument("--styles", default="styles", help="name of the style embeddings in it (styles)")
    parser.add_argument("--codes", action="store_true", help="store codes too, for prediction_type codebook")
    parser.add_argument(
        "--part", type=parse_part, default=(0, 1), metavar="K/N", help="this process's share (0/1)"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--verify", action="store_true", help="then read the whole store and compare it with its checksums"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    index, parts = args.part
    with input_errors():
        takes = load_takes(args.takes)[index::parts]
        codec = load_codec(args.codec).to(args.device)
        style_encoder, tokenizer = load_style_encoder(args.style_encoder)
        fill_takes(codec, style_encoder.to(args.device), tokenizer, takes, args.data, args.codes,
                   styles=args.styles, progress=not args.quiet)  # fmt: skip
        if args.verify:
            store = LatentStore(args.data, styles=args.styles)
            print(
                f"{len(store)} takes, {store.hours:.2f} hours; {store.verify()} files agree with their checksums"
            )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
