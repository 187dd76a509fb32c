"""Pushing pipelines and adapters to the Hub.

A push is large files first, then one commit: the repository changes with the commit or not at all, and files that
have gone up are not sent again. So every push is safe to repeat, and an error says how far it came.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .adapter_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_root, check_adapter_folder
from .cards import NO_SAMPLE, card_metadata, fill_model_card
from .cards import model_card as pipeline_card
from .loading import check_repo_id, check_revision

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

    from .models import Models

SAMPLE_AUDIO, SAMPLE_PICTURE = "sample.flac", "sample.png"
# What is pushed and fetched of an adapter: tensors and text, never anything that runs code when it is read.
_ADAPTER_FILES = ("*.json", "*.safetensors", "*.md", "*.txt", "*.flac", "*.wav", "*.png")


# -- pushing -----------------------------------------------------------------------------------------------------
def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    keep_card: bool = False,
) -> str:
    """Upload a folder in one commit; the commit's address. Files of the repository that the folder lacks stay.

    Args:
        revision: branch, made if it is not there; the main one by default.
        private: of a repository that is made now; one that is there stays as it is.
        token: the one of `hf auth login` or `HF_TOKEN` by default.
        keep_card: leave a README.md that the repository has as it is.

    Raises:
        ValueError: `repo_id` or `revision` cannot be one.
        PermissionError: no token, or one that may not write there.
        ConnectionError: the Hub is not reachable, or was lost on the way; what had been pushed is told.
        OSError: whatever else the Hub answered.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    check_repo_id(repo_id)
    check_revision(revision)
    if token is None and get_token() is None:
        raise PermissionError(
            f"pushing to {repo_id!r} needs a token with write access: run `hf auth login`, set HF_TOKEN, or give token="
        )
    api, folder = HfApi(token=token), Path(folder)
    progress = _Progress(repo_id, revision)
    try:
        repo_id = progress.repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        progress.repository = True
        if revision not in (None, "main"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        files = {
            path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()
        }
        if keep_card and api.file_exists(repo_id, "README.md", revision=revision):
            files.pop("README.md", None)
        operations = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        _upload_large(api, repo_id, operations, revision, create_pr, progress)
        progress.committing = True
        commit = api.create_commit(
            repo_id, operations, revision=revision, create_pr=create_pr,
            commit_message=commit_message or f"Upload {folder.name} with rtjazz_hf",
        )  # fmt: skip
    except Exception as error:  # the client's and its HTTP library's own
        raise progress.failure(error) from error
    return str(commit.pr_url or commit.commit_url) if create_pr else str(commit.commit_url)


class _Progress:
    """How far a push has come, for the error that ends it."""

    def __init__(self, repo_id: str, revision: str | None):
        self.repo_id, self.revision = repo_id, revision
        self.repository = self.committing = False
        self.uploaded: list[str] = []

    def failure(self, error: Exception) -> OSError:
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        place = repr(self.repo_id) + (f" (branch {self.revision!r})" if self.revision else "")
        if status == 401:
            return PermissionError(
                f"the Hub does not know the token that was given for {place} ({reason}); {self.state()}. "
                "Run `hf auth login`, set HF_TOKEN, or give token="
            )
        if status == 403 or (status == 404 and self.repository):
            return PermissionError(
                f"this token may not write to {place} ({reason}); {self.state()}. Give a token with write access, "
                "or push to a repository of your own"
            )
        if status is None or status >= 500:
            return ConnectionError(
                f"the Hub could not be reached while pushing to {place} ({reason}); {self.state()}. "
                "It is safe to run the same push again: what was uploaded is not sent twice"
            )
        return OSError(f"the Hub refused the push to {place} ({reason}); {self.state()}")

    def state(self) -> str:
        if not self.repository:
            return "nothing was pushed"
        large = (
            f"uploaded and waiting: {', '.join(self.uploaded)}"
            if self.uploaded
            else "no large file is uploaded"
        )
        if self.committing:
            return f"the repository exists; {large}; the commit that shows them was sent and not confirmed"
        return f"the repository exists; {large}; none of the files is in it yet, for the commit was not made"


def _upload_large(
    api: HfApi,
    repo_id: str,
    operations: list[CommitOperationAdd],
    revision: str | None,
    create_pr: bool,
    progress: _Progress,
) -> None:
    """One by one, so that an error knows which of them are there."""
    for operation in operations:
        if operation.path_in_repo.endswith((".safetensors", ".flac", ".wav", ".png")):
            api.preupload_lfs_files(
                repo_id, [operation], revision=revision, create_pr=create_pr, free_memory=False
            )
            progress.uploaded.append(operation.path_in_repo)


def push_adapter(
    models: Models,
    repo_id: str,
    adapter: str | Path,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    model_card: str | None = None,
    **card_values: Any,
) -> str:
    """Upload an adapter folder in PEFT's format with a model card; the commit's address. See `push_folder`.

    Args:
        adapter: folder with `adapter_config.json` and `adapter_model.safetensors`; a style embedding, `sample.flac`
            and `sample.png` (see `write_sample`) go with it.
        model_card: the README.md's text, or a template with `{{places}}`, for which `card_values` are. By default
            the folder's own README.md, or the short built-in one; a card in the repository is kept then.

    Raises:
        ValueError, OSError: the folder holds no whole adapter, holds a pickle or a link, or what `push_folder` raises.
    """
    check_repo_id(repo_id)
    adapter = adapter_root(adapter)
    config = check_adapter_folder(adapter)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "adapter"
        folder.mkdir()
        for path in adapter_files(adapter):
            (folder / path.name).write_bytes(path.read_bytes())
        base = base_of(models, config)
        # PEFT notes where the base lay on this machine, which is nobody's business and means nothing elsewhere.
        config = {**config, "base_model_name_or_path": base}
        (folder / ADAPTER_CONFIG).write_text(
            json.dumps(config, indent=2) + "\n", encoding="utf-8"  # in their order: patterns go by the first
        )
        card = folder / "README.md"
        if model_card is not None or not card.exists():
            text = adapter_card(models, folder, repo_id, model_card, **card_values)
            card.write_text(text, encoding="utf-8")
        return push_folder(
            folder, repo_id, revision=revision, private=private, token=token,
            commit_message=commit_message or "Upload adapter", keep_card=model_card is None,
        )  # fmt: skip


class PushMixin:
    """The pipeline's methods that push."""

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        model_card: str | None = None,
        revision: str | None = None,
        **kwargs: Any,
    ) -> str:
        """Upload the pipeline to the Hub; the address of the commit.

        Unlike diffusers' own, it does not put an empty card over what the repository says: `model_card` is
        written if it is given, and a card made from the pipeline if the repository has none.

        Args:
            repo_id: "user/name", or "name" under the token's user; made if it is not there.
            private: of a repository that is made now. revision: branch to push to, made if it is not there.
            token: the one of `hf auth login` or `HF_TOKEN` by default.
            kwargs: for `save_pretrained`.

        Raises:
            ValueError: an impossible `repo_id` or `revision`, or an adapter that is attached.
            PermissionError: no token, or one that may not write there.
            ConnectionError: the Hub is not reachable, or was lost on the way: what had been pushed is told, and
                pushing again is safe.
        """
        check_repo_id(repo_id)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **kwargs)
            (Path(folder) / "README.md").write_text(
                model_card or pipeline_card(self.models, repo_id), encoding="utf-8"
            )
            return push_folder(
                folder, repo_id, revision=revision, private=private, token=token, create_pr=create_pr,
                commit_message=commit_message or f"Upload {type(self).__name__}", keep_card=model_card is None,
            )  # fmt: skip

    def push_adapter_to_hub(
        self,
        repo_id: str,
        adapter: str | Path | None = None,
        revision: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
        model_card: str | None = None,
        **card_values: Any,
    ) -> str:
        """Upload an adapter of a few megabytes to the Hub, for `load_lora_weights(repo_id)`; the commit's address.

        Args:
            adapter: its folder, in PEFT's format, or the name of one that is loaded; the loaded one by default.
            revision, private, token: as of `push_to_hub`.
            model_card: the README.md's text, or a template such as `model_cards/adapter.md`, for whose further
                places `card_values` are.

        Raises:
            ValueError: an impossible `repo_id`, a pickle among the files, or no such adapter.
            PermissionError, ConnectionError: as of `push_to_hub`.
            OSError: a folder without a whole adapter.
        """
        check_repo_id(repo_id)
        settings = {"revision": revision, "private": private, "token": token, "commit_message": commit_message,
                    "model_card": model_card, **card_values}  # fmt: skip
        if adapter is not None and (isinstance(adapter, Path) or os.sep in adapter or Path(adapter).is_dir()):
            return push_adapter(self.models, repo_id, adapter, **settings)
        save = getattr(self, "save_lora_weights", None)
        if save is None:
            raise ValueError(f"adapter {adapter!r} is no folder; give the one that the adapter was saved in")
        with tempfile.TemporaryDirectory() as folder:
            save(folder, **({} if adapter is None else {"adapter_name": adapter}))
            return push_adapter(self.models, repo_id, folder, **settings)


