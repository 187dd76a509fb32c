"""RealTimeJazz without the package installed: the code comes with the model.

    from diffusers import DiffusionPipeline
    from huggingface_hub import snapshot_download

    folder = snapshot_download("me/my-model")
    pipe = DiffusionPipeline.from_pretrained(folder, custom_pipeline="pipeline", trust_remote_code=True)
    audio = pipe("medium swing piano trio", duration=10.0).audios[0]      # (2, samples) at 48 kHz

Where `rtjazz_hf` is installed, it is used, and nothing of this is needed: `RealTimeJazzPipeline.from_pretrained`. The
folder comes first because diffusers checks a repository's parts before it runs the code that knows them.

`pipelines/hub/add_code.py` puts this file into a pipeline's folder and fills in the archive below: the sources of the
package, as a zip in base64. They are unpacked once, into the cache of downloaded modules.
"""

import base64
import hashlib
import importlib
import importlib.util
import os
import shutil
import sys
import zipfile
from io import BytesIO
from pathlib import Path

ARCHIVE = ""
REQUIRED = {
    "pychord": "pychord>=1.4,<2",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "tokenizers": "tokenizers",
}


def unpack() -> str:
    """The folder to import the package from; whole or not there."""
    from diffusers.utils.constants import HF_MODULES_CACHE

    content = base64.b64decode(ARCHIVE)
    folder = Path(HF_MODULES_CACHE) / f"rtjazz_hf-{hashlib.sha256(content).hexdigest()[:16]}"
    if not folder.is_dir():
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        with zipfile.ZipFile(BytesIO(content)) as archive:
            archive.extractall(partial)
        try:
            os.replace(partial, folder)
        except OSError:  # another process was first
            shutil.rmtree(partial, ignore_errors=True)
    return str(folder)


if importlib.util.find_spec("rtjazz_hf") is None:
    missing = [wanted for name, wanted in REQUIRED.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"RealTimeJazz needs these too: pip install {' '.join(map(repr, missing))}")
    if not ARCHIVE:
        raise ImportError(
            "this pipeline.py holds no code: pip install rtjazz-hf, or run pipelines/hub/add_code.py"
        )
    sys.path.insert(0, unpack())
    importlib.invalidate_caches()

RealTimeJazzPipeline = importlib.import_module("rtjazz_hf").RealTimeJazzPipeline
