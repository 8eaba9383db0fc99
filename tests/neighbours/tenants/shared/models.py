"""Who the tenants are: in the schema that all of them share."""

from __future__ import annotations

from django_tenants.models import DomainMixin, TenantMixin


class Tenant(TenantMixin):  # type: ignore[misc]
    """One schema."""


class Domain(DomainMixin):  # type: ignore[misc]
    """A host name that leads to a tenant."""
