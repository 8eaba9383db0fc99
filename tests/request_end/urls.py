"""URLs of the views here: each under its own name."""

from django.urls import path

from tests.request_end import views

urlpatterns = [
    *(
        path(f"{view.__name__}/", view)
        for view in (
            views.count, views.acount, views.status, views.sleep, views.asleep, views.begin,
            views.boom, views.aboom, views.foreign_thread, views.background, views.template,
            views.wrapped, views.caught, views.caught_404, views.caught_404_in_context,
            views.own_500, views.stream, views.astream, views.ahold, views.amourn,
            views.achannel, views.file,
        )
    ),
    path("drf/", views.Drf.as_view()),
    path("write/<str:how>/", views.write),
    path("cut/<int:pieces>/", views.cut),
    path("acut/<int:pieces>/", views.acut),
]  # fmt: skip
