"""Where pipelines come from: bundled names, folders, the Hub; and the checks of what is there."""

from __future__ import annotations

import json
import logging
import re
import struct
import sys
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.bundled import BUNDLED_MODELS, bundled_folder
from .registration import COMPONENTS, MODEL_TYPES, PACKAGE, PIPELINE_CLASS

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from rtjazz_hf.codec import RealTimeJazzCodec
    from rtjazz_hf.style import RealTimeJazzStyleEncoder, RealTimeJazzTokenizer

    from .models import Models

# Keywords of loading that say where a pipeline is, and nothing about how it is held.
PLACES = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision")


def quiet_libraries() -> None:
    """Loading is quick: no bar for each of five small parts, and no warnings meant for those who train."""
    # diffusers imports it where it is installed, and it tells of a faster kernel that it did not find
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()


# ----------------------------------------------------------------------------------------------------------
# Bundled name, folder or Hub id
# ----------------------------------------------------------------------------------------------------------
def resolve_pretrained(name_or_path: str | Path) -> tuple[str, bool]:
    """Say where a model is: `(folder or Hub id, whether it is a local folder)`.

    A bundled name comes first, so that "rtjazz-mini" means the same model in every working directory; a
    folder of the same name is reached as "./rtjazz-mini".

    Raises:
        OSError: a path that is not a folder.
        ValueError: neither a path nor a possible Hub id.
    """
    name = str(name_or_path)
    if name in BUNDLED_MODELS:
        return str(bundled_folder(name)), True
    path = Path(name).expanduser()
    if name and path.is_dir():
        return str(path), True
    if name and path.exists():
        raise OSError(f"{name} is a file, not a pipeline folder; {_allowed_sources()}")
    if name.startswith((".", "/", "~", "\\")) or name.count("/") > 1:
        raise OSError(f"there is no folder {name}; {_allowed_sources()}")
    try:
        check_repo_id(name)
    except ValueError:
        raise ValueError(f"{name!r} cannot be a model; {_allowed_sources()}") from None
    return name, False


def check_repo_id(repo_id: str) -> None:
    """Refuse what cannot be a repository of the Hub, a path such as "../x" above all.

    Raises:
        ValueError: naming it, and what is allowed.
    """
    part = r"[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
    allowed = isinstance(repo_id, str) and re.fullmatch(rf"(?:{part}/)?{part}", repo_id, re.ASCII)
    if not allowed or ".." in repo_id or "--" in repo_id or repo_id.endswith(".git"):
        raise ValueError(
            f"{repo_id!r} cannot be a repository; give 'name' or 'user/name' of letters, digits, '-', '_' and '.', "
            "which begin and end with a letter or digit and are not doubled"
        )


def check_revision(revision: str | None) -> None:
    """Refuse what cannot be a branch, a tag or a commit.

    Raises:
        ValueError: naming it.
    """
    if revision is None:
        return
    if not re.fullmatch(r"\w[\w.-]*(?:/[\w.-]+)*", str(revision), re.ASCII) or ".." in revision:
        raise ValueError(f"revision {revision!r} cannot be a branch, tag or commit, such as 'main' or 'v1.0'")


def download_pipeline(cls: type[DiffusionPipeline], repo_id: str, kwargs: dict[str, Any]) -> str:
    """Fetch a pipeline from the Hub, or find it in the local cache; its folder. Takes its own keywords out
    of `kwargs`.

    Raises:
        ValueError: an impossible revision.
        OSError: not there, or not reachable; both causes are told.
    """
    check_revision(kwargs.get("revision"))
    options = {name: kwargs[name] for name in (*PLACES, "variant", "use_safetensors") if name in kwargs}
    for name in PLACES:
        kwargs.pop(name, None)
    try:
        return str(cls.download(repo_id, **options))
    except Exception as error:  # the client's, its HTTP library's and diffusers' own
        raise _not_to_be_had(repo_id, error) from error


def load_codec(name_or_path: str | Path) -> RealTimeJazzCodec:
    """Load the codec alone, ready to use, in float32: that of a pipeline (bundled name, folder, Hub id), or one
    that was saved by itself. Of a pipeline on the Hub nothing else is fetched.

    Raises:
        OSError: not found, not reachable, or a file is missing or cut short.
        ValueError: another kind of model, or a config that does not belong to its weights.
    """
    return load_part(part_folder(name_or_path, "codec"), "codec")


