"""django-prometheus: the pools on its `/metrics`, which stays as it is.

Its page shows prometheus_client's default registry, or what the workers wrote to
PROMETHEUS_MULTIPROC_DIR. Both have the pools already where `django_poolkit` is among the installed
apps; this is for projects that name our ENGINE only. It is ours that has to stay: that of
django-prometheus knows no pool of ours.
"""

from __future__ import annotations

from django_poolkit import metrics


def register() -> None:
    """Have the pools shown. Opens nothing; may be called again."""
    metrics.install()
