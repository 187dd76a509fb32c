"""Fit codebooks that work in the closed loop (see `code_search`) to sequences of latents.

Lloyd's iterations on the residuals that the loop meets are not stable: entries that serve one frame a little worse
change what all frames after it ask for. The asymptotic closed loop (Khalil, Rose and Regunathan, 2001) is: each
iteration predicts from what the iteration before made of the sequence, so its data stand still while entries are
assigned and moved; as these reconstructions settle, they become those of the closed loop.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.utils.rnn import pad_sequence

from .code_search import closed_loop
from .kmeans import SPLIT, cluster_means, nearest
from .vector_quantizer import VectorQuantizer

START_ITERATIONS = 4
# A share of the sequences runs on fewer levels, which so learn to work by themselves.
FEWER_LEVELS = 0.25
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


@torch.no_grad()
def fit_closed_loop(
    layers: list[VectorQuantizer],
    prediction: torch.Tensor,
    start: torch.Tensor,
    sequences: list[torch.Tensor],
    iterations: int,
    max_vectors: int,
    generator: torch.Generator | None = None,
) -> tuple[list[float], torch.Tensor]:
    """Fit the levels in the loop to sequences (frames, dim), of which a copy is held, and `max_vectors` frames more.

    Args:
        start (`torch.Tensor` of shape `(dim,)`): what the loop starts from.
        iterations (`int`): all run on all frames; the k-means that begins on `max_vectors`.

    Returns:
        The mean square left over when 1, 2, ... of the levels run the loop, and what all of them leave over
        (n, dim), both of the first sequences that have `2 * max_vectors` frames.
    """
    residual = torch.cat([x - predict(x, prediction, start) for x in sequences])
    for layer in layers:  # on innovations: as if the past were known
        layer.fit(residual, START_ITERATIONS, max_vectors, generator)
        residual -= layer.decode(layer.nearest(residual))
    del residual
    used = _draw_levels(len(sequences), len(layers), generator)
    decoded = [x.clone() for x in sequences]
    for iteration in range(iterations):
        _iterate(
            layers,
            prediction,
            start,
            sequences,
            decoded,
            used,
            max_vectors,
            generator,
            iteration < iterations - 2,
        )
    return _left_over(layers, prediction, start, sequences, max_vectors)


def predict(decoded: torch.Tensor, prediction: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """What is predicted of each frame, from the decoded ones (frames, dim)."""
    return prediction * torch.cat([start[None], decoded[:-1]])


def _draw_levels(rows: int, levels: int, generator: torch.Generator | None) -> list[int]:
    """Levels that each sequence uses: all, or for some fewer."""
    device = "cpu" if generator is None else generator.device
    draw = torch.rand(rows, generator=generator, device=device)
    fewer = torch.randint(1, max(2, levels), (rows,), generator=generator, device=device)
    return torch.where(draw < FEWER_LEVELS, fewer, levels).tolist()


def _iterate(
    layers, prediction, start, sequences, decoded, used, max_vectors, generator, restart: bool
) -> None:
    """Assign all frames, move the entries, and write what became of the sequences to `decoded`."""
    means = [torch.zeros_like(layer.embed, dtype=torch.float32) for layer in layers]
    counts = [torch.zeros_like(layer.cluster_size, dtype=torch.float32) for layer in layers]
    seeds = [[] for _ in layers]  # vectors that entries may restart at, and the entries that they have now
    frames = sum(len(x) for x in sequences)
    for part in _parts(sequences, max_vectors):
        lengths = [len(sequences[i]) for i in part]
        guess = torch.cat([predict(decoded[i], prediction, start) for i in part])
        residual = torch.cat([sequences[i] for i in part]) - guess
        levels = torch.tensor([used[i] for i in part], device=residual.device)
        levels = levels.repeat_interleave(torch.tensor(lengths, device=residual.device))
        for k, layer in enumerate(layers):
            active = (levels > k).nonzero()[:, 0]
            projected = layer.project(residual[active])
            codes, squared = nearest(projected, layer.embed.float())
            _, sums, count = cluster_means(projected, codes, len(counts[k]))
            means[k] += sums
            counts[k] += count
            if restart and len(active):
                # Far ones first, in proportion to the size of this part.
                wanted = max(1, layer.embed.shape[0] * sum(lengths) // frames)
                drawn = _draw_far(squared, wanted, generator)
                seeds[k].append((codes[drawn], projected[drawn]))
            vectors = layer.decode(codes)
            residual[active] -= vectors
            guess[active] += vectors
        for i, made in zip(part, guess.split(lengths)):
            decoded[i] = made.clone()
    for layer, sums, count, seed in zip(layers, means, counts, seeds):
        moved = torch.where(count[:, None] > 0, sums / count.clamp(min=1)[:, None], layer.embed.float())
        if seed:
            codes, drawn = (torch.cat(tensors) for tensors in zip(*seed))
            idle = (count < MIN_SHARE * count.mean()).nonzero()[: len(codes), 0]
            order = torch.randperm(len(codes), generator=generator).to(codes.device)[: len(idle)]
            moved[idle] = torch.lerp(moved[codes[order]], drawn[order], SPLIT)
        layer.embed.copy_(moved)


def _draw_far(squared: torch.Tensor, count: int, generator: torch.Generator | None) -> torch.Tensor:
    """Indices (count,) of vectors, drawn in proportion to their squared distances."""
    chances = squared[: 2**24] + 1e-12  # torch.multinomial takes at most so many categories
    if generator is not None:
        chances = chances.to(generator.device)
    return torch.multinomial(chances, count, replacement=True, generator=generator).to(squared.device)


def _parts(sequences: list[torch.Tensor], max_vectors: int) -> Iterator[list[int]]:
    """Indices of sequences that follow each other, of about `max_vectors` frames together, at least one."""
    part, frames = [], 0
    for i, x in enumerate(sequences):
        if part and frames + len(x) > max_vectors:
            yield part
            part, frames = [], 0
        part.append(i)
        frames += len(x)
    yield part


def _left_over(layers, prediction, start, sequences, max_vectors: int) -> tuple[list[float], torch.Tensor]:
    vectors = [layer.vectors() for layer in layers]
    errors, frames, rest = [0.0] * len(layers), 0, []
    for part in _parts(sequences, max_vectors):
        rows = [sequences[i] for i in part]
        lengths = torch.tensor([len(x) for x in rows])
        heard = torch.arange(int(lengths.max())) < lengths[:, None]  # (rows, frames)
        for k in range(len(layers)):
            x = pad_sequence(rows, batch_first=True)
            base = start.expand(len(rows), -1)
            codes, predicted, _ = closed_loop(x, prediction, vectors[: k + 1], base)
            x -= predicted
            for level in range(k + 1):
                x -= vectors[level][codes[..., level]]
            residual = x[heard.to(x.device)]
            errors[k] += residual.square().sum().item()
        rest.append(residual)
        frames += len(residual)
        if frames >= 2 * max_vectors:
            break
    return [error / (frames * len(prediction)) for error in errors], torch.cat(rest)
