"""Fit the templates of `rtjazz_hf.corpus.tempo` on a corpus whose tempi are known, and print them.

    python training/fit_tempo.py --takes data/corpus

A softmax over the tempi is fitted, whose scores are those of the two templates; one begins as swing, one as straight
quavers. Bare clicks of a metronome are added, which nothing but the prior tells from quavers of half the tempo. Three
quarters of the takes are fitted, the rest are measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rtjazz_hf.audio import read_audio
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.personal import ONSET_RATE, onset_strength
from rtjazz_hf.corpus.tempo import CENTRE, PRIOR, TEMPLATES, tempo_comb
from rtjazz_hf.trainers.run import input_errors

CLOSE = 0.03  # of a tempo: what counts as found
WEIGHT_DECAY = 4e-5
STEPS = 600


def metronome(tempo: float, offbeat: float | None, seconds: float = 30.0) -> np.ndarray:
    """Onset strength `(frames,)` of clicks at `tempo`, and on every second beat one so many beats behind."""
    beats = np.arange(0.0, seconds, 60 / tempo)
    onsets = np.zeros(round((seconds + 1) * ONSET_RATE))
    np.maximum.at(onsets, np.round(beats * ONSET_RATE).astype(int), 1.0)
    if offbeat is not None:
        late = beats[1::2] + offbeat * 60 / tempo
        np.maximum.at(onsets, np.round(late * ONSET_RATE).astype(int), 0.6)
    return np.convolve(onsets, [0.5, 1.0, 0.5], "same")


def examples(onsets: Sequence[np.ndarray], tempi: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Combs `(takes, tempi, lags)`, and which of the tempi are right, `(takes, tempi)`; takes of a tempo that is not
    among them are left out."""
    grid, combs = tempo_comb(onsets[0], ONSET_RATE)[0], [tempo_comb(one, ONSET_RATE)[1] for one in onsets]
    right = np.abs(grid[None] / np.asarray(tempi)[:, None] - 1) < CLOSE
    known = right.any(1)
    return torch.from_numpy(np.stack(combs)[known]).float(), torch.from_numpy(right[known])


class Templates(torch.nn.Module):
    """The score of tempi, as `estimate_pulse` has it."""

    def __init__(self, grid: np.ndarray):
        super().__init__()
        self.templates = torch.nn.Parameter(torch.from_numpy(TEMPLATES).float())
        self.prior = torch.nn.Parameter(torch.tensor(PRIOR))
        self.register_buffer("octaves", torch.from_numpy(np.log2(grid / CENTRE)).float())

    def forward(self, combs: torch.Tensor) -> torch.Tensor:
        scores = combs @ self.templates[:, :-1].T + self.templates[:, -1]
        return scores.logsumexp(-1) - self.prior * self.octaves**2


def fit(model: Templates, combs: torch.Tensor, right: torch.Tensor) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(STEPS):
        likely = model(combs).log_softmax(-1).masked_fill(~right, -torch.inf).logsumexp(-1)
        loss = WEIGHT_DECAY * model.templates.square().sum() - likely.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def found(model: Templates, combs: torch.Tensor, right: torch.Tensor) -> float:
    """Share of takes whose tempo is found."""
    with torch.no_grad():
        return float(right.gather(1, model(combs).argmax(-1, keepdim=True)).float().mean())


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--takes", type=Path, required=True, help="folder of a corpus (rtjazz_hf.corpus)")
    parser.add_argument("--limit", type=int, default=1000, help="takes of it (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    rng = np.random.default_rng(args.seed)
    with input_errors():
        takes = load_takes(args.takes)
        takes = [takes[index] for index in rng.permutation(len(takes))[: args.limit]]
        onsets = [onset_strength(read_audio(take.path)) for take in takes]
        tempi = [take.lead_sheet.tempo for take in takes]
        cut = len(takes) * 3 // 4
        clicks = [(tempo, offbeat) for tempo in rng.uniform(75, 230, 60) for offbeat in (None, 2 / 3)]
        beaten = [metronome(*click) for click in clicks]
        known = examples([*onsets[:cut], *beaten], [*tempi[:cut], *(tempo for tempo, _ in clicks)])
        held_out = examples(onsets[cut:], tempi[cut:])
        model = Templates(tempo_comb(onsets[0], ONSET_RATE)[0])
        print(
            f"found before: {found(model, *known):.3f} of those to fit, {found(model, *held_out):.3f} of others"
        )
        fit(model, *known)
        print(
            f"after: {found(model, *known):.3f}, {found(model, *held_out):.3f}; prior {model.prior.item():.1f}"
        )
        for row in model.templates.tolist():
            print("    [" + ", ".join(f"{value:.1f}" for value in row) + "],")


if __name__ == "__main__":
    main()
