"""URLs of the example shop."""

from django.urls import include, path

handler500 = "example_project.shop.views.server_error"

urlpatterns = [path("", include("example_project.shop.urls"))]
