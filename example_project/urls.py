"""URLs of the example shop."""

from django.urls import include, path

handler500 = "example_project.shop.views.server_error"

urlpatterns = [
    # Where the settings give health a path, the wrapper answers before it comes to this.
    path("health/", include("django_poolkit.health.urls")),
    path("", include("example_project.shop.urls")),
]
