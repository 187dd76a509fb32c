#!/usr/bin/env bash
# peft 0.21.2 (torch 2.13.0): a saved adapter can come back at another strength
#
# A good engineer would guess: save_pretrained and from_pretrained give back the same adapter.
#
# What happens: of several entries of `alpha_pattern` (or `rank_pattern`) that fit a layer, the first one counts, so "this layer
# 16, all others 4" is written special case first. On saving the entries are sorted by name, and after loading another one is first.
# The weights are the same, the scale is not; nothing is said. Seen:
#     asked {'layers.query': 16, '.*': 4}, in the file {'.*': 4, 'layers.query': 16}
#     scale of layers.query: 8.0 when made, 2.0 when loaded; of layers.value: 2.0 and 2.0
#
# Why it matters: the adapter that was measured and listened to is not the one that others load, here by a factor of four. With
# `rank_pattern` the loaded shapes differ. Patterns must not overlap.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile torch==2.13.0 peft==0.21.2
venv/bin/python - <<'PY'
import copy
import json

import torch
from peft import LoraConfig, PeftModel, get_peft_model


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = torch.nn.ModuleDict({"query": torch.nn.Linear(4, 4), "value": torch.nn.Linear(4, 4)})

    def forward(self, x):
        return self.layers["value"](self.layers["query"](x))


torch.manual_seed(0)
base = Net()
asked = {"layers.query": 16, ".*": 4}
config = LoraConfig(target_modules=["query", "value"], r=2, lora_alpha=2, alpha_pattern=dict(asked), init_lora_weights=False)
made = get_peft_model(copy.deepcopy(base), config)
made.save_pretrained("adapter")
loaded = PeftModel.from_pretrained(copy.deepcopy(base), "adapter")
print(f"asked {asked}, in the file {json.load(open('adapter/adapter_config.json'))['alpha_pattern']}")
scale = lambda model, name: model.base_model.model.layers[name].scaling["default"]
print(f"scale of layers.query: {scale(made, 'query')} when made, {scale(loaded, 'query')} when loaded; "
      f"of layers.value: {scale(made, 'value')} and {scale(loaded, 'value')}")
x = torch.randn(1, 4)
assert scale(made, "query") == 8.0, "changed: the first pattern no longer decides"
assert scale(loaded, "query") == 2.0, "changed: the strength survives saving and loading"
assert not torch.allclose(made(x), loaded(x)), "changed: both give the same output"
PY
