"""Store a pipeline with its transformer's weights in 8 or 4 bits.

    python conversion/quantize.py rtjazz-mini --precision int8 -o rtjazz-mini-int8     # a CPU's, and CUDA's LLM.int8()
    python conversion/quantize.py me/rtjazz-base --precision nf4 -o rtjazz-base-nf4

bitsandbytes does it (see `rtjazz_hf.runtime.quantization`: attention and MLP weights; the rest stays whole); `int8`
weights are what the packed products of a CPU read. Smaller weights play a little differently: the velocity's relative
error against the whole weights is measured over noise levels and blocks, and the folder appears only if it is below
the limit of its precision, and if it loads again with the same weights to the bit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from assemble_pipeline import check_output, play
from rtjazz_hf import RealTimeJazzFlowTransformer, RealTimeJazzPipeline, hub
from rtjazz_hf.cli.scripts import run_script
from rtjazz_hf.hub import publishing
from rtjazz_hf.runtime.files import atomic_folder
from rtjazz_hf.runtime.quantization import PRECISIONS, quantize, quantized_size

# Root mean square of the velocity's error, relative; a few times what the bundled model has.
LARGEST_ERRORS = {"int8": 0.03, "nf4": 0.25}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="pipeline: bundled name, folder or Hub id")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the quantised pipeline")
    parser.add_argument("--overwrite", action="store_true", help="replace the pipeline that is there")
    parser.add_argument("--precision", choices=PRECISIONS, default="int8", help="of the weights (int8)")
    parser.add_argument(
        "--largest-error", type=float, help="of the velocity, relative (int8: 0.03, nf4: 0.25)"
    )
    return parser.parse_args(argv)


@torch.no_grad()
def velocities(pipe: RealTimeJazzPipeline, transformer: RealTimeJazzFlowTransformer) -> torch.Tensor:
    """Velocities of a second block at eight noise levels, as the pipeline would ask for them."""
    generator, frames = torch.Generator().manual_seed(0), pipe.config.block_frames
    shape = (1, transformer.config.num_channels, frames)
    clean, noise = (torch.randn(shape, generator=generator) for _ in range(2))
    sheet = pipe.prepare_lead_sheet("medium swing piano trio", seeds=[0], duration=2.0)
    cache = transformer.init_cache(1)
    transformer.append_to_cache(clean, cache)
    timesteps = torch.linspace(0, 0.9, 8)
    conditions = transformer.prepare_conditions(
        timesteps,
        pipe.prepare_features(sheet, frames, frames),
        pipe.encode_prompt("medium swing piano trio"),
        cache,
    )
    return torch.cat(
        [
            transformer(
                torch.lerp(noise, clean, t), conditions=conditions, step=step, cache=cache
            ).sample.float()
            for step, t in enumerate(timesteps.tolist())
        ]
    )


def relative_error(given: torch.Tensor, expected: torch.Tensor) -> float:
    return ((given - expected).square().mean() / expected.square().mean()).sqrt().item()


def check_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    """Refuse weights, scales and codebooks that are not the same to the bit.

    What the two play may still differ a little: nf4 weights saved and loaded were equal to the bit, and their velocity
    off by up to 0.008 of 8.1 on one CPU. Why was not found out.
    """
    one, other = one.state_dict(), other.state_dict()
    if set(one) != set(other) or not all(torch.equal(one[name], other[name]) for name in one):
        raise ValueError("the saved weights are not those that were checked; nothing was written")


def convert(args: argparse.Namespace) -> None:
    check_output(args.output, args.overwrite)
    pipe = RealTimeJazzPipeline.from_pretrained(args.model, engine="torch").to("cpu")
    whole = pipe.transformer
    expected, before = velocities(pipe, whole), whole.get_memory_footprint()
    pipe.transformer = small = quantize(whole, args.precision)
    error = relative_error(velocities(pipe, small), expected)
    limit = LARGEST_ERRORS[args.precision] if args.largest_error is None else args.largest_error
    print(f"parity: {args.precision} velocities differ by {error:.2%} of their size; {limit:.2%} is allowed")
    if not error <= limit:
        raise ValueError(
            f"the {args.precision} weights play too differently, by {error:.2%}; nothing was written"
        )
    base = publishing.base_of(pipe, {})
    metadata = {"base_model_relation": "quantized"} if base else {}
    with atomic_folder(args.output) as partial:
        card = hub.model_card(pipe, args.output.resolve().name, base_model=base, metadata=metadata)
        (partial / "README.md").write_text(
            card, encoding="utf-8"
        )  # save_pretrained keeps a card that is there
        pipe.save_pretrained(partial)
        again = RealTimeJazzPipeline.from_pretrained(partial, engine="torch")
        check_same(small, again.transformer)
        error = relative_error(velocities(again, again.transformer), expected)
        print(f"after loading: the same weights to the bit, velocities differ from the whole by {error:.2%}")
        if not error <= limit or not play(again)["audio"].isfinite().all():
            raise ValueError(f"the saved pipeline plays too differently, by {error:.2%}; nothing was written")
    after = small.get_memory_footprint()
    print(
        f"{args.output}: transformer of {after / 1e6:.1f} MB, {after / before:.2f} of {before / 1e6:.1f} MB"
    )
    size, count = quantized_size(small)
    print(
        f"of that {count / 1e6:.1f}M weights in {size / 1e6:.1f} MB, {size / (2 * count):.2f} of bfloat16's"
    )


def main(argv: Sequence[str] | None = None) -> int:
    hub.quiet_libraries()
    return run_script(lambda: convert(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
