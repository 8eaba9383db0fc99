"""Celery: what a task leases ends with it, bears its name, and sees what was written before.

    from django_poolkit.contrib import celery as poolkit_celery

    poolkit_celery.install()

in the module of the app, which those that send tasks load as well as the workers do.
"""

from __future__ import annotations

from celery import signals

from django_poolkit.contrib.celery import tasks, worker
from django_poolkit.contrib.celery.tasks import HEADER as HEADER
from django_poolkit.contrib.celery.worker import fit_pools as fit_pools

_UID = "django_poolkit"


def install() -> None:
    """Connect with Celery's signals. May be called again."""
    signals.before_task_publish.connect(tasks.send, dispatch_uid=_UID)
    signals.task_prerun.connect(tasks.begin, dispatch_uid=_UID)
    signals.task_postrun.connect(tasks.end, dispatch_uid=_UID)
    signals.celeryd_after_setup.connect(worker.start, dispatch_uid=_UID)
    signals.worker_process_shutdown.connect(worker.leave, dispatch_uid=_UID)
