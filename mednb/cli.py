"""mednb run | notebook | data: what is typed in a terminal."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import mednb


def main(arguments: list[str] | None = None) -> int:
    """0 when all went well, 1 when a run failed, 2 when what was asked makes no sense: then one sentence says why."""
    from mednb.study.notebook import RunFailed

    asked = parser().parse_args(arguments)
    try:
        code = asked.do(asked) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RunFailed, MemoryError) as error:
        print(f"mednb: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"mednb: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"mednb: {str(stop) or 'stopped'}", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="mednb", description=mednb.__doc__)
    top.add_argument("--version", action="version", version=f"mednb {mednb.__version__}")
    commands = top.add_subparsers(required=True, metavar="run | notebook | data")

    study = commands.add_parser("run", help="run a study: a graph of notebooks, from a file")
    study.add_argument("study", metavar="STUDY.yml", help="for example notebooks/studies/quick.yml")
    study.add_argument("--data", metavar="DIR", help="folder of the datasets (default: $MEDNB_DATA, else data/)")
    study.add_argument("--profile", help="how large: a profile of the study file, such as toy, class or paper")
    study.add_argument("--out", metavar="DIR", default="runs", help="where the study's folder is made (default: runs)")
    study.add_argument("--jobs", metavar="N", type=natural, help="notebooks at a time (default: one for each core)")
    study.add_argument(
        "--executor", choices=("local", "slurm"), default="local", help="where they run (default: local)"
    )
    study.add_argument("--dry-run", action="store_true", help="say what would run, and what it would cost")
    study.set_defaults(do=run_study)

    notebook = commands.add_parser("notebook", help="run one notebook strictly", add_help=False)
    notebook.add_argument("notebook", metavar="NOTEBOOK.ipynb", nargs="?", type=Path)
    values = {"nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE")}
    notebook.add_argument("-p", dest="values", **values, help="a parameter and its value, as YAML; again for each")
    notebook.add_argument("--out", metavar="DIR", help="the run's folder (default: the notebook's parameter `out`)")
    notebook.add_argument("-h", "--help", action="store_true", help="say what the notebook's parameters are")
    notebook.set_defaults(do=run_notebook, parser=notebook)

    data = commands.add_parser("data", help="the datasets: what there is, what one is, whether it is whole")
    data.add_argument("what", choices=("list", "card", "check", "get"))
    data.add_argument("name", nargs="?", help="a dataset, as `mednb data list` names it")
    data.add_argument("--data", metavar="DIR", help="folder of the datasets (default: $MEDNB_DATA, else data/)")
    data.add_argument("--size", metavar="N", type=int, default=128, help="which of several sizes to get (default: 128)")
    data.add_argument("--table", metavar="CSV", help="what is known of your own images, to check folder with")
    data.set_defaults(do=show_data, parser=data)
    return top


def natural(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of notebooks: 1, 2, 3 ...")
    return int(text)


def run_study(asked: argparse.Namespace) -> None:
    from mednb.study import graph, plan

    planned = plan.read(asked.study, asked.profile, asked.data, asked.out, without_data=asked.dry_run)
    graph.run(planned, asked.jobs, asked.executor, asked.dry_run)


def run_notebook(asked: argparse.Namespace) -> None:
    from mednb.study import notebook
    from mednb.study.values import faults, misset

    if asked.notebook is None:
        return asked.parser.print_help() if asked.help else asked.parser.error("which notebook?")
    known = notebook.parameters(asked.notebook)
    if asked.help:
        return print(f"{asked.notebook} takes:", *known.values(), sep="\n  ")
    if asked.out == "":
        raise ValueError("--out is empty; name a folder")
    values = {}
    for name, text in [*asked.values, *([["out", asked.out]] if asked.out and "out" in known else [])]:
        if name not in known:
            raise ValueError(notebook.unknown(name, asked.notebook, known))
        if name in values:
            raise ValueError(f"{name} is given twice")
        values[name] = known[name].read(text)
        for fault in faults(name, values[name]):
            raise ValueError(f"{name}: {fault}")
    for fault in misset({name: each.default for name, each in known.items()} | values):
        raise ValueError(fault)
    default = known["out"].default if "out" in known else f"runs/{asked.notebook.stem}"
    out, started = Path(values.get("out", asked.out or default)), time.monotonic()
    done = notebook.run(asked.notebook, values, out, bar=sys.stderr.isatty())
    return print(f"{done} (in {time.monotonic() - started:.0f} s)")


def show_data(asked: argparse.Namespace) -> int | None:
    from mednb import datasets

    if asked.data is not None and asked.what != "get" and not Path(asked.data).exists():
        raise ValueError(f"--data {asked.data}: there is no such folder")
    if asked.table is not None and asked.what != "check":
        asked.parser.error("--table is for check")
    if asked.what == "list":
        if asked.name is not None:
            asked.parser.error(f"list takes no dataset; `mednb data card {asked.name}` tells of one")
        return print(datasets.describe_all(asked.data))
    if asked.name is None:
        asked.parser.error(f"which one? there is {', '.join(datasets.DATASETS)}")
    if asked.what == "check":
        text, ok = datasets.check(asked.name, asked.data, asked.table)
        print(text)
        return 0 if ok else 1
    if asked.what == "get":
        return print(*(datasets.get(each, asked.data, asked.size) for each in asked.name.split("+")), sep="\n\n")
    return print(datasets.card_text(asked.name))


if __name__ == "__main__":
    sys.exit(main())
