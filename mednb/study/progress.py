"""How far a study is, in one line that a person can read."""

from __future__ import annotations

import shutil
import sys
import time
from statistics import fmean

from mednb.files import read_json
from mednb.study.plan import Plan


def told(plan: Plan) -> dict[str, dict]:
    """What every run says of itself in its `status.json`: state (running, done, failed, stopped), seconds, why."""
    files = {name: plan.folder / name / "status.json" for name in plan.runs}
    return {name: read_json(file) for name, file in files.items() if file.exists()}


def line(plan: Plan, todo: set[str], jobs: int) -> str:
    """`quick: 7 of 25 done, 2 running (pretrain-phantoms-byol-s0, ...), 0 failed, about 3 min left`."""
    said = told(plan)
    state = {name: said.get(name, {}).get("state", "waiting") if name in todo else "done" for name in plan.runs}
    running = [name for name in plan.runs if state[name] == "running"]
    names = f" ({', '.join(running[:2])}{', ...' if running[2:] else ''})" if running else ""
    done, failed = (list(state.values()).count(word) for word in ("done", "failed"))
    counts = f"{done} of {len(plan.runs)} done, {len(running)} running{names}, {failed} failed"
    return f"{plan.study}: {counts}{left(plan, todo, said, jobs)}"


def left(plan: Plan, todo: set[str], said: dict[str, dict], jobs: int) -> str:
    """The time left, from how long finished runs of the same stage took; nothing before the first has finished."""
    took: dict[str, list[float]] = {}
    for name, status in said.items():
        if status["state"] == "done":
            took.setdefault(plan.runs[name].stage, []).append(status["seconds"])
    if not took:
        return ""
    usual = {stage: fmean(seconds) for stage, seconds in took.items()}
    seconds = 0.0
    for name in todo:
        status = said.get(name, {"state": "waiting"})
        begun = time.time() - status["started"] if status["state"] == "running" else 0
        if status["state"] in ("running", "waiting"):
            seconds += max(0.0, usual.get(plan.runs[name].stage, fmean(usual.values())) - begun)
    return f", about {duration(seconds / jobs)} left" if seconds else ""


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Line:
    """Shows a text in place on a terminal, or as a new line now and then where the output is a file."""

    def __init__(self, every: float = 30):
        self.every, self.shown, self.terminal = every, 0.0, sys.stderr.isatty()

    def show(self, text: str, last: bool = False) -> None:
        due = last or time.monotonic() - self.shown >= self.every
        if self.terminal:
            text = text if last else text[: shutil.get_terminal_size().columns - 1]  # a line that wraps stays behind
            print(f"\r\x1b[K{text}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif due:
            print(text, file=sys.stderr, flush=True)
            self.shown = time.monotonic()
