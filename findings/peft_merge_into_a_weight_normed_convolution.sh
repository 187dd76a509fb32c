#!/usr/bin/env bash
# peft 0.21.2 (torch 2.13.0): merging a LoRA into a weight-normed convolution does nothing and says nothing
#
# A good engineer would guess: merge_and_unload() gives the model that the adapter made, as one set of weights, or an error.
#
# What happens: torch's weight_norm is a parametrization, `conv.weight` is computed from two other tensors at each access.
# The merge writes into the computed tensor, which is thrown away. The adapter works before the merge and is gone after it. Seen:
#     adapter against base 2.785618; merged against adapter 2.785618; merged against base 0.000000
#
# Why it matters: nearly all neural vocoders and codecs (EnCodec's and HiFi-GAN's kind) have weight-normed convolutions.
# A fine-tuned voice or style that was merged "for speed" or for export is the untouched base model. Parametrizations must be
# removed before the adapter is put on.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile torch==2.13.0 peft==0.21.2
venv/bin/python - <<'PY'
import torch
from peft import LoraConfig, get_peft_model


class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(4, 4, 3))

    def forward(self, x):
        return self.conv(x)


torch.manual_seed(0)
net, x = Decoder(), torch.randn(1, 4, 9)
with torch.no_grad():
    base = net(x)
    adapted_net = get_peft_model(net, LoraConfig(target_modules=["conv"], r=2, init_lora_weights=False))
    adapted = adapted_net(x)
    merged = adapted_net.merge_and_unload()(x)
gap = lambda a, b: float((a - b).abs().max())
print(f"adapter against base {gap(adapted, base):.6f}; merged against adapter {gap(merged, adapted):.6f}; "
      f"merged against base {gap(merged, base):.6f}")
assert gap(adapted, base) > 0.1, "the adapter had no effect to lose"
assert gap(merged, base) < 1e-5, "changed: the merge now has an effect"
PY
