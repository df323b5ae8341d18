"""One notebook, run strictly.

Its parameters cell is the contract: names, defaults and comments are read from it, and a value that does not fit is
refused before a kernel starts. papermill runs the cells; a notebook that fails is kept, with its stderr and a sentence
that says why.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mednb.files import read_json, write_json
from mednb.parameter import Parameter

PATIENCE = 15  # seconds that a kernel has to end when it is asked to; `graph.end` waits a little longer for us
CODE = "MEDNB_NOTEBOOK_CODE"  # the environment variable that tells a running notebook its `code_hash`


class RunFailed(RuntimeError):
    """A notebook started and did not end well; the message says in which cell, why, and where it is kept."""


def cells(notebook: str | Path) -> list[dict]:
    """The code cells of a notebook file, their sources as one text each."""
    path = Path(notebook)
    if not path.is_file():
        raise FileNotFoundError(f"there is no notebook {path}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is not a notebook: it holds no JSON with cells") from None
    return [{**cell, "source": "".join(cell["source"])} for cell in found if cell["cell_type"] == "code"]


def is_parameters(cell: dict) -> bool:
    return "parameters" in cell.get("metadata", {}).get("tags", [])


def parameters(notebook: str | Path) -> dict[str, Parameter]:
    """The parameters of a notebook, in the order of its cell tagged `parameters`; none when it has no such cell."""
    source = next((cell["source"] for cell in cells(notebook) if is_parameters(cell)), "")
    name = Path(notebook).name
    try:
        lines = ast.parse(source).body
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    except SyntaxError as error:
        raise ValueError(f"{name}: the parameters cell cannot be read: line {error.lineno}: {error.msg}") from None
    found = {}
    for line in lines:
        target = line.targets[0] if isinstance(line, ast.Assign) else getattr(line, "target", None)
        try:
            default = ast.literal_eval(line.value)
            found[target.id] = Parameter(target.id, default, comments.get(line.end_lineno, ""))
        except (AttributeError, ValueError):
            wrong = f"{name}: the parameters cell holds {ast.unparse(line)!r}"
            raise ValueError(f"{wrong}; only `name = literal  # comment` is allowed there") from None
    return found


def unknown(name: str, notebook: str | Path, known: dict[str, Parameter]) -> str:
    """The sentence for a parameter that a notebook does not have."""
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    listed = "".join(f"\n  {each}" for each in known.values()) or " none"
    return f"{Path(notebook).name} has no parameter {name!r}{hint} Its parameters:{listed}"


def code_hash(notebook: str | Path) -> str:
    """16 hex of what a notebook computes: its code cells without prose, outputs and parameters.

    Opening, running and saving a notebook in JupyterLab leaves it as it was, so that hours of work are not done again.
    """
    sources = [cell["source"] for cell in cells(notebook) if not is_parameters(cell)]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16]


def run(notebook: str | Path, values: dict, out: str | Path, files: tuple[str, ...] = (), bar: bool = False) -> Path:
    """Run a notebook with `values` in the current folder; returns the executed notebook, `<out>/notebook.ipynb`.

    `files` are what the notebook promises to write into `out`: they are removed first and must be there at the end.
    While it runs the notebook is `notebook.part.ipynb`; when it fails it stays as `notebook.failed.ipynb` and RunFailed
    is raised. `values` are taken as they are: check them with `Parameter.accept` first.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    done, part, failed = (out / f"notebook{ending}.ipynb" for ending in ("", ".part", ".failed"))
    for stale in (done, part, failed, *(out / name for name in files)):
        stale.unlink(missing_ok=True)
    shutil.copyfile(notebook, part)  # so that something can be looked at even when no kernel comes up
    try:
        with (out / "stderr.txt").open("w", encoding="utf-8") as stderr, kernel(stderr, code_hash(notebook)) as km:
            why = execute(notebook, part, values, km, stderr, bar)
    except KeyboardInterrupt:
        part.replace(failed)
        raise KeyboardInterrupt(
            f"stopped (see {failed}); the same command goes on where a training was saved"
        ) from None
    missing = [name for name in files if not (out / name).exists()]
    if why is None and missing:
        why = f"it ended without writing {', '.join(missing)}"
    if why is not None:
        part.replace(failed)
        raise RunFailed(f"{why} (see {failed}, and stderr.txt beside it)")
    part.replace(done)
    return done


