#!/usr/bin/env bash
# pyRealParser 0.1.0 promises measures "with repeats, codas etc. flattened". D.S. and Fine, which iReal Pro writes as
# staff text, are passed over without a word, and the segno's S stays glued to the chord as if it were its name.
# https://pypi.org/project/pyRealParser/0.1.0/ ; the protocol: https://www.irealpro.com/ireal-pro-custom-chord-chart-protocol
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install pyRealParser==0.1.0
"$folder/venv/bin/python" - <<'PY'
from urllib.parse import quote

from pyRealParser import Tune

# as written: C F G A, then from the segno F G: six bars
link = "irealb://" + quote("Made Up=Nobody==Swing=C==1r34LbKcu7T44[C |SF |G <Fine>|A <D.S. al Fine>Z==0=0")
bars = Tune.parse_ireal_url(link)[0].measures_as_strings
print(bars)
assert bars == ["C", "SF", "G", "A"], "pyRealParser plays this form otherwise now"
PY
