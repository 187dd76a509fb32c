#!/usr/bin/env bash
# diffusers 0.42.1 (peft 0.21.2, torch 2.13.0): saving a pipeline drops a component that peft has wrapped
#
# A good engineer would guess: save_pretrained writes all components of the pipeline, or raises an error.
#
# What happens: a model wrapped by get_peft_model cannot be saved as a component. save_pretrained logs one line ("... cannot be
# saved", behind a print of the whole network), writes `null` in its place, and returns as if all was well. Seen:
#     plain model:   transformer in model_index.json: ['tinyflow', 'TinyFlow'], in the folder: ['model_index.json', 'transformer']
#     wrapped model: transformer in model_index.json: [None, None], in the folder: ['model_index.json']
#
# Why it matters: the line that ends a fine-tuning script, "save the pipeline", writes a folder with neither the trained adapter
# nor the base model, after hours of training and with exit status 0. Unload, merge or save the adapter on its own first.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile torch==2.13.0 transformers==5.23.0 diffusers==0.42.1 peft==0.21.2
cat > tinyflow.py <<'PY'
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config


class TinyFlow(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, width=4):
        super().__init__()
        self.proj = torch.nn.Linear(width, width)

    def forward(self, x):
        return self.proj(x)
PY
PYTHONPATH=. venv/bin/python - <<'PY'
import json
import os

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model
from tinyflow import TinyFlow


class TinyPipeline(DiffusionPipeline):
    def __init__(self, transformer):
        super().__init__()
        self.register_modules(transformer=transformer)


def saved(folder, transformer):
    TinyPipeline(transformer).save_pretrained(folder)
    return json.load(open(f"{folder}/model_index.json"))["transformer"], sorted(os.listdir(folder))


plain = saved("plain", TinyFlow())
wrapped = saved("wrapped", get_peft_model(TinyFlow(), LoraConfig(target_modules=["proj"])))
print("plain model:   transformer in model_index.json: {}, in the folder: {}".format(*plain))
print("wrapped model: transformer in model_index.json: {}, in the folder: {}".format(*wrapped))
assert plain[1] == ["model_index.json", "transformer"], "a plain model is not saved either"
assert wrapped == ([None, None], ["model_index.json"]), "changed: the wrapped model is no longer dropped"
PY
