"""Merge an adapter into its base: a pipeline that plays so for good, without peft.

    python conversion/merge_adapter.py rtjazz-mini my-style -o my-band
    python conversion/merge_adapter.py rtjazz-mini me/my-style --strength 0.7 --dtype float32 -o my-band

The folder appears only if the merged pipeline plays as the base with the adapter does, to 1e-3, not as the base alone,
and if it was loaded again and played as it did before it was stored, to the bit.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open

from assemble_pipeline import (
    DTYPES,
    MODELS,
    check_output,
    largest_difference,
    play,
    read_values,
    round_weights,
    save_pipeline,
)
from rtjazz_hf import RealTimeJazzFlowTransformer, RealTimeJazzPipeline, hub
from rtjazz_hf.adapters import MAX_STRENGTH
from rtjazz_hf.cli.scripts import run_script
from rtjazz_hf.hub import publishing
from rtjazz_hf.hub.adapter_folder import ADAPTER_WEIGHTS, PHRASES, check_adapter_folder, find_adapter
from rtjazz_hf.runtime.files import atomic_folder

LARGEST_DIFFERENCE = 1e-3


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("base", help="pipeline: bundled name, folder or Hub id")
    parser.add_argument("adapter", help="folder or Hub id of the adapter, in PEFT's format")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the merged pipeline")
    parser.add_argument("--overwrite", action="store_true", help="replace the pipeline that is there")
    parser.add_argument("--strength", type=float, default=1.0, help="how much of it, -2 to 2 (1)")
    parser.add_argument("--revision", help="of an adapter on the Hub")
    parser.add_argument("--dtype", choices=DTYPES, default="float16", help="how weights are stored (float16)")
    parser.add_argument("--card", type=Path, help="model card, or a template with {{places}}, for README.md")
    parser.add_argument(
        "--card-values",
        type=Path,
        help="JSON object of the template's places (see model_cards/) and of `metadata`",
    )
    return parser.parse_args(argv)


def adapter_folder(source: str, revision: str | None) -> Path:
    """A folder's own path, or where an adapter of the Hub was fetched to; whole, and no pickle."""
    folder = find_adapter(source, revision)
    check_adapter_folder(folder)
    return folder


def attach(transformer: RealTimeJazzFlowTransformer, folder: Path, strength: float):
    """A `PeftModel` around a copy of the transformer, every weight of the adapter in its place."""
    from peft import PeftModel, get_peft_model_state_dict

    try:
        model = PeftModel.from_pretrained(copy.deepcopy(transformer), str(folder), low_cpu_mem_usage=False)
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"the adapter in {folder} was not made for this base: {reason}") from error
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        saved = set(file.keys())
    placed = set(get_peft_model_state_dict(model))
    if astray := sorted(saved ^ placed):
        raise ValueError(
            f"the adapter in {folder} was not made for this base: {len(saved - placed)} of its weights have no place, "
            f"{len(placed - saved)} places have no weights ({astray[0]}, ...)"
        )
    for module in model.modules():
        if hasattr(module, "scale_layer"):
            module.scale_layer(strength)
    return model.eval()


def with_transformer(pipe: RealTimeJazzPipeline, transformer: torch.nn.Module) -> RealTimeJazzPipeline:
    parts = {name: part for name, part in pipe.components.items() if name != "transformer"}
    return RealTimeJazzPipeline(**parts, transformer=transformer, **pipe.generation_defaults)


def merge(args: argparse.Namespace) -> None:
    check_output(args.output, args.overwrite)
    if not 0 < abs(args.strength) <= MAX_STRENGTH:
        raise ValueError(f"strength {args.strength}: give a number from -2 to 2, other than 0")
    folder = adapter_folder(args.adapter, args.revision)
    pipe = RealTimeJazzPipeline.from_pretrained(args.base, engine="torch")
    template = args.card.read_text(encoding="utf-8") if args.card else None
    values = read_values(args.card_values)
    adapted = attach(pipe.transformer, folder, args.strength)
    alone = play(pipe)["audio"]
    wanted = play(with_transformer(pipe, adapted.base_model.model))
    merged = with_transformer(pipe, adapted.merge_and_unload())
    played = play(merged)
    difference, effect = largest_difference(wanted, played), (played["audio"] - alone).abs().max().item()
    print(f"parity: merged and adapted differ by {difference:.1e}, merged and base by {effect:.1e}")
    if not difference <= LARGEST_DIFFERENCE:
        raise ValueError(f"the merged pipeline plays differently, by {difference:.1e}; nothing was written")
    if effect == 0.0:
        raise ValueError(f"{args.adapter} changes nothing in {args.base}; nothing was written")

    dtype, name = DTYPES[args.dtype], args.output.resolve().name
    error = max(round_weights(getattr(merged, part), dtype) for part in MODELS)
    print(f"weights rounded by {error:.1e} of their size")
    rounded = play(merged)
    base = publishing.base_of(pipe, {})
    with atomic_folder(args.output) as partial:
        save_pipeline(
            merged, partial, dtype, hub.model_card(merged, name, template, **{"base_model": base, **values})
        )
        difference = largest_difference(rounded, play(RealTimeJazzPipeline.from_pretrained(partial, engine="torch")))
        print(f"largest difference after loading: {difference}")
        if difference != 0.0:
            raise ValueError(f"the saved pipeline plays differently, by {difference}; nothing was written")
        # such as the embedding that calls the style by its name, and its player's habits
        for path in (*folder.glob("*.safetensors"), *folder.glob(PHRASES)):
            if path.name != ADAPTER_WEIGHTS:
                shutil.copyfile(path, partial / path.name)
                print(f"{path.name} was copied as it is: it is not part of the weights")
    print(f"{args.output}: {args.base} with {args.adapter} at {args.strength:g}")


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(lambda: merge(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
