"""The shop as a Django app."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    """Customers, products with stock, and orders."""

    name = "example_project.shop"
    default_auto_field = "django.db.models.BigAutoField"
