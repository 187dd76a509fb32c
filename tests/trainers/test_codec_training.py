"""The watch over a codec's run, its settings, and what a kill leaves."""

from __future__ import annotations

import pytest
import torch

from rtjazz_hf.trainers.codec import CodecTrainConfig, CodecWatch, TrainingFailed


class Run:
    """What the watch uses of a `TrainingRun`, without an Accelerator."""

    def __init__(self, output_dir):
        self.output_dir, self.step, self.healthy, self.logged = output_dir, 7, True, {}

    def log_now(self, **values):
        self.logged |= values


@pytest.fixture
def watch(tmp_path) -> CodecWatch:
    for step in (4, 6):
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
        (tmp_path / "checkpoints" / f"step-{step:08d}" / "state.json").write_text("{}")
    return CodecWatch(Run(tmp_path), codebook_size=64)


class TestCodecWatch:
    def test_a_loss_that_falls_is_healthy(self, watch):
        for loss in (2.0, 1.5, 1.6):
            watch.see(torch.tensor(loss))
            watch.look()
        assert watch.run.healthy

    @pytest.mark.parametrize("loss", [9.0, float("nan")])
    def test_a_run_that_explodes_stops_and_names_its_checkpoint(self, watch, loss):
        watch.see(torch.tensor(1.0))
        watch.look()
        watch.see(torch.tensor(loss))
        with pytest.raises(TrainingFailed, match="step-00000006"):
            watch.look()
        assert not watch.run.healthy  # so that no checkpoint of this state takes the place of a good one

    def test_codebooks_are_counted_level_by_level(self, watch):
        codes = torch.stack([torch.arange(64), torch.arange(64) // 2 * 2], dim=1)
        watch.see(torch.tensor(1.0), codes)
        watch.look()
        assert watch.run.logged["usage_0"] == 1.0 and watch.run.logged["usage_1"] == 0.5
        assert watch.run.logged["perplexity_1"] == pytest.approx(32)

    def test_a_lost_codebook_stops_the_run(self, watch):
        watch.see(torch.tensor(1.0), torch.zeros(500, 2, dtype=torch.int64))
        with pytest.raises(TrainingFailed, match="codebook 0 is lost"):
            watch.look()


class TestSettings:
    def test_unknown_losses_are_named(self, tmp_path):
        with pytest.raises(ValueError, match="'mels' is no loss"):
            CodecTrainConfig(output_dir=str(tmp_path), data="takes", loss_weights={"mels": 1.0})

    def test_a_loss_of_the_sound_itself_is_needed(self, tmp_path):
        with pytest.raises(ValueError, match="must be above 0"):
            CodecTrainConfig(
                output_dir=str(tmp_path), data="takes", loss_weights={"mel": 0.0, "feature": 1.0}
            )

    def test_discriminators_see_no_more_than_a_crop(self, tmp_path):
        with pytest.raises(ValueError, match="discriminator_frames=32"):
            CodecTrainConfig(output_dir=str(tmp_path), data="takes", crop_frames=20, adversarial_from=0)
