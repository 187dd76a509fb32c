"""Make a small pipeline large: a flow and a text tower of more layers and greater width, which play what they played.

    python conversion/grow_flow.py rtjazz-mini -o my-base                      # to the sizes of rtjazz-base
    python conversion/grow_flow.py rtjazz-mini -o my-base --hidden-size 768 --layers 8 --heads 12 --keep-text
    accelerate launch training/train_flow.py --config base --init-from my-base/transformer ...

Nothing is lost and nothing has to be learnt again: the large model begins where the small one ended. Every unit of the
residual stream is there several times (Net2Net, arXiv:1511.05641), read by weights that are not the same, so that the
copies part when they learn; new heads, new units inside a layer and new layers begin with outputs of zero, as the new
layers of LLaMA Pro do (arXiv:2401.02415). The folder appears only if the large pipeline plays as the small one, to
1e-3.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from assemble_pipeline import check_output, largest_difference, play, save_pipeline
from rtjazz_hf import (
    RealTimeJazzFlowTransformer,
    RealTimeJazzFlowTransformerConfig,
    RealTimeJazzPipeline,
    RealTimeJazzStyleEncoder,
    RealTimeJazzStyleEncoderConfig,
    hub,
)
from rtjazz_hf.cli.scripts import run_script
from rtjazz_hf.runtime.configs import settings_of
from rtjazz_hf.runtime.files import atomic_folder

LARGEST_DIFFERENCE = 1e-3
_APART = 0.3  # of the weights' deviation: by how much the copies of a unit are read differently


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    base, text = RealTimeJazzFlowTransformerConfig.base(), RealTimeJazzStyleEncoderConfig.base()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pipeline", help="bundled name, folder or Hub id")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the large pipeline")
    parser.add_argument("--overwrite", action="store_true", help="replace the pipeline that is there")
    parser.add_argument("--hidden-size", type=int, default=base.hidden_size, help="of the flow (%(default)s)")
    parser.add_argument(
        "--layers", type=int, default=base.num_hidden_layers, help="of the flow (%(default)s)"
    )
    parser.add_argument(
        "--heads", type=int, default=base.num_attention_heads, help="of the flow (%(default)s)"
    )
    parser.add_argument(
        "--intermediate-size", type=int, default=base.intermediate_size, help="of the flow (%(default)s)"
    )
    parser.add_argument("--text-layers", type=int, default=text.text_num_layers, help="(%(default)s)")
    parser.add_argument("--text-hidden-size", type=int, default=text.text_hidden_size, help="(%(default)s)")
    parser.add_argument("--text-heads", type=int, default=text.text_num_heads, help="(%(default)s)")
    parser.add_argument("--keep-text", action="store_true", help="leave the text tower as it is")
    parser.add_argument("--seed", type=int, default=0, help="of what is new (%(default)s)")
    return parser.parse_args(argv)


class Growth:
    """Weights of a small model in the places of a large one whose residual stream holds every unit `copies` times.

    What is new keeps the values that the large model was made with, but for the columns that would read it: those
    are zero.
    """

    def __init__(self, copies: int, seed: int):
        self.copies = copies
        self.chance = torch.Generator().manual_seed(seed)

    def written(self, tensor: torch.Tensor, chunks: int = 1) -> torch.Tensor:
        """Rows that write the stream, of which there are `chunks` one after another, for all copies."""
        parts = tensor.unflatten(0, (chunks, -1)).unsqueeze(1)  # (chunks, 1, units, ...)
        return parts.expand(-1, self.copies, *parts.shape[2:]).flatten(0, 2)

    def read(self, weight: torch.Tensor) -> torch.Tensor:
        """Columns that read the stream, shared out to the copies: as much together as before, each a little other."""
        apart = torch.randn(self.copies, *weight.shape, generator=self.chance) * weight.std() * _APART
        apart -= apart.mean(0)
        return torch.cat([(weight + each) / self.copies for each in apart], dim=1)

    @torch.no_grad()
    def linear(self, new: nn.Linear, old: nn.Linear, reads: bool, writes: int = 0) -> None:
        """A linear layer.

        Args:
            reads: whether its inputs are the stream. writes: how many times over its outputs are; 0 where they are
                something else. Where they are not the stream, the first units are the old ones.
        """
        weight = self.read(old.weight) if reads else old.weight
        if writes:
            weight = self.written(weight, writes)
        rows, columns = weight.shape
        if rows > new.weight.shape[0] or columns > new.weight.shape[1]:
            raise ValueError(
                f"a layer of {tuple(weight.shape)} does not go into one of {tuple(new.weight.shape)}"
            )
        new.weight[:rows, :columns] = weight
        new.weight[:, columns:] = 0.0  # what is new is not heard yet
        if old.bias is not None:
            bias = self.written(old.bias, writes) if writes else old.bias
            new.bias[:rows] = bias

    @torch.no_grad()
    def norm(self, new: nn.Module, old: nn.Module) -> None:
        for name, value in old.named_parameters():
            getattr(new, name).copy_(self.written(value))


def layer_plan(old: int, new: int) -> list[tuple[int, bool]]:
    """Of each new layer the old one that it is a copy of, and whether it is a second copy, which begins silent."""
    sources = [index * old // new for index in range(new)]
    return [(source, index > 0 and sources[index - 1] == source) for index, source in enumerate(sources)]


def grow_flow(old: RealTimeJazzFlowTransformer, seed: int = 0, **sizes: int) -> RealTimeJazzFlowTransformer:
    """A larger flow that computes what `old` does.

    Args:
        sizes: of `hidden_size` (a multiple of the old one), `num_hidden_layers`, `num_attention_heads` (of the width
            that they have), `intermediate_size`: none smaller than it is.

    Raises:
        ValueError: sizes that do not allow it, or all as they are.
    """
    config = old.config
    before = {name: getattr(config, name) for name in sizes}
    if all(sizes[name] <= before[name] for name in sizes):
        had = ", ".join(f"{name} {value}" for name, value in before.items())
        raise ValueError(f"the flow is as large already ({had}): give a larger size")
    for name, value in sizes.items():
        if value < before[name]:
            raise ValueError(
                f"{name} {value} is less than the {before[name]} of this flow: it grows, and never shrinks"
            )
    hidden, heads = (
        sizes.get("hidden_size", config.hidden_size),
        sizes.get("num_attention_heads", config.num_attention_heads),
    )
    if hidden % config.hidden_size:
        raise ValueError(f"hidden_size {hidden}: give a multiple of the {config.hidden_size} of this flow")
    if hidden != heads * config.head_dim:
        raise ValueError(
            f"hidden_size {hidden} and {heads} heads: those of this flow are {config.head_dim} wide and stay so; "
            f"give {hidden // config.head_dim} heads"
        )
    growth = Growth(hidden // config.hidden_size, seed)
    settings = (
        settings_of(config)
        | {"adaln_rank": config.adaln_rank, "num_style_heads": config.num_style_heads}
        | sizes
    )
    torch.manual_seed(seed)
    new = RealTimeJazzFlowTransformer(type(config)(**settings)).float()

    growth.linear(new.input_proj, old.input_proj, reads=False, writes=1)
    for part in ("lead_sheet_embedding", "time_embedding"):
        if getattr(old, part) is not None:
            growth.linear(getattr(new, part).linear_1, getattr(old, part).linear_1, reads=False, writes=1)
            growth.linear(getattr(new, part).linear_2, getattr(old, part).linear_2, reads=True, writes=1)
    if old.score_embedding is not None:
        growth.linear(new.score_embedding.linear_1, old.score_embedding.linear_1, reads=False)
        growth.linear(new.score_embedding.linear_2, old.score_embedding.linear_2, reads=False, writes=1)
    growth.linear(new.style_embedding, old.style_embedding, reads=False, writes=1)
    growth.linear(new.style_tokens, old.style_tokens, reads=False, writes=config.num_style_tokens)
    growth.linear(new.modulation, old.modulation, reads=True, writes=7)
    growth.linear(new.head.modulation, old.head.modulation, reads=True, writes=2)
    growth.linear(new.head.proj, old.head.proj, reads=True)
    for name, value in old.head.named_buffers():
        getattr(new.head, name).copy_(value)
    for layer, (source, silent) in zip(new.layers, layer_plan(len(old.layers), len(new.layers))):
        _grow_flow_layer(growth, layer, old.layers[source], silent)
    return new.eval()


@torch.no_grad()
def _grow_flow_layer(growth: Growth, new: nn.Module, old: nn.Module, silent: bool) -> None:
    for part in ("self_attn", "cross_attn"):
        mine, its = getattr(new, part), getattr(old, part)
        for name in ("q_proj", "k_proj", "v_proj"):
            growth.linear(getattr(mine, name), getattr(its, name), reads=True)
        growth.linear(mine.o_proj, its.o_proj, reads=False, writes=1)
        for name in ("q_norm", "k_norm"):
            getattr(mine, name).weight.copy_(getattr(its, name).weight)
    growth.norm(new.cross_norm, old.cross_norm)
    for name in ("gate_proj", "up_proj"):
        growth.linear(getattr(new.mlp, name), getattr(old.mlp, name), reads=True)
    growth.linear(new.mlp.down_proj, old.mlp.down_proj, reads=False, writes=1)
    growth.linear(new.adaln_down, old.adaln_down, reads=True)
    growth.linear(new.adaln_up, old.adaln_up, reads=False, writes=7)
    if silent:
        for output in (new.self_attn.o_proj, new.cross_attn.o_proj, new.mlp.down_proj):
            output.weight.zero_()


def grow_text_tower(
    old: RealTimeJazzStyleEncoder, seed: int = 0, *, layers: int, hidden_size: int, heads: int
) -> RealTimeJazzStyleEncoder:
    """A style encoder with a larger text tower, that reads words as `old` does; its ears are the same.

    Raises:
        ValueError: sizes that do not allow it.
    """
    config = old.config
    width, old_heads = config.text_hidden_size, config.text_num_heads
    if hidden_size % width or hidden_size % heads or hidden_size // heads < width // old_heads:
        raise ValueError(
            f"a text tower {hidden_size} wide with {heads} heads: give a multiple of {width}, and heads of at least "
            f"{width // old_heads}"
        )
    if layers < config.text_num_layers or heads < old_heads:
        raise ValueError(
            f"{layers} layers with {heads} heads: the text tower has {config.text_num_layers} with {old_heads} already"
        )
    growth = Growth(hidden_size // width, seed)
    settings = settings_of(config) | {
        "text_hidden_size": hidden_size,
        "text_num_layers": layers,
        "text_num_heads": heads,
        "text_intermediate_size": config.text_intermediate_size * growth.copies,
    }
    torch.manual_seed(seed)
    new = RealTimeJazzStyleEncoder(type(config)(**settings)).float()
    mine, its = new.text_tower, old.text_tower
    with torch.no_grad():
        for name in ("token_embedding", "position_embedding"):
            weight = getattr(its, name).weight
            getattr(mine, name).weight.copy_(growth.written(weight.T).T)
        new.logit_scale.copy_(old.logit_scale)
    growth.norm(mine.final_norm, its.final_norm)
    growth.linear(new.text_projection, old.text_projection, reads=True)
    new.audio_tower.load_state_dict(old.audio_tower.state_dict())
    new.audio_projection.load_state_dict(old.audio_projection.state_dict())
    for layer, (source, silent) in zip(mine.layers, layer_plan(config.text_num_layers, layers)):
        _grow_text_layer(growth, layer, its.layers[source], old_heads, silent)
    return new.eval()


@torch.no_grad()
def _grow_text_layer(growth: Growth, new: nn.Module, old: nn.Module, old_heads: int, silent: bool) -> None:
    for name in ("norm1", "norm2"):
        growth.norm(getattr(new, name), getattr(old, name))
    mine, its = new.attention, old.attention
    wide, narrow = mine.head_dim, its.head_dim
    for name in ("q_proj", "k_proj", "v_proj"):
        weight, bias = growth.read(getattr(its, name).weight), getattr(its, name).bias
        if name == "q_proj":  # the wider heads are scaled down more
            weight, bias = (value * (wide / narrow) ** 0.5 for value in (weight, bias))
        places = getattr(mine, name).weight.unflatten(0, (-1, wide))
        places[:old_heads, :narrow] = weight.unflatten(0, (old_heads, narrow))
        getattr(mine, name).bias.unflatten(0, (-1, wide))[:old_heads, :narrow] = bias.unflatten(
            0, (old_heads, narrow)
        )
        if name == "k_proj":
            places[:old_heads, narrow:] = 0.0  # so what is new in a head changes no score
    columns = torch.zeros_like(mine.out_proj.weight).unflatten(1, (-1, wide))
    columns[:, :old_heads, :narrow] = growth.written(its.out_proj.weight).unflatten(1, (old_heads, narrow))
    mine.out_proj.weight.copy_(columns.flatten(1))
    mine.out_proj.bias.copy_(growth.written(its.out_proj.bias))
    growth.linear(new.fc1, old.fc1, reads=True)
    growth.linear(new.fc2, old.fc2, reads=False, writes=1)
    if silent:
        for output in (mine.out_proj, new.fc2):
            output.weight.zero_()
            output.bias.zero_()


def grow(args: argparse.Namespace) -> None:
    check_output(args.output, args.overwrite)
    pipe = RealTimeJazzPipeline.from_pretrained(args.pipeline, engine="torch")
    wanted = play(pipe)
    flow = grow_flow(
        pipe.transformer, args.seed, hidden_size=args.hidden_size, num_hidden_layers=args.layers,
        num_attention_heads=args.heads, intermediate_size=args.intermediate_size,
    )  # fmt: skip
    style = pipe.style_encoder
    if not args.keep_text:
        style = grow_text_tower(
            style,
            args.seed,
            layers=args.text_layers,
            hidden_size=args.text_hidden_size,
            heads=args.text_heads,
        )
    parts = {**pipe.components, "transformer": flow, "style_encoder": style}
    large = RealTimeJazzPipeline(**parts, **pipe.generation_defaults)
    difference = largest_difference(wanted, play(large))
    print(f"parity: large and small differ by {difference:.1e}")
    if not difference <= LARGEST_DIFFERENCE:
        raise ValueError(f"the large pipeline plays differently, by {difference:.1e}; nothing was written")
    name = args.output.resolve().name
    with atomic_folder(args.output) as partial:
        save_pipeline(large, partial, torch.float32, hub.model_card(large, name, None))
    for what, small, big in (("flow", pipe.transformer, flow), ("style encoder", pipe.style_encoder, style)):
        print(
            f"{what}: {small.num_parameters() / 1e6:.1f} M parameters, now {big.num_parameters() / 1e6:.1f} M"
        )
    print(f"{args.output}: {args.pipeline}, grown")


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(lambda: grow(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
