"""Importing mednb is light: it is what a command, a kernel and a student's first cell wait for."""

import subprocess
import sys

import pytest

WATCH = """
import importlib, sys
def watch(event, what):
    writes = event == "open" and set(str(what[1])) & set("wax+")
    if writes or event in ("os.mkdir", "os.rename", "socket.connect", "socket.getaddrinfo"):
        raise AssertionError(f"{event} {what}")
sys.addaudithook(watch)
importlib.import_module(sys.argv[1])
print(*set(sys.argv[2:]) & set(sys.modules))
"""
TORCH = ["torch", "lightly", "pytorch_lightning", "umap", "snakemake", "seaborn", "matplotlib", "papermill"]


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("mednb", [*TORCH, "pandas", "numpy"]),
        ("mednb.cli", [*TORCH, "pandas", "numpy"]),
        ("mednb.study.plan", [*TORCH, "pandas", "numpy"]),
        ("mednb.study.graph", [*TORCH, "pandas", "numpy"]),
        ("mednb.datasets", TORCH),
    ],
)
def test_importing_is_light_and_touches_neither_disk_nor_network(module, heavy, tmp_path):
    command = [sys.executable, "-B", "-c", WATCH, module, *heavy]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
    assert not list(tmp_path.iterdir())
