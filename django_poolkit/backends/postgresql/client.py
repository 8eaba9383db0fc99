"""`manage.py dbshell`, with a password that may be a function, and for several hosts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db.backends.postgresql import client

from django_poolkit.conf.databases import credentials_of
from django_poolkit.conf.hosts import at_host, hosts_of
from django_poolkit.pools.credentials import function_of, resolved


class DatabaseClient(client.DatabaseClient):
    """Django's psql client, which calls PASSWORD where the pool would.

    Of several hosts, it is led to the first.
    """

    @classmethod
    def settings_to_cmd_args_env(
        cls, settings_dict: dict[str, Any], parameters: Iterable[str]
    ) -> tuple[list[str], dict[str, str] | None]:
        """Return the command line of psql and its environment."""
        if hosts := hosts_of("of dbshell", settings_dict):
            settings_dict = at_host(settings_dict, next(iter(hosts.values())))
        source = credentials_of(settings_dict)
        password = settings_dict.get("PASSWORD") if source is None else function_of(source)
        place = {key.lower(): settings_dict.get(key) for key in ("HOST", "PORT", "USER")}
        place |= {"dbname": settings_dict.get("NAME"), "password": password}
        if callable(place["password"]):
            found = resolved(place)
            settings_dict = {
                **settings_dict, "PASSWORD": found["password"], "USER": found["user"],
            }  # fmt: skip
        return super().settings_to_cmd_args_env(settings_dict, parameters)
