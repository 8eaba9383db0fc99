"""One small table for tests that need the ORM."""

from django.db import models


class Item(models.Model):
    """A row with a name."""

    name = models.CharField(max_length=100)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "app"

    def __str__(self) -> str:
        return self.name
