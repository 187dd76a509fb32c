"""Where an adapter lies: a folder, or a repository of the Hub; and whether all of it is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .loading import check_repo_id, check_revision, check_safetensors, read_json

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
STYLE_EMBEDDING = "style_embedding.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def find_adapter(
    source: str | Path,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The adapter's folder: `source` itself, or fetched from the Hub (or its cache) where it is a repository id.

    Raises:
        OSError: no such folder; not on the Hub, or not reachable. ValueError: a pickle, or an impossible id.
    """
    allowed = "give a folder that save_lora_weights wrote, or a Hub id such as 'user/adapter'"
    path = Path(source).expanduser()
    if path.suffix in PICKLES:
        raise ValueError(refused_pickle(path.name))
    if path.is_file() and path.name == ADAPTER_WEIGHTS:
        path = path.parent
    if path.is_dir():
        return path
    name = str(source)
    if path.exists() or isinstance(source, Path) or name.startswith((".", "/", "~", "\\")):
        raise OSError(f"there is no adapter folder {name!r}; {allowed}")
    try:
        check_repo_id(name)
    except ValueError as error:
        raise ValueError(f"{name!r} is no adapter's folder, and {error}") from None
    return download_adapter(
        name, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
    )


def download_adapter(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """The folder of an adapter on the Hub, fetched or from the cache; what plays of it, and nothing else.

    Raises:
        ValueError: an impossible id or revision, or an adapter that is a pickle.
        OSError: not there, not reachable, private without a token, or not whole.
    """
    from huggingface_hub import HfApi, snapshot_download

    check_repo_id(repo_id)
    check_revision(revision)
    try:
        folder = snapshot_download(
            repo_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only,
            force_download=force_download, allow_patterns=[ADAPTER_CONFIG, ADAPTER_WEIGHTS, STYLE_EMBEDDING],
        )  # fmt: skip
        weights = Path(folder) / ADAPTER_WEIGHTS
        if not weights.exists() and not local_files_only:
            names = HfApi(token=token).list_repo_files(repo_id, revision=revision)
            pickles = [name for name in names if Path(name).suffix in PICKLES]
            if pickles:
                raise ValueError(
                    f"{repo_id!r} has {', '.join(pickles)} and no {ADAPTER_WEIGHTS}: a pickle runs code when it is "
                    "read, and is refused. Ask its author for safetensors"
                )
    except ValueError:
        raise
    except Exception as error:  # the client's and its HTTP library's own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise OSError(
            f"the adapter {repo_id!r} could not be had from the Hub ({reason}); give the id of a repository that this "
            "token may read, or a folder"
        ) from error
    check_adapter_folder(folder)
    return Path(folder)


def check_adapter_folder(folder: str | Path) -> dict[str, Any]:
    """The config of an adapter folder, after a check that all of it is there and none of it is a pickle.

    Raises:
        OSError: a file is missing, cut short, or a link. ValueError: a pickle, or a config that is not one of PEFT's.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise OSError(
            f"there is no adapter folder {folder}; give one that save_lora_weights or train_lora.py wrote"
        )
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise ValueError(
            f"{folder} holds {', '.join(pickles)}: a pickle runs code when it is read, and is refused. Save the "
            f"adapter as {ADAPTER_WEIGHTS} and remove it"
        )
    links = sorted(path.name for path in folder.iterdir() if path.is_symlink())
    inside = folder.resolve()
    if inside.parent.name == "snapshots":  # the Hub's cache is made of links, which lead to its own blobs
        inside = inside.parents[1]
    astray = [name for name in links if inside not in (folder / name).resolve().parents]
    if astray:
        raise OSError(
            f"{folder} holds links to elsewhere ({', '.join(astray)}); put the files themselves there"
        )
    config = read_json(folder / ADAPTER_CONFIG, f"is no adapter folder: it has no {ADAPTER_CONFIG}")
    if not isinstance(config.get("peft_type"), str):
        raise ValueError(f"{folder / ADAPTER_CONFIG} names no peft_type: it is not a config of PEFT's")
    check_safetensors(folder / ADAPTER_WEIGHTS)
    return config


def refused_pickle(name: str) -> str:
    return (
        f"{name} is a pickle, which runs code when it is read: adapters are read from {ADAPTER_WEIGHTS} only; "
        "ask its author for that, or save it again with save_lora_weights"
    )