# -- adapters ----------------------------------------------------------------------------------------------------
def adapter_files(folder: Path) -> list[Path]:
    """The files of an adapter folder that are published."""
    return sorted({path for pattern in _ADAPTER_FILES for path in folder.glob(pattern) if path.is_file()})


def base_of(models: Models | None, config: dict[str, Any]) -> str | None:
    """Bundled name or Hub id of the pipeline that an adapter is for; None if it only has a place on a disk."""
    names = [models.name_or_path] if models is not None else []
    for name in (*names, config.get("base_model_name_or_path")):
        try:
            if name and not Path(name).exists():
                check_repo_id(name)
                return str(name)
        except ValueError:
            continue
    return None


# -- cards -------------------------------------------------------------------------------------------------------
def write_sample(
    play: Callable[..., Any],
    folder: str | Path,
    prompt: Any,
    *,
    duration: float = 10.0,
    seed: int = 1,
    **wishes: Any,
) -> Path:
    """Have a pipeline play a clip for a card: `sample.flac`, and its spectrogram `sample.png` (`rtjazz-hf[eval]`).

    Raises:
        ImportError: matplotlib is missing. What a call of the pipeline and writing a file raise.
    """
    import torch

    from rtjazz_hf.audio import plot_spectrogram, write_audio

    folder = Path(folder)
    out = play(prompt, duration=duration, generator=torch.Generator().manual_seed(seed), **wishes)
    write_audio(folder / SAMPLE_AUDIO, out.audios[0])
    plot_spectrogram(out.audios[0], folder / SAMPLE_PICTURE, lead_sheet=out.lead_sheets[0])
    return folder / SAMPLE_AUDIO


