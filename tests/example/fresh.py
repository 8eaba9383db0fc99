"""Fresh environments that need no network: they see what is installed here, but for some of it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Collection
from pathlib import Path

import django_poolkit

OURS = "django_poolkit"
CHECKOUT = Path(django_poolkit.__file__).parents[1]


def environment(folder: Path, *, without: Collection[str]) -> Path:
    """Make a virtual environment that has what this one has; return its Python.

    What is named in `without`, with its metadata, is not there. The package under test is that of
    the checkout; where it is named, it is not there either.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    shelf = folder / "shelf"
    shelf.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        project = entry.name.partition("-")[0].partition(".")[0]
        if project not in without and entry.suffix != ".pth":
            (shelf / entry.name).symlink_to(entry)
    if OURS not in without and not (shelf / OURS).exists():
        (shelf / OURS).symlink_to(CHECKOUT / OURS)
    python = folder / "bin" / "python"
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True)
    Path(found.stdout.strip(), "shelf.pth").write_text(f"{shelf}\n")
    return python
