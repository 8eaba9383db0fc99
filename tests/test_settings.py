"""The settings of the tests leave nothing behind where they are only read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# As a plugin of mypy's does: it reads them, and ends without what `atexit` would do.
READ = """
import os, sys
from tests import settings
sys.stdout.write(settings.POOLKIT["CONTROL"]["DIRECTORY"])
sys.stdout.flush()
os._exit(0)
"""


def test_to_read_them_makes_no_folder() -> None:
    environ = {key: os.environ[key] for key in os.environ if key != "POOLKIT_TEST_CONTROL"}
    found = subprocess.run(
        [sys.executable, "-c", READ], cwd=ROOT, env=environ, stdout=subprocess.PIPE, check=True
    )
    folder = Path(found.stdout.decode())
    assert folder.is_absolute()
    assert not folder.exists()