def sample_lines(folder: str | Path | None) -> str:
    """The lines of a card that show `write_sample`'s files, those of them that a folder holds."""
    lines = []
    if folder is not None and (Path(folder) / SAMPLE_AUDIO).is_file():
        lines.append(f'<audio controls src="{SAMPLE_AUDIO}"></audio>\n\n[{SAMPLE_AUDIO}]({SAMPLE_AUDIO})')
    if folder is not None and (Path(folder) / SAMPLE_PICTURE).is_file():
        lines.append(f"![Spectrogram of the sample]({SAMPLE_PICTURE})")
    return "\n\n".join(lines) or NO_SAMPLE


def adapter_card(
    models: Models | None,
    folder: str | Path,
    name: str,
    template: str | None = None,
    **values: Any,
) -> str:
    """The text of a README.md for the adapter in `folder`; `values` fill a template's further places."""
    from safetensors import safe_open

    folder = Path(folder)
    config = check_adapter_folder(folder)
    base = base_of(models, config)
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118 (no mapping)
    count = sum(math.prod(shape) for shape in shapes)
    targets = config.get("target_modules") or []
    facts = {
        "name": name,
        "base": base or "a pipeline that its author has not published",
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "targets": targets if isinstance(targets, str) else ", ".join(sorted(targets)),
        "parameters": f"{count / 1e6:.2f} M",
        "megabytes": f"{(folder / ADAPTER_WEIGHTS).stat().st_size / 1e6:.2f}",
        "trigger": json.dumps(values.pop("prompt", f"in the style of {name.split('/')[-1]}")),
        "sample": sample_lines(folder),
    }
    data = card_metadata("adapter", base, **values.pop("metadata", {}))
    return fill_model_card(template or _ADAPTER_CARD, data, **{**facts, **values})


_ADAPTER_CARD = """\
---
{{ card_data }}
---
# {{ name }}

A LoRA adapter for RealTimeJazz: a way of playing, for {{ base }}.

```python
from rtjazz_hf import RealTimeJazzPipeline

pipe = RealTimeJazzPipeline.from_pretrained("{{ base }}")
pipe.load_lora_weights("{{ name }}")
audio = pipe({{ trigger }}, duration=10.0).audios[0]
```

Rank {{ rank }}, alpha {{ alpha }}, on {{ targets }}: {{ parameters }} parameters, {{ megabytes }} MB.

## Sample

{{ sample }}

**Limits.** Whose playing it was taught, with what right, and how it measured, is for whoever trained it to add here.
"""
