"""Evaluation on the way: few held-out takes, measured as `rtjazz evaluate` measures them, while a run goes on.

What a loss does not say: whether charts are obeyed, how far the spectrum is from the renders', what a round trip keeps.
Figures go to the run's log as `eval_...`, reports and clips to output_dir/evaluation/step-XXXXXXXX.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..codec import RealTimeJazzCodec
from ..flow import FlowMatchScheduler, RealTimeJazzFlowTransformer
from ..hub import load_style_encoder
from ..pipeline_realtime_jazz import RealTimeJazzPipeline
from ..style import RealTimeJazzStyleEncoder, RealTimeJazzTokenizer
from .config import import_train_extra
from .run import TrainingRun


def check_evaluation(run: TrainingRun) -> None:
    """Refuse what an evaluation on the way cannot do, before any step.

    Raises:
        ImportError: the extra eval is missing. ValueError: with FSDP, whose weights are in pieces.
    """
    for name in ("librosa", "mir_eval"):
        import_train_extra(name, "eval")
    if "FSDP" in str(run.accelerator.distributed_type):
        raise ValueError("evaluation wants whole weights in one process; set evaluate_every: 0 with FSDP.")


class FlowEvaluation:
    """The part "charts" of `rtjazz evaluate` on the first held-out takes of a corpus.

    Args:
        takes: folder of training/prepare_corpus.py. num_takes, seconds: how many of its charts, and how long.

    Raises:
        as `check_evaluation`; ValueError: the folder has no held-out take.
    """

    def __init__(
        self,
        run: TrainingRun,
        codec: RealTimeJazzCodec,
        style_encoder: RealTimeJazzStyleEncoder,
        tokenizer: RealTimeJazzTokenizer,
        takes: str | Path,
        num_takes: int,
        seconds: float,
    ) -> None:
        check_evaluation(run)
        from ..evaluation.takes import records_of_test

        self.run, self.codec, self.style_encoder, self.tokenizer = run, codec, style_encoder, tokenizer
        self.takes, self.num_takes, self.seconds = records_of_test(takes), num_takes, seconds

    @classmethod
    def of(cls, run: TrainingRun, codec: RealTimeJazzCodec) -> FlowEvaluation:
        """As the settings of a flow's run say."""
        config = run.config
        return cls(run, codec, *load_style_encoder(config.style_encoder), config.takes, config.evaluate_takes,
                   config.evaluate_seconds)  # fmt: skip

    def __call__(self, transformer: RealTimeJazzFlowTransformer) -> None:
        """Measure `transformer` on the main process; the others wait."""
        if self.run.is_main:
            self._measure(transformer)
        self.run.accelerator.wait_for_everyone()

    def _measure(self, transformer: RealTimeJazzFlowTransformer) -> None:
        from ..evaluation import evaluate

        # A copy: a pipeline arranges its weights for playing, which is nothing for an optimizer to meet.
        copy = RealTimeJazzFlowTransformer(transformer.config).to(self.run.device)
        copy.load_state_dict(transformer.state_dict())
        own = transformer.config.sampling_defaults
        pipe = RealTimeJazzPipeline(
            codec=self.codec, transformer=copy.eval(), style_encoder=self.style_encoder.to(self.run.device),
            tokenizer=self.tokenizer, scheduler=FlowMatchScheduler(shift=own["shift"]),
            num_inference_steps=own["num_inference_steps"], guidance_scale=own["guidance_scale"],
            block_frames=transformer.config.block_frames, window_frames=transformer.config.window_frames,
        )  # fmt: skip
        report = evaluate(
            pipe, self.takes, _folder(self.run), only="charts", num_takes=self.num_takes, duration=self.seconds,
            progress=False, seed=self.run.config.seed,
        )  # fmt: skip
        found = report["charts"]["summary"]
        _tell(
            self.run,
            {
                "eval_chord_score": found["chord_scores"].get("generated"),
                "eval_beat_f": found["beat_fs"].get("generated"),
                "eval_band_error_db": found["band_error_db"].get("generated"),
                "eval_sane": found["sane"] / len(report["charts"]["charts"]),
            },
        )


class CodecEvaluation:
    """Round trips of the first held-out takes of a corpus, un-quantised and, once there are any, through codes."""

    def __init__(self, run: TrainingRun, takes: str | Path, num_takes: int, seconds: float) -> None:
        check_evaluation(run)
        from ..evaluation.clips import clips_of_takes
        from ..evaluation.takes import records_of_test

        clips, _ = clips_of_takes(records_of_test(takes), num_takes, seconds)
        self.run, self.clips, self.seconds = run, clips, seconds

    def __call__(self, codec: RealTimeJazzCodec) -> None:
        """Measure `codec` on the main process; the others wait."""
        if self.run.is_main:
            from ..evaluation.measures.model_checks import codec_scores
            from ..evaluation.writing import to_plain, write_text

            audio = [clip.read(self.seconds) for clip in self.clips]
            trained = codec.training
            codec.eval()
            scores: dict[str, Any] = {"unquantised": codec_scores(codec, audio)}
            if codec.quantizer.is_initialized:
                scores["codes"] = codec_scores(codec, audio, codec.config.num_codebooks)
            codec.train(trained)
            folder = _folder(self.run)
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / "codec.json", json.dumps(to_plain(scores), indent=2) + "\n")
            values = {}
            for kind, found in scores.items():
                values |= {
                    f"eval_{kind}_pitch": found["pitch_correlation"],
                    f"eval_{kind}_mel_db": found["mel_distance_db"],
                }
            _tell(self.run, values)
        self.run.accelerator.wait_for_everyone()


def _folder(run: TrainingRun) -> Path:
    return run.output_dir / "evaluation" / f"step-{run.step + 1:08d}"


def _tell(run: TrainingRun, values: dict[str, float | None]) -> None:
    known = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
    run.log_now(**known)
    told = ", ".join(f"{name.removeprefix('eval_')} {value:.3f}" for name, value in known.items())
    run.print(f"step {run.step + 1}, evaluated: {told}")


__all__ = ["CodecEvaluation", "FlowEvaluation", "check_evaluation"]
