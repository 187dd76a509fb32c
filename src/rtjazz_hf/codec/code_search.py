"""Which codes: beam search over levels, and the closed loop that predicts each frame from the one before.

With prediction (differential coding with vectors: Gersho and Gray, 1992, chapter 13), the levels see what the
decoder will be wrong by, not what the frame holds. Let `base` be what they have added up to; then

    base[t] = prediction * base[t - 1] + sum over levels of vector[level][code[level, t]]

channel by channel. The encoder runs the decoder's recursion, so its errors do not add up, and a stream that is
entered in the middle recovers as fast as `prediction` forgets.
"""

from __future__ import annotations

import torch

from .kmeans import MAX_DISTANCES


@torch.no_grad()
def beam_search(x: torch.Tensor, levels: list[torch.Tensor], num_beams: int) -> torch.Tensor:
    """Codes (n, levels) whose vectors add up nearest to x (n, dim); each of `levels` is (codebook_size, dim).

    Each level keeps `num_beams` candidates, and the sequence of codes with the least error in the end wins.
    """
    size, dim = levels[0].shape
    norms = [vectors.square().sum(dim=1) / 2 for vectors in levels]
    found = []
    for part in x.split(max(1, MAX_DISTANCES // (num_beams * size))):
        n = part.shape[0]
        residual = part[:, None]  # (n, beams, dim)
        codes = part.new_zeros(n, 1, 0, dtype=torch.long)  # (n, beams, levels so far)
        # Half the squared error of a beam, but for the half squared norm of x, which all beams share.
        error = part.new_zeros(n, 1)
        for vectors, norm in zip(levels, norms):
            change = torch.addmm(norm, residual.flatten(0, 1), vectors.T, alpha=-1)
            candidates = (error[..., None] + change.view(*error.shape, size)).flatten(1)
            keep = min(num_beams, candidates.shape[1])
            error, index = candidates.topk(keep, dim=1, largest=False)
            beam, code = index // size, index % size
            residual = residual.gather(1, beam[..., None].expand(-1, -1, dim)) - vectors[code]
            codes = torch.cat(
                [codes.gather(1, beam[..., None].expand(-1, -1, codes.shape[2])), code[..., None]], dim=2
            )
        found.append(codes[torch.arange(n, device=x.device), error.argmin(dim=1)])
    return torch.cat(found) if found else x.new_zeros(0, len(levels), dtype=torch.long)


@torch.no_grad()
def closed_loop(
    x: torch.Tensor,
    prediction: torch.Tensor,
    levels: list[torch.Tensor],
    state: torch.Tensor | None = None,
    used: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Search the codes of sequences frame after frame, each frame against its prediction.

    Args:
        x (`torch.Tensor` of shape `(batch, frames, dim)`): float32, in the space of the vectors.
        prediction (`torch.Tensor` of shape `(dim,)`).
        levels: of each level in the loop, its vectors `(codebook_size, dim)`.
        state (`torch.Tensor` of shape `(batch, dim)`, *optional*): `base` before the first frame; zeros start.
        used (`torch.Tensor` of shape `(batch,)`, *optional*): how many levels of a row enter its loop; the others
            refine each frame without a memory. All by default.

    Returns:
        codes (batch, frames, levels) int64, what was predicted (batch, frames, dim), `base` after the last frame.
    """
    batch, _, dim = x.shape
    state = x.new_zeros(batch, dim) if state is None else state.to(x)
    rows = max(1, MAX_DISTANCES // levels[0].shape[0])
    if batch > rows:
        parts = [
            x.split(rows),
            state.split(rows),
            [None] * -(-batch // rows) if used is None else used.split(rows),
        ]
        found = [closed_loop(part, prediction, levels, base, own) for part, base, own in zip(*parts)]
        return tuple(torch.cat(tensors) for tensors in zip(*found))
    norms = [vectors.square().sum(dim=1) / 2 for vectors in levels]
    transposed = [vectors.T for vectors in levels]
    x = x.transpose(0, 1).contiguous()  # (frames, batch, dim): a frame is one piece of memory
    predicted = torch.empty_like(x)
    codes = torch.empty(x.shape[0], len(levels), batch, dtype=torch.long, device=x.device)
    distances = x.new_empty(batch, levels[0].shape[0])
    enters = None if used is None else [(used > k).to(x)[:, None] for k in range(len(levels))]
    base = state
    # A stream's encoder runs this once a frame: few and small operations, nothing allocated that can be kept.
    for target, guess, chosen in zip(x.unbind(0), predicted.unbind(0), codes.unbind(0)):
        torch.mul(prediction, base, out=guess)
        residual = target - guess
        base = guess
        for k, vectors in enumerate(levels):
            # |c|^2 / 2 - x.c orders as |x - c|^2 does.
            torch.addmm(norms[k], residual, transposed[k], alpha=-1, out=distances)
            torch.argmin(distances, dim=1, out=chosen[k])
            step = vectors.index_select(0, chosen[k])
            residual = residual - step
            base = base + step if enters is None else torch.addcmul(base, enters[k], step)
    return codes.permute(2, 0, 1).contiguous(), predicted.transpose(0, 1), base


def run_prediction(
    steps: torch.Tensor, prediction: torch.Tensor, state: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The decoder's recursion: steps (batch, frames, dim) -> `base` of every frame, and after the last (batch, dim).

    Frame after frame, so that any split of a stream gives the same digits; 0.0005 of real time.
    """
    base = steps.new_zeros(steps.shape[0], steps.shape[2]) if state is None else state.to(steps)
    bases = []
    for step in steps.unbind(1):
        base = torch.addcmul(step, prediction, base)
        bases.append(base)
    return (torch.stack(bases, dim=1) if bases else steps), base
