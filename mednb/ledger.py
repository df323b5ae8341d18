"""The ledger: every reading of a test split, by whom, when and for which run, in the order in which it happened.

A test set answers once. Whoever looks at its answer and then tries other values has chosen on it, and the numbers
become better than the truth (Dwork et al., The reusable holdout, Science 2015). Nothing can prevent that, so it is
written down: one line of JSON in `ledger.jsonl`, in the study's folder, for each reading. Lines are only ever added.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from mednb.datasets import Images

COLUMNS = ["time", "who", "study", "run", "dataset", "fold", "split_hash", "task", "code", "question", "values"]
COLUMNS += ["of_fraction", "fractions"]


def record(out: str | Path, images: Images, tasks: list[str], study: str, run: str, values: Mapping) -> list[dict]:
    """Write down, before it is done, that the run in the folder `out` reads the test split of `images` for `tasks`.

    values: all that was chosen for this run: its parameters, and which encoder (`results.origin`). A hash of them, and
        of how many images were read how, is kept, and one of those that rows name (`results.RUN`), the question: by
        these `read` tells whether the same was asked before with other values, whatever the run was called. So are the
        label fractions, each of which is a number of its own, and a hash of the question that is asked of each.

    The code is that of the package, and of the notebook where one is run strictly; cells that were run by hand, in
    JupyterLab, leave no trace here.

    Returns the lines that were added to `ledger.jsonl` beside `out`.
    """
    from filelock import FileLock

    from mednb.results import RUN, code_hash
    from mednb.study.notebook import CODE

    chosen = {name: value for name, value in values.items() if name != "pretrained"}  # a path; `weights` say more
    chosen |= {"fingerprint": images.fingerprint, "n_images": len(images), "size": images.size}
    of_fraction = {name: chosen.get(name) for name in (*RUN, "options") if name not in ("study", "run")}
    question = of_fraction | {"fractions": chosen.get("fractions")}
    about = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "who": who(), "study": study, "run": run}
    about |= {"dataset": images.name, "fold": int(images.table["fold"].iloc[0]), "split_hash": images.split_hash}
    code = "+".join(filter(None, (code_hash(), os.environ.get(CODE))))
    read = {"code": code, "question": _hash(question), "values": _hash(chosen)}
    read |= {"of_fraction": _hash(of_fraction), "fractions": list(chosen.get("fractions") or [])}
    lines = [about | {"task": task} | read for task in tasks]
    path = Path(out).parent / "ledger.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")), path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    return lines


def read(study: str | Path) -> pd.DataFrame:
    """The readings in a study's folder, in their order: `COLUMNS`, and `again`.

    again: the same test split had been read for the same task before, by a run of this name or for the same question
    (at any of its label fractions), with other values or by other code. A number that it reports may have been chosen
    after test was seen. A rerun with the same values, after an interruption say, is none, under whatever name.
    Empty when nothing was read. Raises ValueError that names the line when the file is damaged.
    """
    path = Path(study) / "ledger.jsonl"
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else (), start=1):
        try:
            said = json.loads(line)
            older = {"question": said["run"], "of_fraction": said["run"], "fractions": []}  # than what they lack
            rows.append({name: (older | said)[name] for name in COLUMNS})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}, is no reading of a test split ({error})") from error
    readings = pd.DataFrame(rows, columns=COLUMNS)
    how = readings["values"] + readings["code"]
    asked = [[readings[of], readings["task"], readings["split_hash"]] for of in ("run", "question")]
    by_name, by_question = (how.groupby(of).transform(others_before).astype(bool) for of in asked)
    each = readings.assign(how=how).explode("fractions").dropna(subset="fractions")
    of = each.groupby(["of_fraction", "fractions", "task", "split_hash"])["how"]
    by_fraction = of.transform(others_before).astype(bool).groupby(level=0).any()
    return readings.assign(again=by_name | by_question | by_fraction.reindex(readings.index, fill_value=False))


def others_before(values: pd.Series) -> pd.Series:
    """For each of some values in their order, whether another one stands before it."""
    return values.ne(values.shift()).cumsum().gt(1)


def _hash(values: Mapping) -> str:
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def who() -> str:
    """User and machine, as far as the system tells them."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container whose user has no name
        user = str(os.getuid())
    return f"{user}@{platform.node()}"
