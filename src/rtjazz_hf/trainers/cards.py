"""The model card of a trained part."""

from __future__ import annotations

import dataclasses
import json

from .config import TrainConfig


def model_card(
    name: str,
    summary: str,
    config: TrainConfig,
    metrics: dict[str, float],
    data: str,
    library: str = "transformers",
) -> str:
    """The README.md of a trained part: what it is, how it was trained, its measures and limits."""
    rows = "\n".join(f"| {key} | {value:.4g} |" for key, value in sorted(metrics.items()))
    settings = "\n".join(f"{key}: {json.dumps(value)}" for key, value in dataclasses.asdict(config).items()
                         if key not in ("output_dir", "data"))  # fmt: skip
    return f"""---
library_name: {library}
license: apache-2.0
tags:
- music
- jazz
- rtjazz
---

# {name}

{summary}

A part of RealTimeJazz: `pip install rtjazz-hf`, then `import rtjazz_hf` before `AutoModel.from_pretrained`.

## Training

Data: {data}

```yaml
{settings}
```

## Measures at the end of training

| measure | value |
|---|---|
{rows}

## Limits

Trained on the data named above alone: other music, other words and other sound are outside what it knows.
"""
