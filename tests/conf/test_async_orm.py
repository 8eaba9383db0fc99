"""`POOLKIT["ASYNC_ORM"]`: its defaults, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from django_poolkit.conf.async_orm import AsyncOrmConfig, async_orm_config

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]


def config_of(section):
    with override_settings(POOLKIT={"ASYNC_ORM": section}):
        return async_orm_config()


def test_it_is_off_where_nothing_is_set():
    assert config_of({}) == AsyncOrmConfig(
        enabled=False, thread_aliases=(), middleware=False, slow_slice=0.05
    )


def test_what_is_set_holds():
    section = {
        "ENABLED": True, "THREAD_ALIASES": ["default"], "MIDDLEWARE": True, "SLOW_SLICE": 1,
    }  # fmt: skip
    assert config_of(section) == AsyncOrmConfig(
        enabled=True, thread_aliases=("default",), middleware=True, slow_slice=1.0
    )
    assert config_of({"SLOW_SLICE": None}).slow_slice is None


@pytest.mark.parametrize(
    ("section", "error"),
    [
        ({"ENABLED": 1}, r"\['ENABLED'\] must be True or False; got 1"),
        ({"ENABLED": "yes"}, r"\['ENABLED'\] must be True or False; got a str"),
        ({"MIDDLEWARE": True}, r"\['MIDDLEWARE'\] needs ENABLED"),
        ({"THREAD_ALIASES": "default"}, r"\['THREAD_ALIASES'\] must be a list of aliases"),
        ({"THREAD_ALIASES": ["defualt"]}, r"\['THREAD_ALIASES'\]\[0\] must be an alias"),
        ({"THREAD_ALIASES": ["default"] * 2}, r"\[1\] must be an alias of DATABASES, each"),
        ({"SLOW_SLICE": 0}, r"\['SLOW_SLICE'\] must be a number of seconds above 0, or None"),
        ({"SLOW_SLICE": True}, r"\['SLOW_SLICE'\] must be a number"),
        ({"SLOW_SLICE": float("inf")}, r"\['SLOW_SLICE'\] must be a number"),
        ({"SLOWSLICE": 1}, r"\['SLOWSLICE'\]: there is no such setting. Did you mean 'SLOW_SLICE'"),
    ],
)
def test_what_cannot_be_honoured_is_refused(section, error):
    with pytest.raises(ImproperlyConfigured, match=error):
        config_of(section)


def started(section: str, code: str, *paths: str) -> subprocess.CompletedProcess[str]:
    """Set Django up in another process, with this section, and run some code then."""
    program = (
        "import django\n"
        "from django.conf import settings\n"
        "settings.configure(INSTALLED_APPS=['django_poolkit'],\n"
        " DATABASES={'default': {'ENGINE': 'django_poolkit.backends.postgresql', 'NAME': 'a'}},\n"
        f" POOLKIT={{'ASYNC_ORM': {section}}})\n"
        f"{code}"
    )
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*paths, str(ROOT)])},
    )  # fmt: skip


def test_a_start_refuses_it():
    done = started("{'ENABLED': 'yes'}", "django.setup()")
    assert "ImproperlyConfigured: POOLKIT['ASYNC_ORM']['ENABLED'] must be True" in done.stderr


def test_a_start_without_greenlet_says_what_to_install(tmp_path):
    hidden = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'greenlet':\n"
        "            raise ModuleNotFoundError(name)\n"
        "import importlib.util as util\n"
        "real = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name == 'greenlet' else real(name, *more)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    done = started("{'ENABLED': True}", f"{hidden}django.setup()")
    assert done.returncode == 1
    assert "['ENABLED'] needs greenlet" in done.stderr
    assert "pip install django-poolkit[bridge]" in done.stderr
    off = started("{}", f"{hidden}django.setup(); print('greenlet' in sys.modules)")
    assert (off.returncode, off.stdout) == (0, "False\n")


def test_a_project_that_does_not_turn_it_on_loads_none_of_it():
    code = (
        "django.setup()\nimport sys\n"
        "print([name for name in ('greenlet', 'django_poolkit.aio.orm', "
        "'django_poolkit.pools.bridge') if name in sys.modules])"
    )
    done = started("{}", code)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
