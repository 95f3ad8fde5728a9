"""Run the notebooks in an empty folder, and store what they show in them: the pictures are seen where nothing is run.

python notebooks/store_outputs.py [NOTEBOOK ...]     # needs the extra `test`; 02 needs MNIST in $CAPSULE_LIGHTNING_DATA
"""

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def stored(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Return a notebook with what its cells show when it is run in a folder, without the libraries' own messages."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(folder)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.pop("widgets", None)
    return notebook


def main() -> None:
    """Run and store the notebooks that are named, or all."""
    for path in map(Path, sys.argv[1:]) if sys.argv[1:] else sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(stored(path, Path(folder)), path)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