def part_folder(name_or_path: str | Path, part: str) -> Path:
    """The folder of one of a pipeline's models: `"codec"`, `"style_encoder"` or `"transformer"`.

    Args:
        name_or_path: a pipeline (bundled name, folder, Hub id), or that model saved by itself. From the Hub the
            model's own files are fetched, and the tokenizer's with a style encoder.

    Raises:
        OSError: not found, not reachable, or a file is missing.
        ValueError: another kind of model.
    """
    source, is_local = resolve_pretrained(name_or_path)
    if not is_local:
        from huggingface_hub import snapshot_download

        files = ("config.json", "model*.safetensors", "model.safetensors.index.json")
        wanted = ["model_index.json", *files, *(f"{part}/{file}" for file in files)]
        if part == "style_encoder":
            wanted.append("*tokenizer*.json")
        try:
            source = snapshot_download(source, allow_patterns=wanted)
        except Exception as error:  # the client's and its HTTP library's own
            raise _not_to_be_had(source, error) from error
    folder, words = Path(source), part.replace("_", " ")
    if (folder / "model_index.json").is_file() or (folder / part / "config.json").is_file():
        folder = folder / part
    config = read_json(folder / "config.json", f"is neither a pipeline nor a {words}: it has no config.json")
    check_sizes(config, folder / "config.json")
    if config.get("model_type") != MODEL_TYPES[COMPONENTS[part]]:
        raise ValueError(f"{folder} holds a model of type {config.get('model_type')!r}, not a {words}")
    return folder


def load_part(folder: Path, part: str) -> Any:
    """The model in a `part_folder`, in float32 and evaluation mode.

    Raises:
        OSError: a file is missing or cut short.
        ValueError: a config that does not belong to its weights.
    """
    weight_names(folder)
    try:
        model = _package_class(part).from_pretrained(folder, dtype="float32")
    except OSError:
        raise
    except Exception as error:  # strict configs, safetensors and torch each have their own
        raise ValueError(f"the {part.replace('_', ' ')} in {folder} does not load: {error}") from error
    _check_weights(model, folder)
    return model.eval()


def load_mapped_part(folder: Path, part: str) -> Any:
    """The model in a part of a pipeline's folder, in float32 and evaluation mode, its weights in memory only while
    somebody looks at them; `None` where `mapped_weights` has none."""
    from ..runtime.mapped_weights import mapped_weights  # here: `rtjazz --help` comes through this module

    weights = mapped_weights(folder / part)
    if weights is None:
        return None
    kind = _package_class(part)
    config = kind.config_class.from_pretrained(folder / part)
    model = kind.from_pretrained(None, config=config, state_dict=weights, dtype="float32")
    model.name_or_path = model.config.name_or_path = str(folder / part)
    return model


def load_style_encoder(
    source: str | Path,
) -> tuple[RealTimeJazzStyleEncoder, RealTimeJazzTokenizer]:
    """Style encoder (float32, eval mode) and tokenizer: of train_style.py's folder, which holds both, or of a
    pipeline (bundled name, folder, Hub id) or its `style_encoder` part, beside which lies `tokenizer`.

    Raises:
        OSError: one of them is missing, not reachable or cut short.
        ValueError: another kind of model, or a config that does not belong to its weights.
    """
    folder = part_folder(source, "style_encoder")
    places = (folder, folder.parent / "tokenizer")
    tokenizer = next((place for place in places if (place / "tokenizer.json").is_file()), None)
    if tokenizer is None:
        raise OSError(f"the style encoder {folder} has no tokenizer.json, in it or in ../tokenizer.")
    return load_part(folder, "style_encoder"), _package_class("tokenizer").from_pretrained(tokenizer)


def _package_class(part: str) -> Any:
    """A part's class, which is imported now: `import rtjazz_hf` comes through this module, and stays quick."""
    return getattr(sys.modules[PACKAGE], COMPONENTS[part])


def _not_to_be_had(repo_id: str, error: Exception) -> OSError:
    cause = error.__cause__ or error  # diffusers wraps what the network said into a long sentence
    cause = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    return OSError(
        f"{repo_id!r} is neither a bundled model nor a folder here, and could not be had from the Hub "
        f"({cause}); {_allowed_sources()}"
    )


def _allowed_sources() -> str:
    return (
        f"give a bundled name ({', '.join(BUNDLED_MODELS)}), a folder written by save_pretrained, "
        f"or a Hub id such as 'user/model'"
    )


