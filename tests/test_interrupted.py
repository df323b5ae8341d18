"""A study that is interrupted again and again gives the same results.csv, byte for byte, as one that is left alone.

The suite interrupts three times; by hand, ten times or as often as you like:

    python tests/test_interrupted.py --times 10
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import sleep

import pytest

STUDY = Path(__file__).parents[1] / "notebooks/studies/quick.yml"
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    SIGNALS.remove(signal.SIGINT)  # a shell lets what it starts in the background ignore it, and so do its children


def command(out: Path, study: Path, profile: str) -> list[str]:
    return [sys.executable, "-m", "mednb.cli", "run", str(study), "--profile", profile, "--out", str(out)]


def interrupted(out: Path, times: int, study: Path = STUDY, profile: str = "toy", seed: int = 0) -> bytes:
    """Run a study, end it `times` times at random moments and in random ways, let it end, and return its results.csv.

    Every third time one more run has to be done first, since random moments alone nearly all fall into the first ones.
    Raises AssertionError when the study was done before it was interrupted so often.
    """
    chance, what = random.Random(seed), command(out, study, profile)

    def done() -> int:
        return sum('"done"' in path.read_text() for path in out.glob("*/*/status.json"))

    for time in range(times):
        enough = done() + (time % 3 == 1)
        process = subprocess.Popen(what, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while done() < enough and process.poll() is None:
            sleep(0.1)
        try:
            said, _ = process.communicate(timeout=chance.uniform(*((2, 5) if time % 3 == 1 else (1, 12))))
            raise AssertionError(f"interrupted only {time} of {times} times: {said}")
        except subprocess.TimeoutExpired:
            how = chance.choice(SIGNALS)
            process.send_signal(how)
            process.communicate(timeout=120)
            print(f"interruption {time + 1} by {how.name}: {done()} runs are done", flush=True)
    subprocess.run(what, check=True)
    return next(out.glob("*/report/results.csv")).read_bytes()


@pytest.mark.slow
def test_an_interrupted_study_gives_the_results_of_one_that_was_left_alone(tmp_path):
    assert interrupted(tmp_path / "often", 3) == interrupted(tmp_path / "never", 0)


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--times", type=int, default=10)
    asked.add_argument("--seed", type=int, default=0)
    asked = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        often = interrupted(Path(folder) / "often", asked.times, seed=asked.seed)
        never = interrupted(Path(folder) / "never", 0)
    print(f"{len(often):,} bytes, {'the same' if often == never else 'NOT THE SAME'}")
    sys.exit(often != never)
