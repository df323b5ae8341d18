"""A plan -> Snakemake, which knows what is up to date, runs the rest in order, and goes on when a run fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock, Timeout

from mednb.files import read_json, write_json
from mednb.machine import usable_cores
from mednb.study import progress
from mednb.study.notebook import RunFailed
from mednb.study.plan import Plan, short

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def run(plan: Plan, jobs: int | None = None, executor: str = "local", dry_run: bool = False) -> None:
    """Do what is not up to date, `jobs` notebooks at a time, each with its share of the cores.

    RunFailed says which runs failed, why, and where their notebooks are. A study that was stopped or killed goes on
    where it was when it is run again.
    """
    if executor == "slurm" and find_spec("snakemake_executor_plugin_slurm") is None:
        raise ValueError("--executor slurm needs a package: pip install snakemake-executor-plugin-slurm")
    first = sum(not each.after for each in plan.runs.values())
    jobs = jobs or (max(1, min(usable_cores(), first)) if executor == "local" else first)
    threads = max(1, usable_cores() // jobs) if executor == "local" else 4
    done = f"{plan.study}: all {len(plan.runs)} runs are up to date; {result(plan)}"
    if dry_run:
        if todo := missing(plan):
            said = f"{plan.study}: {len(todo)} of {len(plan.runs)} runs to do, {jobs} at a time:"
            print(said, *sorted(todo), sep="\n  ")
        print(*([] if todo else [done]), *cost(plan), sep="\n")
        return
    plan.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(plan.folder / ".lock", timeout=0):
            write(plan, threads)
            if todo := outdated(plan):
                execute(plan, todo, jobs, threads, executor)
            else:
                print(done)
    except Timeout:
        raise RunFailed(
            f"{plan.folder} is in use by another `mednb run`; wait for it, or choose another --out"
        ) from None


def write(plan: Plan, threads: int) -> None:
    """plan.json for the Snakefile; claims.json, and each run's parameters.json, only if they changed.

    A run is old when the parameters.json it reads is newer; the report reads claims.json, too.
    """
    config = {"study": plan.study, "folder": short(plan.folder, plan.cwd), "cwd": str(plan.cwd)}
    config |= {"python": sys.executable}
    config |= {"threads": threads, "runs": []}
    for path, values in told(plan).items():
        if not holds(plan.folder / path, values):
            write_json(plan.folder / path, values)
    for name in plan.runs:
        reads, writes = files(plan, name)
        config["runs"].append({"name": name, "reads": reads, "writes": writes})
    write_json(plan.folder / "plan.json", config)


def told(plan: Plan) -> dict[str, dict]:
    """What stands in claims.json and in each run's parameters.json, by their paths in the study's folder."""
    claims = {"study": plan.study, "claims": plan.claims, "stand_ins": plan.stand_ins}
    return {"claims.json": claims} | {
        f"{name}/parameters.json": each.task(plan.cwd) for name, each in plan.runs.items()
    }


def holds(file: Path, values: dict) -> bool:
    with suppress(OSError, ValueError):  # what is missing or damaged is written anew
        return read_json(file) == json.loads(json.dumps(values))
    return False


def files(plan: Plan, name: str) -> tuple[list[str], list[str]]:
    """What a run reads and what it writes, as paths in the study's folder."""
    each = plan.runs[name]
    reads = [f"{name}/parameters.json", *(["claims.json"] if each.stage == "report" else [])]
    reads += [f"{other}/{path}" for other in each.after for path in plan.runs[other].files]
    return reads, [f"{name}/{path}" for path in ("notebook.ipynb", *each.files)]


def missing(plan: Plan) -> set[str]:
    """The names of the runs that are to do, found out without writing anything: a question must not make a run old."""
    todo, values, last = set(), told(plan), plan.folder / "plan.json"
    before = {run["name"]: run["reads"] for run in read_json(last)["runs"]} if last.exists() else {}
    for name, each in plan.runs.items():
        reads, writes = files(plan, name)
        changed = before.get(name, reads) != reads  # a report tells of other runs now
        changed |= any(not holds(plan.folder / path, values[path]) for path in values.keys() & set(reads))
        if changed or todo & set(each.after) or not all((plan.folder / path).exists() for path in (*reads, *writes)):
            todo.add(name)
            continue
        read, written = ([(plan.folder / path).stat().st_mtime_ns for path in paths] for paths in (reads, writes))
        if max(read) > min(written):
            todo.add(name)
    return todo


