"""URLs of the example shop."""

from django.urls import URLPattern, URLResolver, include, path

from example_project.settings import BACKEND, STAFF

handler500 = "example_project.shop.views.server_error"

urlpatterns: list[URLPattern | URLResolver] = []
if BACKEND == "poolkit" and STAFF == "on":
    from django.contrib import admin
    from django.contrib.staticfiles.views import serve

    urlpatterns += [
        # In front of the admin, which takes all that is below its address.
        path("admin/poolkit/", include("django_poolkit.dashboard.urls")),
        path("admin/", admin.site.urls),
        # Of an example: leave it to the web server, or to WhiteNoise.
        path("static/<path:path>", serve, {"insecure": True}),
    ]
urlpatterns += [
    # Where the settings give health a path, the wrapper answers before it comes to this.
    path("health/", include("django_poolkit.health.urls")),
    path("", include("example_project.shop.urls")),
]
