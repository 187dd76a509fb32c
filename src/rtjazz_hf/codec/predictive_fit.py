"""Fit codebooks that work in the closed loop (see `code_search`) to sequences of latents.

Lloyd's iterations on the residuals that the loop meets are not stable: entries that serve one frame a little worse
change what all frames after it ask for. The asymptotic closed loop (Khalil, Rose and Regunathan, 2001) is: each
iteration predicts from what the iteration before made of the sequence, so its data stand still while entries are
assigned and moved; as these reconstructions settle, they become those of the closed loop.

On jazz takes (128 channels, 4 x 2,048 entries, held out), 4 levels leave 4 to 5% of the weighted variance where levels
without prediction leave 12%.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch.nn.utils.rnn import pad_sequence

from .code_search import closed_loop
from .kmeans import SPLIT, cluster_means, nearest
from .vector_quantizer import VectorQuantizer

START_ITERATIONS = 4
JUDGED_VECTORS = 20_000
PATIENCE = 2
MAX_PADDED = 100_000  # frames searched at once
# A share of the sequences runs on fewer levels, which so learn to work by themselves.
FEWER_LEVELS = 0.2
# An entry that is chosen less often than this share of the mean goes to where it is needed. More than in `kmeans`:
# rare entries are those of single takes, which no held-out recording uses.
MIN_SHARE = 0.2
# A little less than the correlation, and never above 0.95: after an entry in the middle of a stream, or a code lost,
# a fiftieth of the error is left after at most a second.
LEAK = 0.97
MAX_PREDICTION = 0.95


def fit_prediction(sequences: list[torch.Tensor]) -> torch.Tensor:
    """Coefficient (dim,) of each channel: its correlation from frame to frame, a little less; (frames, dim) each."""
    power = sum(x.square().sum(dim=0) for x in sequences)
    product = sum((x[1:] * x[:-1]).sum(dim=0) for x in sequences)
    return (LEAK * product / power.clamp(min=1e-12)).clamp(0, MAX_PREDICTION)


def predict(decoded: torch.Tensor, prediction: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """What is predicted of each frame of a sequence, from the decoded frames (frames, dim)."""
    return prediction * torch.cat([start[None], decoded[:-1]])


@torch.no_grad()
def fit_closed_loop(
    layers: list[VectorQuantizer],
    prediction: torch.Tensor,
    start: torch.Tensor,
    sequences: list[torch.Tensor],
    iterations: int,
    max_vectors: int,
    generator: torch.Generator | None = None,
    anew: bool = True,
) -> tuple[list[float], torch.Tensor]:
    """Fit the levels in the loop to sequences (frames, dim); memory holds them four times.

    Args:
        anew (`bool`): start with k-means; else the levels go on from the entries that they have.
        start (`torch.Tensor` of shape `(dim,)`): what the loop starts from.
        iterations (`int`): at most; those that make the closed loop worse end it. All run on all frames, the
            k-means before them on `max_vectors`.

    Returns:
        The mean square left over when 1, 2, ... of the levels run the loop, and what all of them leave over
        (n, dim), both of the first sequences that have `max_vectors` frames, or twice as many.
    """
    x = torch.cat(sequences)
    lengths = torch.tensor([len(sequence) for sequence in sequences], device=x.device)
    firsts = lengths.cumsum(0) - lengths
    used = _draw_levels(len(sequences), len(layers), generator).to(x.device).repeat_interleave(lengths)

    def residual_of(decoded: torch.Tensor) -> torch.Tensor:
        guess = decoded.roll(1, dims=0)
        guess[firsts] = start
        return guess.mul_(-prediction).add_(x)

    if anew:
        residual = residual_of(x)  # innovations: as if the past were known
        for layer in layers:
            layer.fit(residual, START_ITERATIONS, max_vectors, generator)
            residual -= layer.decode(layer.nearest(residual))
    decoded = x
    best, entries, worse = math.inf, None, 0
    for iteration in range(iterations + 1):
        error = _left_over(layers, prediction, start, sequences, JUDGED_VECTORS).square().mean().item()
        if error < best:
            best, worse, entries = error, 0, [layer.embed.clone() for layer in layers]
        else:
            worse += 1
        if iteration == iterations or worse > PATIENCE:
            break
        residual = residual_of(decoded)
        for k, layer in enumerate(layers):
            _move(layer, residual, (used > k).nonzero()[:, 0], generator)
        decoded = x - residual
    for layer, kept in zip(layers, entries):
        layer.embed.copy_(kept)
    rests = [
        _left_over(layers[: k + 1], prediction, start, sequences, max_vectors).square().mean().item()
        for k in range(len(layers) - 1)
    ]
    residual = _left_over(layers, prediction, start, sequences, 2 * max_vectors)
    return [*rests, residual.square().mean().item()], residual


def _draw_levels(rows: int, levels: int, generator: torch.Generator | None) -> torch.Tensor:
    """Levels that each sequence uses (rows,): all, or for some fewer."""
    device = "cpu" if generator is None else generator.device
    draw = torch.rand(rows, generator=generator, device=device)
    fewer = torch.randint(1, max(2, levels), (rows,), generator=generator, device=device)
    return torch.where(draw < FEWER_LEVELS, fewer, levels)


def _move(layer: VectorQuantizer, residual: torch.Tensor, active: torch.Tensor, generator) -> None:
    """One iteration of one level on `residual` (n, dim), from which it takes in place what it codes."""
    if not len(active):
        return
    projected = layer.project(residual[active])
    entries = layer.embed.float()
    codes, squared = nearest(projected, entries)
    means, _, counts = cluster_means(projected, codes, len(entries))
    entries = torch.where(counts[:, None] > 0, means, entries)
    residual.index_add_(0, active, layer.expand(entries)[codes], alpha=-1)
    idle = (counts < MIN_SHARE * counts.mean()).nonzero()[:, 0]
    if len(idle):
        drawn = _draw_far(squared, len(idle), generator)
        entries[idle] = torch.lerp(entries[codes[drawn]], projected[drawn], SPLIT)
    layer.embed.copy_(entries)


def _draw_far(squared: torch.Tensor, count: int, generator: torch.Generator | None) -> torch.Tensor:
    """Indices (count,) of vectors, drawn in proportion to their squared distances."""
    chances = squared[: 2**24] + 1e-12  # torch.multinomial takes at most so many categories
    if generator is not None:
        chances = chances.to(generator.device)
    return torch.multinomial(chances, count, replacement=True, generator=generator).to(squared.device)


def _parts(sequences: list[torch.Tensor], frames: int) -> Iterator[list[int]]:
    """Indices of sequences that follow each other, of at most `frames` frames once padded, at least one."""
    part, longest = [], 0
    for i, x in enumerate(sequences):
        longest = max(longest, len(x))
        if part and (len(part) + 1) * longest > frames:
            yield part
            part, longest = [], len(x)
        part.append(i)
    yield part


def _left_over(layers, prediction, start, sequences, frames: int) -> torch.Tensor:
    """What the closed loop of `layers` leaves over (n, dim) of the first sequences that have `frames` frames."""
    vectors, rest = [layer.vectors() for layer in layers], []
    for part in _parts(sequences, min(frames, MAX_PADDED)):
        rows = [sequences[i] for i in part]
        lengths = torch.tensor([len(row) for row in rows])
        heard = torch.arange(int(lengths.max())) < lengths[:, None]  # (rows, frames)
        x = pad_sequence(rows, batch_first=True)
        codes, predicted, _ = closed_loop(x, prediction, vectors, start.expand(len(rows), -1))
        residual = x - predicted
        for level, entries in enumerate(vectors):
            residual -= entries[codes[..., level]]
        rest.append(residual[heard.to(x.device)])
        if sum(map(len, rest)) >= frames:
            break
    return torch.cat(rest)
