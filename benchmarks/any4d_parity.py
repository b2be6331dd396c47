"""Whether the network says what the published one says: every file of a folder of reference outputs.

    python benchmarks/any4d_parity.py FOLDER [--only NAME]

The variant (which inputs the network gets) is read from a file's name, as the folder's README has it. One JSON line per
file names the worst tensor and its error, max |a - b| / max |b|; exit 1 if any is over 1e-4 or a mask differs.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from any4d_reference import BAR, compare


def main() -> int:
    folder = Path(sys.argv[1])
    only = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv else ""
    worst = 0.0
    for path in sorted(p for p in folder.glob("*.safetensors") if only in p.stem):
        for line in compare(path):
            print(json.dumps(line), flush=True)
            worst = max(worst, line["error"])
    return int(worst > BAR)


if __name__ == "__main__":
    sys.exit(main())
