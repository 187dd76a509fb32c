#!/usr/bin/env bash
# safetensors 0.8.0: `save_file` writes files that only their owner can read, whatever the umask says.
#
# Expected: a file like any other that the process makes, 0644 under a umask of 022 (as of safetensors 0.7 and before,
# and of `open`). Seen: 0600, because the file is a temporary one that is renamed. A server of another user, or a group
# that shares a disk, cannot load the model. With the same call a link in the place of the file is replaced, not followed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "safetensors==0.8.0" "numpy>=2"
cd "$work"
umask 022
venv/bin/python - <<'PY'
import os
import stat

import numpy as np
import safetensors
from safetensors.numpy import save_file

save_file({"a": np.zeros(3, np.float32)}, "a.safetensors")
open("plain", "wb").close()
os.symlink("target.safetensors", "link.safetensors")
save_file({"a": np.zeros(3, np.float32)}, "link.safetensors")
modes = {name: oct(stat.S_IMODE(os.stat(name).st_mode)) for name in ("a.safetensors", "plain")}
print("safetensors", safetensors.__version__, modes, "the link is one still:", os.path.islink("link.safetensors"))
assert modes == {"a.safetensors": "0o600", "plain": "0o644"}, "it behaves otherwise now"
assert not os.path.islink("link.safetensors"), "it behaves otherwise now"
PY
echo "as described"