def cost(plan: Plan) -> list[str]:
    """What the whole plan takes, in sentences: images seen by pretraining, hours at the study's rate, missing data."""
    seen = plan.images_seen()
    said = [f"all {len(plan.runs)} runs: {len(seen)} pretrain on about {sum(seen):,} images, counted as often as seen"]
    if plan.rate:
        took = f"{sum(seen) / plan.rate / 3600:,.1f} hours of one device"
        said += [f"at {plan.rate:,.0f} images a second that is about {took}, and the other stages come on top"]
    return said + [f"missing: {each}" for each in plan.lacks]


def snakemake(plan: Plan, jobs: int, threads: int, executor: str) -> list[str]:
    """The command line that brings the plan up to date."""
    command = [sys.executable, "-P", "-m", "snakemake", "--snakefile", Path(__file__).with_name("Snakefile")]
    command += ["--directory", plan.folder, "--configfile", plan.folder / "plan.json"]
    command += ["--rerun-triggers", "mtime", "input", "--rerun-incomplete", "--keep-going", "--scheduler", "greedy"]
    command += ["--nolock", "--nocolor"]  # the lock is ours: it ends with its process, even when that is killed
    if executor == "local":
        command += ["--cores", jobs * threads, "--config", f"started_by={os.getpid()}"]
    if executor == "slurm":  # squeue, because without accounting nothing else can tell how a job ended
        command += ["--executor", "slurm", "--jobs", jobs, "--latency-wait", 60]
        command += ["--slurm-no-account", "--slurm-status-command", "squeue"]
    return [str(part) for part in command]


def outdated(plan: Plan) -> set[str]:
    """The names of the runs that Snakemake would do now."""
    command = [*snakemake(plan, 1, 1, "local"), "--summary"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode:
        (plan.folder / "snakemake.log").write_text(asked.stdout + asked.stderr, encoding="utf-8")
        raise RunFailed(f"Snakemake could not read the plan; see {plan.folder / 'snakemake.log'}")
    rows = [row.split("\t") for row in asked.stdout.splitlines()]
    return {row[2] for row in rows if len(row) == 6 and row[2] in plan.runs and row[5] != "no update"}


def execute(plan: Plan, todo: set[str], jobs: int, threads: int, executor: str) -> None:
    for name in todo:
        (plan.folder / name / "status.json").unlink(missing_ok=True)
    started, log, shown = time.monotonic(), plan.folder / "snakemake.log", progress.Line()
    share = dict.fromkeys(THREADS, str(threads))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGTERM stops like Ctrl-C
    with log.open("w", encoding="utf-8") as chatter:
        process = subprocess.Popen(
            snakemake(plan, jobs, threads, executor),
            stdout=chatter,
            stderr=chatter,
            env=os.environ | share,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            shown.show(progress.line(plan, todo, jobs))
            time.sleep(0.3)
    except KeyboardInterrupt:
        print("\nstopping ...", file=sys.stderr)
        end(process)
        raise KeyboardInterrupt(
            f"stopped; the same command goes on from here: {progress.line(plan, todo, jobs)}"
        ) from None
    finally:
        end(process)
        signal.signal(signal.SIGTERM, before)
    shown.show(progress.line(plan, todo, jobs), last=True)
    if process.returncode:
        raise RunFailed(failures(plan, todo))
    took = progress.duration(time.monotonic() - started)
    print(f"{plan.study}: {len(todo)} of {len(plan.runs)} runs done now, in {took}; {result(plan)}")


def end(process: subprocess.Popen) -> None:
    """Ask Snakemake and its notebooks to end, and see to it that they do."""
    for ask in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):  # of Slurm jobs, SIGINT takes leave
        if process.poll() is not None:
            return
        os.killpg(process.pid, ask)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            continue


def failures(plan: Plan, todo: set[str]) -> str:
    """Which runs failed, why, and where to look; how many wait for them."""
    said = {name: status for name, status in progress.told(plan).items() if name in todo}
    failed = {name: status for name, status in said.items() if status["state"] != "done"}
    if not failed:
        return f"{plan.study}: Snakemake failed, although no run did; see {plan.folder / 'snakemake.log'}"
    lines = [f"{plan.study}: {len(failed)} of {len(plan.runs)} runs failed"]
    for name, status in failed.items():
        kept = plan.folder / name / "notebook.part.ipynb"
        killed = f"it ended before it could say why, most often because memory ran out (see {kept})"
        lines.append(f"  {name}: {status.get('why', killed)}")
    if waiting := len(todo) - len(said):
        lines.append(f"  not started, since they need them: {waiting}")
    return "\n".join([*lines, "  the same command does what is missing, once the cause is gone"])


def result(plan: Plan) -> str:
    """Where to look now."""
    reports = [name for name, each in plan.runs.items() if "report.html" in each.files]
    return f"report: {plan.folder / reports[0] / 'report.html'}" if reports else f"folder: {plan.folder}"
