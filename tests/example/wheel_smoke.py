"""Try an installed wheel: a Django project of a few lines against a real server.

Run by `.ci/run` with the interpreter of a fresh environment, far from the checkout.
"""

import sys
from pathlib import Path

import django
from django.conf import settings

import django_poolkit
from django_poolkit.testing import Cluster


def main(environment: Path) -> None:
    """Fail with an exception if the wheel does not do the least it must."""
    package = Path(django_poolkit.__file__)
    assert package.is_relative_to(environment), f"{package} is not the installed one"
    assert (package.parent / "py.typed").exists()
    with Cluster() as cluster:
        settings.configure(
            SECRET_KEY="smoke",
            INSTALLED_APPS=["django_poolkit"],
            DATABASES={
                "default": {
                    "ENGINE": "django_poolkit.backends.postgresql",
                    "OPTIONS": {"pool": {"max_size": 2}},
                    **cluster.primary.django_settings(),
                }
            },
        )
        django.setup()
        from django.core.management import call_command
        from django.db import connection

        from django_poolkit import registry

        call_command("check", databases=["default"])
        with connection.cursor() as cursor:
            cursor.execute("SELECT 40 + 2")
            assert cursor.fetchone() == (42,)
        connection.close()
        (pool,) = registry.pools
        assert pool.stats().idle == 1, pool.stats()
        registry.pools.close_all()
    print(f"django_poolkit {django_poolkit.__version__} works under Django {django.__version__}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
