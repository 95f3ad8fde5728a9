"""The table of an experiment: what is held out is not trained on, on either side."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "parallel_table.py"
ROWS = """book\tenglish\tspanish
Job\tone ¶ word\tuna palabra
Acts\tone word\totra palabra
Ruth\tanother\tuna palabra
Ruth\t"quoted\tel rey
Ruth\t"quoted\tla reina
Ruth\ta b c d\tuno
Ruth\t \tvacio
"""


def test_what_is_held_out_is_not_trained_on_on_either_side(tmp_path: Path) -> None:
    (tmp_path / "in.tsv").write_text(ROWS, encoding="utf-8")
    words = "--group book --sides english spanish --test Job --val Acts --without ¶ --most_words 3 --unique"
    subprocess.run(
        [sys.executable, "-I", SCRIPT, tmp_path / "in.tsv", tmp_path / "out.tsv", *words.split()], check=True
    )
    assert (tmp_path / "out.tsv").read_text(encoding="utf-8").splitlines() == [
        "split\tbook\tenglish\tspanish",
        "test\tJob\tone word\tuna palabra",
        'train\tRuth\t"quoted\tel rey',
    ]