def execute(notebook, part: Path, values: dict, km, stderr, bar: bool) -> str | None:
    """Let papermill run the cells with the kernel of `km`; None when all is well, otherwise why not, with the cell."""
    import logging

    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it has to say is said better below
    try:
        papermill.execute_notebook(
            *(str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, part)),  # or it fills them in
            values,
            kernel_name="python3",  # the Python that runs this, whatever was chosen when the notebook was saved
            language="python",
            km=km,
            stderr_file=stderr,
            progress_bar=bar,
            start_timeout=300,  # many kernels that start at once on few cores need long
            iopub_timeout=60,
        )
    except papermill.PapermillExecutionError as error:
        line = (str(error.evalue).strip().splitlines() or [""])[0]
        return f"cell [{error.exec_count}]: {error.ename}: {line}"
    except DeadKernelError:
        code = km.provisioner.process.wait()
        cause = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
        hint = ", most often because memory ran out" if code == -signal.SIGKILL else ""
        return f"cell [{mark_last_cell(part, cause)}]: the kernel died, {cause}{hint}"
    except (CellTimeoutError, RuntimeError, TimeoutError) as error:
        return f"the kernel did not start or stopped answering: {error}"
    return None


def mark_last_cell(part: Path, cause: str) -> int:
    """Write the kernel's death into the cell where it happened; returns that cell's number as it would show in [ ]."""
    import nbformat

    book = nbformat.read(part, as_version=4)
    begun = [cell for cell in book.cells if cell.cell_type == "code" and cell.metadata.papermill.get("start_time")]
    death = nbformat.v4.new_output("error", ename="DeadKernel", evalue=cause, traceback=[f"DeadKernel: {cause}"])
    begun[-1].outputs.append(death)
    begun[-1].metadata.papermill.update(exception=True, status="failed")
    nbformat.write(book, part)
    return len(begun)


@contextmanager
def kernel(stderr, code: str) -> Iterator:
    """A kernel manager whose kernel speaks over sockets in a private folder and is gone at the end, whatever happens.

    code: the hash of the notebook's code, which the kernel finds in its environment and the ledger writes down.
    SIGTERM ends the block like Ctrl-C does, so that no kernel is left behind. The kernel is asked first, and has some
    seconds: a training saves what it has done (`watch.Watch.hear`).
    """
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync

    class Kernel(AsyncKernelManager):
        async def _async_start_kernel(self, **options):
            env = {**options.pop("env", os.environ), CODE: code}
            await super()._async_start_kernel(**options, env=env, stdout=stderr, stderr=stderr)

        start_kernel = _async_start_kernel

        def client(self, **options):
            self.kc = super().client(**options)
            return self.kc

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    with tempfile.TemporaryDirectory(prefix="mednb-", ignore_cleanup_errors=True) as private:
        # A socket's path holds about 100 characters; TCP, the other way, is open to every user of the machine.
        transport = "ipc" if os.name == "posix" and len(private) < 80 else "tcp"
        km = Kernel(kernel_name="python3", transport=transport, connection_file=f"{private}/kernel.json")
        try:
            yield km
            run_sync(km.shutdown_kernel)()
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if hasattr(km, "kc"):
                km.kc.stop_channels()
            if km.provisioner and km.provisioner.process and km.provisioner.process.poll() is None:
                end(km.provisioner.process)
            signal.signal(signal.SIGTERM, before)


def end(process) -> None:
    """Ask a kernel and what it started to end, and see to it that they do; a second Ctrl-C cuts the wait short."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def end_with_parent(parent: int) -> None:
    """End this process when `parent` is gone, so that a killed study leaves nothing running.

    A leader ends its whole group. Any other process ends alone: its group is that of whoever called it.
    """

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        leads = os.getpgid(0) == os.getpid()
        (os.killpg if leads else os.kill)(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main(folder: str) -> int:
    """Run what `<folder>/parameters.json` says, for Snakemake; how it goes is told by `<folder>/status.json`."""
    end_with_parent(os.getppid())
    folder, started = Path(folder), time.time()
    task = read_json(folder / "parameters.json")

    def tell(state: str, **more):
        times = {"started": started, "seconds": time.time() - started}
        write_json(folder / "status.json", {"state": state, **times, **more})

    tell("running")
    try:
        run(task["notebook"], task["parameters"], folder, tuple(task["files"]))
    except RunFailed as error:
        tell("failed", why=str(error))
        return 1
    except KeyboardInterrupt:
        tell("stopped", why=f"it was stopped from outside (see {folder / 'notebook.failed.ipynb'})")
        return 128 + signal.SIGTERM
    except Exception as error:
        tell("failed", why=f"{type(error).__name__}: {error}")
        raise
    tell("done")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
