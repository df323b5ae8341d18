"""Notebooks and studies of a few lines, written where a test wants them."""

import os
import time
from pathlib import Path

import nbformat
import yaml
from nbformat.v4 import new_code_cell, new_notebook

PARAMETERS = """\
dataset = "phantoms"  # which images
method = "none"  # how it is pretrained
epochs = 3  # passes over the images
seed = 0  # of all that is random
fold = 0  # which fifth is for testing
out = "runs/tiny"  # the run's folder
study = ""  # the study's name
run = ""  # the run's name"""
WRITE = """\
from pathlib import Path
for name in {files}: (Path(out) / name).write_text(f"{{run}} {{epochs}} {{seed}} {{fold}}")"""


def notebook(path: Path, parameters: str, *cells: str) -> Path:
    """A notebook whose first cell is tagged `parameters`."""
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[first, *map(new_code_cell, cells)]), path)
    return path


def stages(folder: Path, **more: str) -> dict:
    """A stub for every stage, which only writes the files that it has to; `more` puts a cell before the writing."""
    from mednb.study.plan import FILES

    found = {}
    for stage, files in FILES.items():
        upstream = '\npretrained = ""  # the pretraining' if stage not in ("pretrain", "report") else ""
        write = WRITE.format(files=list(files))
        notebook(folder / f"{stage}.ipynb", PARAMETERS + upstream, more.get(stage, "import os"), write)
        found[stage] = {"notebook": f"{stage}.ipynb"}
    return found


def study(file: Path, **settings) -> Path:
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return file


def within(seconds: float, happens):
    """What `happens()` returns once it is true; fails when it is not in time."""
    until = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.1)
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z" if Path("/proc").exists() else True
