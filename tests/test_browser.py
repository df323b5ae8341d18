"""The tour as its reader meets it: JupyterLab in a browser, every cell run from the menu."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from tiny import within

from mednb.files import write_json
from mednb.study.notebook import is_parameters, parameters

TOUR = Path(__file__).parents[1] / "notebooks/00_tour.ipynb"
TINY = {"images_drawn": 240, "size": 32, "epochs": 1, "batch_size": 16}  # the tour asks for the 41st test image
PATIENCE = 300  # seconds for each step; on an idle machine all of them together need less than a minute

# JupyterLab, which ends and takes its kernels with it even when the tests are killed.
LAB = f"""
import sys
from jupyterlab.labapp import main
from mednb.study.notebook import end_with_parent
end_with_parent({os.getpid()})
sys.exit(main())"""
NO_NEWS = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}  # nor a question about them


@pytest.fixture
def tour(tmp_path):
    """A copy of the tour whose parameters cell holds tiny values."""
    book = nbformat.read(TOUR, as_version=4)
    values = {name: each.default for name, each in parameters(TOUR).items()} | TINY | {"out": str(tmp_path / "out")}
    cell = next(cell for cell in book.cells if is_parameters(cell))
    cell.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    path = tmp_path / "notebooks" / TOUR.name
    path.parent.mkdir()
    nbformat.write(book, path)
    return path


@pytest.fixture
def lab(tour, tmp_path):
    """JupyterLab on the tour's folder, free of the user's settings; yields the tour's address."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "IPYTHON"))}
    env.pop("MPLBACKEND", None)  # a kernel sets it so that figures are shown
    config, data, runtime = (tmp_path / name for name in ("config", "data", "runtime"))
    env |= {"JUPYTER_CONFIG_DIR": str(config), "JUPYTER_DATA_DIR": str(data), "JUPYTER_RUNTIME_DIR": str(runtime)}
    env |= {"IPYTHONDIR": str(tmp_path / "ipython"), "OMP_NUM_THREADS": "1"}
    write_json(config / "labconfig/page_config.json", NO_NEWS)
    options = ["--no-browser", "--port=0", "--allow-root", "--LabApp.extension_manager=readonly"]
    log = tmp_path / "jupyter.txt"

    def address():
        assert server.poll() is None, log.read_text()
        told = [json.loads(text) for path in runtime.glob("jpserver-*.json") if (text := path.read_text())]
        return told and f"{told[0]['url']}lab/tree/{tour.name}?token={told[0]['token']}"

    command = [sys.executable, "-c", LAB, str(tour.parent), *options]
    with log.open("w") as out, subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT) as server:
        try:
            yield within(PATIENCE, address)
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()  # a kernel without a server ends by itself


@pytest.fixture
def page():
    """An empty page of headless Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no browser: there is no chromium on the PATH (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with (
        sync_playwright() as driver,  # which starts it headless, with a new profile, and keeps it from calling home
        driver.chromium.launch(executable_path=chromium, args=["--disable-gpu", "--disable-quic"]) as browser,
    ):
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE * 1000)
        yield page


@pytest.mark.slow
def test_the_tour_runs_in_jupyterlab(page, lab, tour, tmp_path):
    page.goto(lab)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    for item in ("Run", "Run All Cells"):
        page.get_by_role("menuitem", name=item, exact=True).click()

    def ended():  # by the saved file: the page holds only the cells in view
        page.keyboard.press("Control+s")
        page.wait_for_timeout(1000)
        code = [cell for cell in nbformat.read(tour, as_version=4).cells if cell.cell_type == "code"]
        outputs = [output for cell in code for output in cell.outputs]
        errors = [f"{each.ename}: {each.evalue}" for each in outputs if each.output_type == "error"]
        dialogs = page.locator(".jp-Dialog, .Toastify__toast--error").all_inner_texts()
        assert errors + dialogs == []
        return all(cell.execution_count for cell in code) and code

    for cell in within(PATIENCE, ended):
        assert not "".join(each.text for each in cell.outputs if each.get("name") == "stderr").strip()
        if cell.source.splitlines()[-1].startswith("plots."):
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source

    page.locator(".jp-NotebookPanel .jp-WindowedPanel-outer").hover()
    page.mouse.wheel(0, -600)  # from the end up to the last figure
    page.locator(".jp-OutputArea-output img").last.wait_for()
    page.screenshot(path=tmp_path / "tour.png")