# ----------------------------------------------------------------------------------------------------------
# Checks of a pipeline folder
# ----------------------------------------------------------------------------------------------------------
def check_pipeline_folder(folder: str | Path) -> None:
    """Refuse a folder that cannot load, naming the part at fault, before anything large is read.

    Raises:
        OSError: something is missing, unreadable or cut short.
        ValueError: something is there and says the wrong thing.
    """
    folder = Path(folder)
    index = read_json(folder / "model_index.json", "is not a pipeline folder: it has no model_index.json")
    if index.get("_class_name") != PIPELINE_CLASS:
        raise ValueError(
            f"{folder / 'model_index.json'} describes {index.get('_class_name')!r}, not {PIPELINE_CLASS!r}"
        )
    for part, class_name in COMPONENTS.items():
        if index.get(part) != [PACKAGE, class_name]:
            raise ValueError(
                f"{folder / 'model_index.json'} gives {index.get(part)!r} for {part!r}; "
                f"it must be {[PACKAGE, class_name]!r}"
            )
        if not (folder / part).is_dir():
            raise OSError(f"{folder} lacks its part {part!r} ({class_name}); {_fetch_again()}")
    read_json(folder / "scheduler" / "scheduler_config.json")
    read_json(folder / "tokenizer" / "tokenizer.json")
    for part, class_name in COMPONENTS.items():
        if class_name in MODEL_TYPES:
            config = read_json(folder / part / "config.json")
            check_sizes(config, folder / part / "config.json")
            if config.get("model_type") != MODEL_TYPES[class_name]:
                raise ValueError(
                    f"{folder / part / 'config.json'} is of model type {config.get('model_type')!r}; "
                    f"the part {part!r} needs {MODEL_TYPES[class_name]!r}"
                )
            weight_names(folder / part)


def check_sizes(config: dict[str, Any], path: Path) -> None:
    """Refuse a config whose model could not be built in any memory, or not play, before anything is built.

    Raises:
        ValueError: naming the setting.
    """
    for name, value in config.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        most = _MOST_LAYERS if name.endswith("layers") else _MOST_WIDE
        if not abs(value) <= most:
            raise ValueError(f"{path}: {name} is {value}; at most {most:,} can be built; {_fetch_again()}")
        if name.endswith("_eps") and not 0 < value < 1:
            raise ValueError(f"{path}: {name} is {value}; choose more than 0 and less than 1")


_MOST_LAYERS, _MOST_WIDE = 1_000, 1_000_000


def weight_names(folder: str | Path) -> set[str]:
    """Names of the tensors in a model folder's safetensors files, after a check that no file is cut short.

    Raises:
        OSError: no safetensors file, or one that is missing, truncated or not a safetensors file.
    """
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted(set(read_json(index).get("weight_map", {}).values()))
    else:
        files = sorted(path.name for path in folder.glob("model*.safetensors"))
    if not files:
        raise OSError(f"{folder} has no model.safetensors; {_fetch_again()}")
    names: set[str] = set()
    for file in files:
        names |= check_safetensors(folder / file)
    return names


def check_safetensors(path: Path) -> set[str]:
    """Names in one file. Layout: header length (8 bytes, little endian), JSON header, tensor bytes."""
    if not path.is_file():
        raise OSError(f"{path} is missing; {_fetch_again()}")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(
            f"{path} is not a safetensors file, or is cut short ({error}); {_fetch_again()}"
        ) from None
    if size != 8 + length + end:
        raise OSError(
            f"{path} has {size} bytes, {8 + length + end} are needed: it is cut short; {_fetch_again()}"
        )
    return set(header)


def read_json(path: Path, missing: str | None = None) -> dict[str, Any]:
    if not path.is_file():
        raise OSError(f"{path.parent} {missing}" if missing else f"{path} is missing; {_fetch_again()}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); {_fetch_again()}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}, not an object; {_fetch_again()}")
    return value


def _fetch_again() -> str:
    return "fetch or save the model again"


def check_loaded_weights(models: Models, folder: str | Path, handed_in: Container[str] = ()) -> None:
    """Refuse a pipeline some of whose weights were not in the folder: transformers fills those in with
    fresh ones. Parts that were `handed_in` are not the folder's.

    Raises:
        ValueError: naming the part and a few of the weights.
    """
    for part, class_name in COMPONENTS.items():
        if class_name in MODEL_TYPES and part not in handed_in:
            _check_weights(getattr(models, part), Path(folder) / part)


def _check_weights(model: Any, folder: Path) -> None:
    from ..runtime.mapped_weights import are_untouched

    saved = weight_names(folder)
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    wanted = set(model.state_dict())
    for text, names in (("lacks", wanted - saved - tied), ("has the unknown", saved - wanted)):
        if names:
            shown = ", ".join(sorted(names)[:3])
            raise ValueError(
                f"{folder} {text} weights {shown}{', ...' if len(names) > 3 else ''} "
                f"({len(names)} in all): its config.json and its weights do not belong together"
            )
    if are_untouched(model.parameters()):  # they were looked at when that file was written
        return
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if tensor.dtype.itemsize >= 4 and bool(tensor.sum().isfinite()):  # a tenth of the time
            continue
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{folder} holds NaN or infinite values in {name}; {_fetch_again()}")
