"""Which latents can a flow model learn? The same small flow, for the same steps, on the latents of several codecs.

    python training/probe_latents.py --takes data/corpus --out probe/ \\
        --candidates bundled=rtjazz-mini mine=runs/codec/final pca start cues:pca

A candidate is [NAME=][cues:]SOURCE. SOURCE is `pca` (principal components of signed MDCT coefficients), `start`
(the energies that a codec starts from), both without any learning, or the folder of a codec or of a pipeline;
`cues:` puts magnitude channels beside its latents (rtjazz_hf/codec/cues.py). All candidates have the same takes,
batches, noise and steps, and are judged on the same held-out takes: loss with the true chart, rotated charts and
none, clips streamed on held-out charts, and the codec's own round trip.

What a flow predicts can be compared too: run it again with --prediction codebook, into the same folder. A codec whose
codes predict in time is given codes of its own for that by --fit-codes, and --codebook-steps makes the two as dear as
each other (the table has core-seconds a step).

OUT/probe.md, probe.json and probe.png compare the candidates; OUT/<name>/result.json and clips/ are kept, and a
candidate that is finished is not trained again. One that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rtjazz_hf.audio import HOP_LENGTH, plot_spectrogram_grid, read_audio, write_audio
from rtjazz_hf.codec import RealTimeJazzCodec, RealTimeJazzCodecConfig
from rtjazz_hf.codec.cues import SemitoneCues
from rtjazz_hf.corpus.dataset import TakeRecord, load_takes
from rtjazz_hf.corpus.latent_filling import embed_takes, encode_takes
from rtjazz_hf.corpus.latent_store import LatentStore, claim, fingerprint, open_stores
from rtjazz_hf.evaluation.measures.latent_probe import codec_side, flow_side, probe_table, sound_side
from rtjazz_hf.evaluation.measures.obedience import changes_chord
from rtjazz_hf.evaluation.takes import HeldOutTake, choose_takes, load_held_out, looping
from rtjazz_hf.evaluation.writing import to_plain, write_text
from rtjazz_hf.hub import load_codec, load_style_encoder, part_folder
from rtjazz_hf.runtime.files import atomic_folder
from rtjazz_hf.trainers.flow import (
    FlowBatches,
    FlowTrainConfig,
    build_model,
    channel_weights,
    flow_loss,
    play_takes,
)
from rtjazz_hf.trainers.run import TrainingRun, disk_errors, input_errors, load_config

CONFIGS = Path(__file__).parent / "configs"
BUILT_IN = {"pca": "kept", "start": "free"}  # codecs without learning: the phase of each
FOLDERS = ("codecs", "styles")  # of --out, beside those of the candidates
FIT_SECONDS = 10.0
# Options and settings of the flow that may differ between candidates of one table.
APART = {"takes", "candidates", "out", "style_encoder", "config", "prediction", "fit_codes", "codebook_steps",
         "output_dir", "data", "codec", "max_minutes", "num_workers", "wandb", "resume", "log_every", "save_every",
         "sample_every", "validate_every"}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """A kind of latents: where they come from, and whether cue channels stand beside them."""

    name: str
    source: str  # a key of BUILT_IN, or a folder
    cues: bool

    @classmethod
    def parse(cls, text: str) -> Candidate:
        name, has_name, source = text.rpartition("=")
        cues = source.startswith("cues:")
        source = source.removeprefix("cues:")
        if source in BUILT_IN:
            name = name or source + ("-cues" if cues else "")
        elif not has_name:
            raise ValueError(
                f"unknown candidate {text!r}: use {', '.join(BUILT_IN)} or NAME=FOLDER, with cues: before {source!r} "
                "for cue channels."
            )
        if not re.fullmatch(r"\w[\w.+-]*", name) or name in FOLDERS:
            raise ValueError(
                f"candidate {text!r}: {name!r} is no name for its folder; use letters, digits, - and _, and none of "
                f"{', '.join(FOLDERS)}."
            )
        return cls(name, source if source in BUILT_IN else str(part_folder(source, "codec")), cues)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--takes", required=True, help="corpus of prepare_corpus.py")
    parser.add_argument("--candidates", nargs="+", required=True, metavar="[NAME=][cues:]SOURCE")
    parser.add_argument("--out", type=Path, required=True, help="folder; what it holds is kept and goes on")
    parser.add_argument("--style-encoder", default="rtjazz-mini", help="folder or pipeline (rtjazz-mini)")
    parser.add_argument("--config", default="mini", help="flow_NAME.yaml, or the path of a YAML file (mini)")
    parser.add_argument("--prediction", choices=("velocity", "codebook"), default="velocity",
                        help="what the flow predicts; codebook's results are named NAME-codebook")  # fmt: skip
    parser.add_argument("--fit-codes", action="store_true",
                        help="with codebook: fit codes without memory to each codec's latents")  # fmt: skip
    parser.add_argument("--codebook-steps", type=int, help="with codebook: steps instead of --steps")
    parser.add_argument("--steps", type=int, default=400, help="of training, a candidate (400)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--num-takes", type=int, default=300, help="takes to train on (300)")
    parser.add_argument("--num-held-out", type=int, default=24, help="held-out takes for the losses (24)")
    parser.add_argument("--num-charts", type=int, default=8, help="of these, charts that are played (8)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each clip (20)")
    parser.add_argument("--sampling-steps", type=int, default=8, help="a block (8)")
    parser.add_argument("--guidance", type=float, default=2.0, help="guidance scale (2)")
    parser.add_argument("--cue-channels", type=int, default=32)
    parser.add_argument(
        "--fit-clips", type=int, default=50, help="clips of 10 s to fit pca, start and cues to (50)"
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def training_steps(args: argparse.Namespace) -> int:
    return args.codebook_steps or args.steps if args.prediction == "codebook" else args.steps


# --- what all candidates share --------------------------------------------------------------------


def flow_config(args: argparse.Namespace, name: str = "shared", codec: str = "any") -> FlowTrainConfig:
    """The flow's training for one candidate: the config file, cut to the probe's length."""
    path = (
        Path(args.config) if args.config.endswith((".yaml", ".yml")) else CONFIGS / f"flow_{args.config}.yaml"
    )
    folder = args.out / name
    steps = args.steps if name == "shared" else training_steps(args)
    values = {"output_dir": str(folder / "run"), "data": str(folder / "latents"), "codec": codec, "seed": args.seed,
              "max_steps": steps, "batch_size": args.batch_size, "keep_checkpoints": 1,
              "own_context_rate": 0.0,  # a model of a few hundred steps makes none worth hearing
              "model": {"prediction_type": args.prediction}}  # fmt: skip
    config = load_config(FlowTrainConfig, path, values)
    config.warmup_steps = min(config.warmup_steps, steps // 8)
    config.save_every = min(config.save_every, max(1, steps // 4))
    config.log_every = min(config.log_every, steps)
    return config


def choose(args: argparse.Namespace) -> tuple[list[TakeRecord], list[HeldOutTake]]:
    """Takes to encode (training and held out), and those held out; the same again when a corpus has grown."""
    records = {take.path.parent.name: take for take in load_takes(args.takes)}
    path = args.out / "takes.json"
    if path.exists():
        chosen = json.loads(path.read_text())
        if gone := [name for name in chosen["train"] + chosen["test"] if name not in records]:
            raise ValueError(
                f"{args.takes} lacks takes that {args.out} was begun with: {', '.join(gone[:5])}."
            )
    else:
        names = [name for name, take in records.items() if take.split == "train"]
        picked = np.random.default_rng(args.seed).permutation(len(names))[: args.num_takes]
        test = choose_takes(load_held_out(args.takes, args.num_held_out), args.num_held_out, args.seconds)
        chosen = {"train": [names[i] for i in sorted(picked)], "test": [take.name for take in test]}
        if not chosen["train"]:
            raise ValueError(f"{args.takes} has no takes of split 'train' to learn from.")
        args.out.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(chosen))
    held_out = load_held_out([records[name] for name in chosen["test"]], 0)
    return [records[name] for name in chosen["train"] + chosen["test"]], held_out


def fitting_clips(takes: Sequence[TakeRecord], count: int) -> list[torch.Tensor]:
    """The middle of `count` training takes: list of (1, 2, samples), whole frames."""
    takes = [take for take in takes if take.split == "train"]
    clips = []
    for index in np.unique(np.linspace(0, len(takes) - 1, count).astype(int)):
        start = max(0.0, (takes[index].duration - FIT_SECONDS) / 2)
        audio = read_audio(takes[index].path, start, FIT_SECONDS)
        clips.append(torch.from_numpy(audio[:, : audio.shape[1] // HOP_LENGTH * HOP_LENGTH].copy())[None])
    return clips


def open_codec(
    candidate: Candidate, takes: Sequence[TakeRecord], args: argparse.Namespace
) -> RealTimeJazzCodec:
    """The candidate's codec; what is fitted, a built-in one or codes, is fitted once and kept in OUT/codecs."""
    codebook = args.prediction == "codebook"
    folder = Path(candidate.source)
    if candidate.source in BUILT_IN:
        folder = args.out / "codecs" / f"{candidate.source}-{args.prediction}"
    elif codebook and args.fit_codes:
        folder = args.out / "codecs" / f"{candidate.name}-memoryless"
    if folder.parent == args.out / "codecs" and not folder.exists():
        torch.manual_seed(args.seed)
        clips = fitting_clips(takes, args.fit_clips)
        if candidate.source in BUILT_IN:
            codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(phase=BUILT_IN[candidate.source])).eval()
            print(f"{candidate.source}: {codec.fit_start(clips):.3f} of the variance kept")
        else:
            codec = without_prediction(load_codec(candidate.source))
        if codebook:
            left = codec.fit_codes(clips, generator=torch.Generator().manual_seed(args.seed))
            print(f"{candidate.name}: variance left after each level: {', '.join(f'{x:.3f}' for x in left)}")
        with atomic_folder(folder) as partial:
            codec.save_pretrained(partial)
    codec = load_codec(folder)
    if codebook and not codec.quantizer.is_initialized:
        raise ValueError(
            f"the codec {folder} has no codes, which --prediction codebook learns; finish its training, or give it "
            "some with --fit-codes."
        )
    if codebook and codec.config.prediction_levels:
        raise ValueError(
            f"the codes of {folder} depend on the frames before (prediction_levels={codec.config.prediction_levels}), "
            "which a flow cannot learn; use --fit-codes."
        )
    return codec


