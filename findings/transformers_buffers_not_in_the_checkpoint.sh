#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.13.0): buffers that are not in the checkpoint are uninitialised after from_pretrained
#
# A good engineer would guess: a buffer registered with persistent=False is computed in __init__, so a loaded model
# has it as a new one does. That is what persistent=False is for (windows, filter banks, position tables).
#
# What happens: from_pretrained builds the model without memory and then gives such buffers memory that nothing fills.
# The loading report is clean: nothing missing, nothing unexpected, no warning. Seen:
#     Hann window of the new model: sum 512.0; of the loaded model: sum 8.860138496839065e+35 (another time 1.4e-39)
#     loading report: {'missing_keys': set(), 'unexpected_keys': set(), 'mismatched_keys': set(), 'error_msgs': []}
#
# Why it matters: an audio model with a window or mel filters in a buffer loads without complaint and then computes with
# whatever lay in memory, often zeros, not always. The buffers have to be filled once more in `_init_weights`, or be persistent.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile torch==2.13.0 transformers==5.23.0
venv/bin/python - <<'PY'
import torch
from transformers import PretrainedConfig, PreTrainedModel


class SpectrumConfig(PretrainedConfig):
    model_type = "spectrum"


class SpectrumModel(PreTrainedModel):
    config_class = SpectrumConfig

    def __init__(self, config):
        super().__init__(config)
        self.linear = torch.nn.Linear(4, 4)
        self.register_buffer("window", torch.hann_window(1024), persistent=False)
        self.post_init()


model = SpectrumModel(SpectrumConfig())
model.save_pretrained("model")
loaded, report = SpectrumModel.from_pretrained("model", output_loading_info=True)
print(f"Hann window of the new model: sum {model.window.sum()}; of the loaded model: sum {loaded.window.sum().item()}")
print("loading report:", report)
assert torch.equal(model.linear.weight, loaded.linear.weight), "the weights themselves did not load"
assert not any(report.values()), "changed: the loading report now says something"
assert not torch.equal(model.window, loaded.window), "changed: the buffer comes back right"
PY
