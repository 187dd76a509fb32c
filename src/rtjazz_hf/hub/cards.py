"""Model cards: the README.md of a pipeline, from a template."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from .registration import COMPONENTS, PACKAGE

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

    from .models import Models

NO_SAMPLE = "None was given."
CARD_KINDS = ("base", "fine-tune", "adapter")
_CARD = """\
---
{{ card_data }}
---
# {{name}}

A RealTimeJazz pipeline: 48 kHz stereo jazz from words, a clip or a chord chart, in whole clips or live.

```python
from rtjazz_hf import RealTimeJazzPipeline

pipe = RealTimeJazzPipeline.from_pretrained("{{name}}")
audio = pipe("medium swing piano trio", duration=10.0, chords="Dm7 | G7 | Cmaj7 | %", tempo=132).audios[0]
```

| part | class | parameters |
|---|---|---|
{{parts}}

Shipped settings: {{settings}}.

**Intended use.** Music for listening, practice and study, and research on real-time generation.
**Limits.** Instrumental jazz only. What it was trained on, and how it measured, is for whoever trained it
to add here.
"""


def fill_model_card(template: str, card_data: ModelCardData | None = None, **values: object) -> str:
    """Put values into a card template's `{{name}}` places, and `card_data` into its `{{card_data}}`.

    Raises:
        ValueError: a place has no value.
    """
    places = set(re.findall(r"{{\s*(\w+)\s*}}", template))
    missing = sorted(places - set(values) - ({"card_data"} if card_data is not None else set()))
    if missing:
        raise ValueError(f"the model card template needs values for {', '.join(missing)}")
    if "card_data" not in places:
        return re.sub(r"{{\s*(\w+)\s*}}", lambda place: str(values[place.group(1)]), template)
    from huggingface_hub import ModelCard

    return f"{ModelCard.from_template(card_data, template_str=template, **values)}".rstrip("\n") + "\n"


def card_metadata(kind: str, base_model: str | None = None, **more: Any) -> ModelCardData:
    """`ModelCardData` of a RealTimeJazz card: library, task, tags and licence as the Hub reads them.

    Args:
        kind: "base", "fine-tune" or "adapter". base_model: Hub id that the model was made from.
        more: further fields (`license`, `datasets`, `language`, ...), which win.

    Raises:
        ValueError: another kind, or a fine-tune or adapter of nothing.
    """
    from huggingface_hub import ModelCardData

    if kind not in CARD_KINDS:
        raise ValueError(f"kind {kind!r} of a model card: choose from {', '.join(CARD_KINDS)}")
    tags = [PACKAGE, "music", "jazz", "realtime", "flow-matching"]
    fields: dict[str, Any] = {
        "library_name": "peft" if kind == "adapter" else "diffusers",
        "pipeline_tag": "text-to-audio",
        "license": "apache-2.0",
        "tags": [*tags, "lora"] if kind == "adapter" else tags,
    }
    if base_model and kind != "base":
        fields["base_model"] = base_model
        fields["base_model_relation"] = {"adapter": "adapter", "fine-tune": "finetune"}[kind]
    return ModelCardData(**{**fields, **more})


def model_card(
    models: Models,
    name: str,
    template: str | None = None,
    *,
    base_model: str | None = None,
    metadata: dict[str, Any] | None = None,
    **values: object,
) -> str:
    """The text of a README.md for a pipeline; `values` fill further places of a template of your own.

    Args:
        base_model: Hub id of the pipeline that it is a fine-tune of.
        metadata: fields of `card_metadata`, such as `datasets`, `language` or another `license`.

    Raises:
        ValueError: a place of the template has no value.
    """
    rows, total = [], 0
    for part, class_name in COMPONENTS.items():
        module = getattr(models, part)
        count = sum(p.numel() for p in module.parameters()) if hasattr(module, "parameters") else 0
        rows.append(f"| {part} | `{class_name}` | {f'{count / 1e6:.2f} M' if count else '-'} |")
        total += count
    rows.append(f"| **all** | | **{total / 1e6:.2f} M** |")
    settings = ", ".join(f"{key} = {value}" for key, value in models.generation_defaults.items())
    facts = {
        "name": name,
        "parts": "\n".join(rows),
        "settings": settings,
        "parameters": f"{total / 1e6:.1f} M",
        "base": base_model or "",
        "sample": NO_SAMPLE,
    }
    data = card_metadata("fine-tune" if base_model else "base", base_model, **(metadata or {}))
    return fill_model_card(template or _CARD, data, **{**facts, **values})
