"""The tenants, and the host names that lead to them."""

from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models
from django_tenants.postgresql_backend.base import _check_schema_name


class Migration(migrations.Migration):
    """Make them, as django-tenants' mixins have them."""

    initial = True

    operations = (
        migrations.CreateModel(
            "Tenant",
            [
                ("id", models.BigAutoField(primary_key=True)),
                (
                    "schema_name",
                    models.CharField(
                        db_index=True, max_length=63, unique=True, validators=[_check_schema_name]
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            "Domain",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("domain", models.CharField(db_index=True, max_length=253, unique=True)),
                ("is_primary", models.BooleanField(db_index=True, default=True)),
                (
                    "tenant",
                    models.ForeignKey(
                        db_index=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="domains",
                        to="shared.tenant",
                    ),
                ),
            ],
        ),
    )
