"""Who hears whom: what a block hears of the cache, and the same rule as masks over the blocks of training."""

import torch

from .cache import CacheView, FlowCache
from .configuration_realtime_jazz_flow import RealTimeJazzFlowTransformerConfig
from .layers import BlockAttention

# On a CPU, attention in block-causal training runs in chunks of about this many tokens: a third faster than
# masking the whole sequence, most of which would be hidden.
CPU_CHUNK_TOKENS = 96


def view_of(
    config: RealTimeJazzFlowTransformerConfig,
    cache: FlowCache | None,
    sample: torch.Tensor,
    dtype: torch.dtype,
    fixed_shapes: bool,
    blocks: int = 1,
) -> CacheView | None:
    """What the block `sample`, or the first of so many, hears of the past."""
    if cache is None:
        return None
    if sample.shape[0] % cache.batch_size:
        raise ValueError(
            f"The sample has {sample.shape[0]} rows and the cache {cache.batch_size}; "
            "the sample's must be a multiple."
        )
    implementation = config._attn_implementation
    flash = "flash" in (implementation or "")
    view = cache.view(sample.shape[0], sample.shape[-1], dtype, fixed=fixed_shapes and not flash, blocks=blocks)
    if view.mask is not None and flash:
        raise ValueError(
            f"attn_implementation is {implementation!r}, which takes no mask, and the rows of this cache have "
            "heard pasts of different lengths: use 'sdpa' or 'eager', or play these rows one by one."
        )
    return view


def plan_blocks(
    config: RealTimeJazzFlowTransformerConfig,
    blocks: int,
    block_frames: int,
    window_frames: int | torch.Tensor,
    context_start: torch.Tensor | None,
    device: torch.device,
) -> BlockAttention:
    """The cache's rule as masks over [clean | noisy] blocks, cut into chunks where that pays."""
    implementation = config._attn_implementation
    if implementation is not None and "flash" in implementation:
        raise ValueError(
            f"attn_implementation is {implementation!r}, which takes no mask; block-causal training "
            "needs one: use 'sdpa', 'flex_attention' or 'eager'. Generation works with any."
        )
    # Of every row: how many blocks back it sees, and the first block that is heard.
    reach = torch.as_tensor(window_frames, device=device).reshape(-1, 1, 1) // block_frames
    start = torch.zeros(1, 1, 1, dtype=torch.int64, device=device)
    if context_start is not None:
        start = -(-torch.as_tensor(context_start, device=device).reshape(-1, 1, 1) // block_frames)
    index = torch.arange(blocks, device=device)
    query, key = index[:, None], index[None]
    past = (key < query) & (query - key <= reach) & (key >= start)  # (rows, blocks, blocks)
    own = (key == query).expand_as(past)
    clean = torch.cat((past | own, torch.zeros_like(past)), dim=2)
    noisy = torch.cat((past, own), dim=2)

    tokens = block_frames // config.patch_size
    chunk = blocks
    if device.type == "cpu" and implementation != "flex_attention":
        chunk = min(blocks, max(1, round(CPU_CHUNK_TOKENS / tokens)))
    ends = [min(first + chunk, blocks) for first in range(0, blocks, chunk)]
    sizes, seen, masks = [], [], []
    for number, end in enumerate(ends):
        begin = number * chunk
        low = 0 if chunk == blocks else max(0, begin - int(reach.max())) // chunk
        columns = torch.cat((index[low * chunk : end], blocks + index[begin:end]))
        mask = torch.cat((clean[:, begin:end], noisy[:, begin:end]), dim=1)[:, :, columns]
        mask = mask.repeat_interleave(tokens, dim=1).repeat_interleave(tokens, dim=2)[:, None]
        sizes.append((end - begin) * tokens)
        seen.append(low)
        masks.append(_flex_mask(mask) if implementation == "flex_attention" else mask)
    return BlockAttention(sizes, seen, masks)


def _flex_mask(mask: torch.Tensor):
    from torch.nn.attention.flex_attention import create_block_mask

    rows, _, queries, keys = mask.shape
    return create_block_mask(
        lambda batch, head, query, key: mask[batch % rows, 0, query, key],
        B=None if rows == 1 else rows, H=None, Q_LEN=queries, KV_LEN=keys, device=mask.device,
    )  # fmt: skip
