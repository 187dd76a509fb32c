"""Learn a personal style from a folder of recordings: a LoRA adapter and a style embedding.

    accelerate launch training/train_lora.py --config mini --recordings my_takes --name me --output-dir my-style

`rtjazz adapt my_takes -o my-style` is the same loop.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rtjazz_hf.trainers.adapter import LoraTrainConfig, train_lora
from rtjazz_hf.trainers.run import input_errors, parse_config

CONFIGS = Path(__file__).parent / "configs"


def main(argv: Sequence[str] | None = None) -> None:
    config = parse_config(LoraTrainConfig, "lora", CONFIGS, description=__doc__, argv=argv)
    with input_errors():
        print(json.dumps(train_lora(config)))


if __name__ == "__main__":
    main()
