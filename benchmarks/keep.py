"""``python benchmarks/keep.py RUN NAME`` keeps what a finished run has shown under ``benchmarks/NAME``.

These are its settings, versions, evaluation rows and curve; the table goes to standard output.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from rljax import store
from rljax.experiments import report

HERE = Path(__file__).parent


def main(run: Path, name: str) -> None:
    """Copy and draw."""
    out = HERE / name
    out.mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "versions.json"):
        shutil.copy(run / file, out / file)
    rows = [row for row in store.read_rows(run / "metrics.jsonl") if row["kind"] == "eval"]
    (out / "eval.jsonl").write_text("".join(map(store.encode, rows)))
    report.save_curve(rows, store.read_json(run / "config.json"), out / "curve.png")
    print(report.table(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
