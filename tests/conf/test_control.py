"""`POOLKIT["CONTROL"]`: its defaults, and what is refused."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_poolkit.conf.control import ControlConfig, control_config

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]


def config_of(control):
    with override_settings(POOLKIT={"CONTROL": control}):
        return control_config()


def test_what_holds_where_nothing_is_set():
    settings: list[dict[str, Any]] = [{}, {"CONTROL": {}}]
    for setting in settings:
        with override_settings(POOLKIT=setting):
            config = control_config()
        assert config.enabled is True
        assert config.steering is False
        assert config.service == "tests"
        # Inside override_settings() as outside: by the module of the settings and its place.
        found = hashlib.sha256(f"{ROOT / 'tests'}\0tests.settings".encode()).hexdigest()
        assert config.mark == found[:8]
        assert config.directory == Path(f"/tmp/poolkit-{os.geteuid()}-{config.mark}")


def test_what_is_set_holds():
    config = config_of(
        {"ENABLED": False, "DIRECTORY": "/run/shop", "STEERING": "root", "SERVICE": "shop-web_1.a"}
    )
    assert config == ControlConfig(
        enabled=False, directory=Path("/run/shop"), steering="root", service="shop-web_1.a"
    )
    assert config_of({"DIRECTORY": Path("/run/shop")}).directory == Path("/run/shop")
    assert config_of({"DIRECTORY": "/run/shop"}).mark == ""


def test_the_absence_of_the_setting_is_all_defaults():
    from django.conf import settings

    with override_settings():
        del settings.POOLKIT
        assert control_config().enabled is True


@pytest.mark.parametrize(
    ("control", "message"),
    [
        ({"ENABLED": 1}, r"POOLKIT\['CONTROL'\]\['ENABLED'\] must be True or False; got 1"),
        ({"STEERING": "yes"}, r"\['STEERING'\] must be False \(nobody\).*'root'; got a str"),
        ({"STEERING": 1}, r"\['STEERING'\] must be"),
        ({"STEERING": None}, r"\['STEERING'\] must be.*got a NoneType"),
        ({"DIRECTORY": "run/shop"}, r"\['DIRECTORY'\] must be an absolute path, or absent"),
        ({"DIRECTORY": b"/run"}, r"\['DIRECTORY'\] must be an absolute path.*got a bytes"),
        ({"DIRECTORY": "/" + "x" * 78}, r"\['DIRECTORY'\] must have at most 78 bytes.*got 79"),
        ({"DIRECTORY": "/" + "ä" * 39}, r"at most 78 bytes.*got 79"),
        ({"SERVICE": "my shop"}, r"\['SERVICE'\] must be a name of at most 40 letters"),
        ({"SERVICE": "x" * 41}, r"\['SERVICE'\]"),
        ({"SERVICE": ""}, r"\['SERVICE'\]"),
        ({"SERVICE": "shop\n"}, r"\['SERVICE'\]"),
        ({"STERING": True}, r"POOLKIT\['CONTROL'\]\['STERING'\]: .* Did you mean 'STEERING'\?"),
        ({"steering": True}, r"Did you mean 'STEERING'\?"),
        ({"MARK": "x"}, r"\['MARK'\]: there is no such setting"),
        ({1: True}, r"there is no such setting. Known are: ENABLED, DIRECTORY, "),
    ],
)
def test_a_bad_value_is_refused_with_its_path(control, message):
    with pytest.raises(ImproperlyConfigured, match=message):
        config_of(control)


def test_the_longest_directory_is_right():
    path = "/" + "x" * 77
    assert config_of({"DIRECTORY": path}).directory == Path(path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ([], "POOLKIT must be a dict; got a list"),
        ({"CONTROL": True}, r"POOLKIT\['CONTROL'\] must be a dict; got a bool"),
        ({"CONTROLS": {}}, r"POOLKIT\['CONTROLS'\]: .* Did you mean 'CONTROL'\?"),
        ({"NOTHING": {}}, r"POOLKIT\['NOTHING'\]: there is no such setting"),
    ],
)
def test_what_is_no_section_is_refused(setting, message):
    with override_settings(POOLKIT=setting), pytest.raises(ImproperlyConfigured, match=message):
        control_config()


def test_what_was_pasted_in_the_wrong_place_is_not_shown():
    with pytest.raises(ImproperlyConfigured) as caught:
        config_of({"DIRECTORY": "postgres://shop:s3cr%t@host/db"})
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize(
    ("steering", "me", "who"),
    [(False, 7, set()), (True, 7, {0, 7}), ("root", 7, {0}), (True, 0, {0})],
)
def test_who_may_steer(monkeypatch, steering, me, who):
    monkeypatch.setattr(os, "geteuid", lambda: me)
    assert config_of({"STEERING": steering}).steerers() == who


# -- the default directory, in processes of their own

SCRIPT = """
from django_poolkit.conf.control import control_config
print(control_config().directory, control_config().service)
"""


def place_of(folder, module="web.settings", **environment):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
            "DJANGO_SETTINGS_MODULE": module,
            **environment,
        },
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def projects(tmp_path):
    for name in ("one", "two"):
        for module in ("settings.py", "other.py"):
            path = tmp_path / name / "web" / module
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("SECRET_KEY = 'x'\n")
    return tmp_path


def test_processes_of_one_project_meet_and_those_of_others_do_not(projects):
    place, service = place_of(projects / "one")
    assert service == "web"

    (projects / "link").symlink_to(projects / "one")
    elsewhere = {"TMPDIR": str(projects), "XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/root"}
    assert place_of(projects / "link", **elsewhere) == [place, service]

    assert place_of(projects / "one", "web.other")[0] != place
    assert place_of(projects / "two")[0] != place


def test_settings_without_a_module_have_a_directory_too():
    script = f"from django.conf import settings\nsettings.configure(){SCRIPT}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    path, service = done.stdout.split()
    assert re.fullmatch(r"/tmp/poolkit-\d+-[0-9a-f]{8}", path)
    assert service == "django"