def without_prediction(codec: RealTimeJazzCodec) -> RealTimeJazzCodec:
    """The same encoder and decoder with a new quantiser, of as many levels, that has no memory."""
    values, levels = codec.config.to_dict(), codec.config.num_codebooks
    if isinstance(values["codebook_dim"], list | tuple):
        values["codebook_dim"] = values["codebook_dim"][:levels]
    values |= {"prediction_levels": 0, "max_codebooks": levels}
    fresh = RealTimeJazzCodec(RealTimeJazzCodecConfig.from_dict(values)).eval()
    fresh.encoder.load_state_dict(codec.encoder.state_dict())
    fresh.decoder.load_state_dict(codec.decoder.state_dict())
    return fresh


def open_cues(takes: Sequence[TakeRecord], args: argparse.Namespace) -> SemitoneCues:
    """The cue maker, fitted once and kept in OUT/codecs."""
    path = args.out / "codecs" / "cues.safetensors"
    if not path.exists():
        cues = SemitoneCues(args.cue_channels)
        print(f"cues: {cues.fit(fitting_clips(takes, args.fit_clips)):.3f} of the variance kept")
        cues.save(path)
    return SemitoneCues.load(path)


# --- one candidate --------------------------------------------------------------------------------


@dataclass
class Prepared:
    """A candidate that can be encoded and trained, in its own folder."""

    name: str
    candidate: Candidate
    folder: Path
    codec: RealTimeJazzCodec
    cues: SemitoneCues | None


