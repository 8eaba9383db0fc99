"""What the permissions of the dashboard hang on. It has no table."""

from __future__ import annotations

from typing import Any

from django.db import models


class _NoRows(models.Manager[Any]):
    """Asks nothing: `dumpdata` reads every model, also those without a table."""

    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().none()


class Pools(models.Model):
    """The pools of all processes."""

    objects = _NoRows()

    class Meta:
        managed = False
        default_permissions = ()
        permissions = (
            ("view_pools", "Can see connection pools"),
            ("steer_pools", "Can pause, resume and recycle connection pools"),
        )
        verbose_name = "connection pools"
        verbose_name_plural = "connection pools"
        base_manager_name = "objects"

    def __str__(self) -> str:
        return "connection pools"
