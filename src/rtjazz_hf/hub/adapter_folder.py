"""Where an adapter lies: a folder, or a repository of the Hub; and whether all of it is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .loading import check_repo_id, check_revision, check_safetensors, read_json

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"  # as diffusers' save_lora_weights names it
_MARKS = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, DIFFUSERS_WEIGHTS)
STYLE_EMBEDDING = "style_embedding.safetensors"
PHRASES = "phrases.json"  # the player's habits, as counts; see `band.PhraseMemory`
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def adapter_root(folder: str | Path, subfolder: str | None = None) -> Path:
    """Where the adapter lies in what its maker calls its folder: there itself, or in a folder of its own inside.

    `rtjazz adapt -o my-style` writes `my-style/adapter`, and PEFT an adapter of another name than "default" into a
    folder of that name: both are found by the outer folder.

    Raises:
        OSError: no such sub-folder. ValueError: several adapters, or a `subfolder` that leads elsewhere.
    """
    folder = Path(folder)
    if subfolder is not None:
        inside = folder / check_subfolder(subfolder)
        if not inside.is_dir():
            raise OSError(f"{folder} has no sub-folder {subfolder!r}; {_told_adapters(folder)}")
        return inside
    if not folder.is_dir() or any((folder / name).is_file() for name in _MARKS):
        return folder
    found = [path for path in sorted(folder.iterdir()) if (path / ADAPTER_CONFIG).is_file()]
    own = folder / "adapter"
    if own in found:
        return own
    if len(found) > 1:
        raise ValueError(f"{folder} holds several adapters; {_told_adapters(folder)}")
    return found[0] if found else folder


def is_adapter_folder(folder: str | Path) -> bool:
    """Whether a folder is one adapter's own: that of its files, or one that `rtjazz adapt` wrote."""
    return any((Path(folder) / inside / ADAPTER_CONFIG).is_file() for inside in ("", "adapter"))


def _told_adapters(folder: Path) -> str:
    names = [path.name for path in sorted(folder.iterdir()) if (path / ADAPTER_CONFIG).is_file()]
    return f"choose subfolder from {', '.join(map(repr, names)) or 'none: no adapter is in it'}"


def check_subfolder(subfolder: str) -> str:
    """Refuse a sub-folder that leads out of its folder."""
    parts = Path(subfolder).parts if isinstance(subfolder, str) else ()
    if not parts or Path(subfolder).is_absolute() or ".." in parts or "\\" in subfolder:
        raise ValueError(f"subfolder {subfolder!r}: give the name of a folder inside, such as 'adapter'")
    return Path(subfolder).as_posix()


def adapter_name_of(source: str | Path) -> str:
    """What an adapter is called by where nobody names it: the last part of its folder or Hub id, without dots."""
    parts = [part for part in Path(source).expanduser().absolute().parts if part not in (".", "..")]
    if Path(parts[-1]).suffix == ".safetensors":
        parts.pop()
    if parts[-1] == "adapter" and len(parts) > 1:
        parts.pop()
    return re.sub(r"[^\w-]", "-", parts[-1]).strip("-") or "adapter"


def find_adapter(
    source: str | Path,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    subfolder: str | None = None,
    weight_name: str | None = None,
) -> Path:
    """The adapter's folder: in `source` (see `adapter_root`), or fetched from the Hub (or its cache).

    Raises:
        OSError: no such folder; not on the Hub, or not reachable. ValueError: a pickle, or an impossible id.
    """
    allowed = "give a folder that save_lora_weights or `rtjazz adapt` wrote, or a Hub id such as 'user/adapter'"
    path = Path(source).expanduser()
    if weight_name is not None:
        if Path(weight_name).suffix in PICKLES:
            raise ValueError(refused_pickle(weight_name))
        if Path(weight_name).name != weight_name or Path(weight_name).suffix != ".safetensors":
            raise ValueError(f"weight_name {weight_name!r}: give the name of a .safetensors file")
    if path.suffix in PICKLES:
        raise ValueError(refused_pickle(path.name))
    if path.is_file() and path.name == ADAPTER_WEIGHTS:
        path = path.parent
    if path.is_dir():
        return adapter_root(path, subfolder)
    name = str(source)
    if path.exists() or isinstance(source, Path) or name.startswith((".", "/", "~", "\\")):
        raise OSError(f"there is no adapter folder {name!r}; {allowed}")
    try:
        check_repo_id(name)
    except ValueError as error:
        raise ValueError(f"{name!r} is no adapter's folder, and {error}") from None
    return download_adapter(
        name, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only,
        subfolder=subfolder, weight_name=weight_name,
    )  # fmt: skip


def download_adapter(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str | None = None,
    weight_name: str | None = None,
) -> Path:
    """The folder of an adapter on the Hub, fetched or from the cache; what plays of it, and nothing else.

    Args:
        subfolder: of the repository; by default the adapter lies at its top, or in the one folder that holds one.
        weight_name: of its file; by default PEFT's or diffusers'.

    Raises:
        ValueError: an impossible id or revision, or an adapter that is a pickle.
        OSError: not there, not reachable, private without a token, or not whole.
    """
    from huggingface_hub import HfApi, snapshot_download

    check_repo_id(repo_id)
    check_revision(revision)
    wanted = [ADAPTER_CONFIG, STYLE_EMBEDDING, PHRASES, *((weight_name,) if weight_name else _MARKS[1:])]
    inside = "" if subfolder is None else f"{check_subfolder(subfolder)}/"

    def fetch(prefix: str) -> Path:
        top = snapshot_download(
            repo_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only,
            force_download=force_download, allow_patterns=[prefix + name for name in wanted],
        )  # fmt: skip
        return Path(top) / prefix

    try:
        folder = fetch(inside)
        if subfolder is None and local_files_only:
            folder = adapter_root(folder)
        if not any((folder / name).exists() for name in wanted[3:]) and not local_files_only:
            names = HfApi(token=token).list_repo_files(repo_id, revision=revision)
            deeper = sorted(n.split("/")[0] for n in names if n.count("/") == 1 and n.endswith("/" + ADAPTER_CONFIG))
            if subfolder is None and ("adapter" in deeper or len(deeper) == 1):
                folder = fetch(f"{'adapter' if 'adapter' in deeper else deeper[0]}/")
                names = []
            elif subfolder is None and deeper:
                raise ValueError(
                    f"{repo_id!r} holds several adapters: choose subfolder from {', '.join(map(repr, deeper))}"
                )
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
    if (folder / ADAPTER_CONFIG).is_file() and weight_name is None:
        check_adapter_folder(folder)
    return folder


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
    for place in (inside, *inside.parents):  # the Hub's cache is made of links, which lead to its own blobs
        if place.parent.name == "snapshots" and (place == inside or place.parents[1].name.startswith("models--")):
            inside = place.parents[1]
            break
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