def prepare(candidate: Candidate, args: argparse.Namespace, takes: Sequence[TakeRecord]) -> Prepared:
    """Open what the candidate needs, and claim its folder."""
    name = candidate.name + ("-codebook" if args.prediction == "codebook" else "")
    codec = open_codec(candidate, takes, args)
    cues = open_cues(takes, args) if candidate.cues else None
    steps = {} if training_steps(args) == args.steps else {"steps": training_steps(args)}
    claim(args.out / name / "candidate.json", "a candidate", prediction=args.prediction,
          codec=fingerprint(codec), cues=cues and cues.fingerprint(), **steps)  # fmt: skip
    return Prepared(name, candidate, args.out / name, codec, cues)


def train(run: TrainingRun, codec: RealTimeJazzCodec) -> tuple[torch.nn.Module, dict[str, float]]:
    """The flow trained on the run's store, or on from its last checkpoint; and how long a step took: median seconds
    on the clock (`seconds_per_step`) and of all CPU cores (`core_seconds_per_step`, the same on a busy machine)."""
    config = run.config
    store, _ = open_stores(config.data, codec, config.model["prediction_type"] == "codebook")
    model = build_model(config, codec, store[0])
    batches = FlowBatches(store, config, model.config.block_sizes, score_dim=model.config.score_dim)
    prepared, optimizer = run.prepare_model(model)
    weights = channel_weights(model)
    run.resume()
    for batch in run.batches(batches):
        begun = time.perf_counter(), time.process_time()
        with run.accelerator.accumulate(prepared):
            loss = flow_loss(prepared, batch, config, weights)
            run.backward(loss, prepared, optimizer)
        ended = time.perf_counter(), time.process_time()
        run.log(loss=loss, seconds_per_step=ended[0] - begun[0], core_seconds_per_step=ended[1] - begun[1])
    run.finish()
    if run.step < config.max_steps:
        print("stopped and saved: the same command goes on from here")
        raise SystemExit(130)
    rows = [json.loads(line) for line in (run.output_dir / "log.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "seconds_per_step" in row]
    times = {
        key: statistics.median(row[key] for row in rows)
        for key in ("seconds_per_step", "core_seconds_per_step")
    }
    return run.weights(prepared).eval(), times


def probe(
    ready: Prepared, args: argparse.Namespace, takes: Sequence[TakeRecord], held_out: Sequence[HeldOutTake]
) -> dict[str, Any]:
    """Encode, train and judge one candidate, or read what was found before."""
    folder, codec = ready.folder, ready.codec
    if (folder / "result.json").exists():
        print(f"{ready.name}: done before")
        return json.loads((folder / "result.json").read_text())

    print(f"{ready.name}: encoding {len(takes)} takes, then {training_steps(args)} steps")
    run = TrainingRun(flow_config(args, ready.name, ready.candidate.source))
    codec.to(run.device)
    cues = None if ready.cues is None else ready.cues.to(run.device)
    codebook = args.prediction == "codebook"
    store = encode_takes(codec, takes, run.config.data, codes=codebook, cues=cues)
    shutil.copytree(args.out / "styles", store, dirs_exist_ok=True)  # the same for every codec
    model, times = train(run, codec)

    stored = {take.name: take for take in LatentStore(store, "test")}
    charts = held_out[: args.num_charts]
    players = [dataclasses.replace(stored[take.name], lead_sheet=looping(take.lead_sheet)) for take in charts]
    clips = play_takes(model, codec, players, args.seconds, args.sampling_steps, args.guidance)
    clips = [np.nan_to_num(clip) for clip in clips]
    (folder / "clips").mkdir(exist_ok=True)
    for take, clip in zip(charts, clips):
        write_audio(folder / "clips" / f"{take.name}.flac", clip, overwrite=True)
    result = to_plain({
        "name": ready.name, "source": ready.candidate.source, "prediction": args.prediction,
        "steps": training_steps(args), "batch_size": args.batch_size, **times, "device": str(model.device),
        "parameters": sum(p.numel() for p in model.parameters()),
        "latent_dim": model.config.latent_dim, "cue_channels": model.config.cue_channels,
        "validation": flow_side(model, [stored[take.name] for take in held_out], channel_weights(model), args.seed),
        "sound": sound_side(clips, charts, args.seconds),
        "codec": codec_side(codec, charts, args.seconds),
        "codec_codes": codec_side(codec, charts, args.seconds, codes=True) if codebook else None,
    })  # fmt: skip
    write_text(folder / "result.json", json.dumps(result, indent=1))
    shutil.rmtree(folder / "run" / "checkpoints")
    return result


def report(args: argparse.Namespace, results: list[dict[str, Any]], held_out: Sequence[HeldOutTake]) -> str:
    """Write probe.json, probe.md and probe.png of these results and of others that the folder holds."""
    named = {result["name"] for result in results}
    for path in sorted(args.out.glob("*/result.json")):
        if path.parent.name not in named:
            results.append(json.loads(path.read_text()))
    table = probe_table(results)
    settings = json.loads((args.out / "settings.json").read_text())
    write_text(args.out / "probe.json", json.dumps({"settings": settings, "results": results}, indent=1))
    charts = held_out[: args.num_charts]
    take = next((take for take in charts if changes_chord(take.lead_sheet, 0.0, args.seconds)), charts[0])
    items = [("render", take.audio(args.seconds), take.lead_sheet)]
    for result in results:
        clip = read_audio(args.out / result["name"] / "clips" / f"{take.name}.flac")
        items.append((f"{result['name']}, {result['steps']} steps", clip, looping(take.lead_sheet)))
    plot_spectrogram_grid(items, args.out / "probe.png")
    write_text(args.out / "probe.md", (
        f"# The same flow on {len(results)} kinds of latents\n\n{table}\n"
        "Losses compare within a row only; over the codec's latents, without cues. gap: (rotated - true) / true. "
        "pitch: `semitone_correlation`, by contrast: `pitch_correlation`, of un-quantised round trips.\n\n"
        f"![{take.name}: render and candidates](probe.png)\n"
    ))  # fmt: skip
    return table


def check_numbers(args: argparse.Namespace) -> None:
    names = ("steps", "batch_size", "num_takes", "num_held_out", "num_charts", "seconds", "sampling_steps",
             "fit_clips")  # fmt: skip
    for name in names:
        if not getattr(args, name) > 0:
            raise ValueError(f"{name} must be greater than 0, got {getattr(args, name)}.")
    if args.codebook_steps is not None and not args.codebook_steps > 0:
        raise ValueError(f"codebook_steps must be greater than 0, got {args.codebook_steps}.")


@disk_errors
def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    with input_errors():
        check_numbers(args)
        candidates = [Candidate.parse(text) for text in args.candidates]
        if len({candidate.name for candidate in candidates}) < len(candidates):
            raise ValueError("two candidates have the same name; write NAME=SOURCE.")
        style_encoder, tokenizer = load_style_encoder(args.style_encoder)
        config = dataclasses.asdict(flow_config(args))
        takes, held_out = choose(args)
        # What every candidate of a folder shares, so that its table compares like with like.
        config["model"].pop("prediction_type")
        shared = {key: value for key, value in {**config, **vars(args)}.items() if key not in APART}
        claim(args.out / "settings.json", "a probe", **shared, style=fingerprint(style_encoder))
        embed_takes(style_encoder, tokenizer, takes, args.out / "styles")
        ready = [prepare(candidate, args, takes) for candidate in candidates]
    results = [probe(one, args, takes, held_out) for one in ready]
    print(report(args, results, held_out))


if __name__ == "__main__":
    main()
