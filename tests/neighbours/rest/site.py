"""An API of Django REST framework, with all that comes before, behind and around its views."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from django.core.cache import caches
from django.db import OperationalError, connection, transaction
from django.http import StreamingHttpResponse
from django.urls import include, path
from rest_framework import serializers, views, viewsets
from rest_framework.decorators import action
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.pagination import PageNumberPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.routers import DefaultRouter
from rest_framework.throttling import SimpleRateThrottle
from rest_framework.views import exception_handler, set_rollback

from tests.app.models import Item

# How many leases there were, where a view looked.
seen: list[int] = []


def look() -> None:
    """Note how many leases there are."""
    seen.append(connection.pool.stats().used)  # type: ignore[attr-defined]


class ItemSerializer(serializers.ModelSerializer):  # type: ignore[misc]
    class Meta:
        model = Item
        fields: ClassVar[list[str]] = ["id", "name"]


class Pages(PageNumberPagination):  # type: ignore[misc]
    page_size = 2


class Items(viewsets.ModelViewSet):  # type: ignore[misc]
    """All that a model has."""

    queryset = Item.objects.order_by("pk")
    serializer_class = ItemSerializer
    pagination_class = Pages

    @transaction.atomic
    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Create in a block."""
        return super().create(request, *args, **kwargs)

    @action(detail=False, methods=["post"])
    def refuse(self, request: Request) -> Response:
        """Write something, then refuse: an answer by the exception handler."""
        Item.objects.create(name="refused")
        look()
        raise ValidationError("no")


class Idle(views.APIView):  # type: ignore[misc]
    """Asks nothing of the database."""

    def get(self, request: Request) -> Response:
        look()
        return Response({})


class Choice(serializers.Serializer):  # type: ignore[misc]
    item = serializers.SlugRelatedField(slug_field="name", queryset=Item.objects.all())


class Choices(views.APIView):  # type: ignore[misc]
    """Asks nothing either; but its form in the browsable API lists what there is to choose."""

    serializer_class = Choice

    def get_serializer(self, *args: Any, **kwargs: Any) -> Choice:
        """Return what the browsable API makes a form of."""
        return Choice(*args, **kwargs)

    def get(self, request: Request) -> Response:
        return Response({})

    def post(self, request: Request) -> Response:
        return Response({})


class Where(views.APIView):  # type: ignore[misc]
    """Tells where its lease is."""

    def get(self, request: Request) -> Response:
        with transaction.atomic():
            Item.objects.count()
            leases = connection.pool.leases()  # type: ignore[attr-defined]
            return Response([lease.where for lease in leases])


class Stream(views.APIView):  # type: ignore[misc]
    """Streams rows, each of its own query."""

    def get(self, request: Request) -> StreamingHttpResponse:
        def rows() -> Iterator[str]:
            for _ in range(3):
                yield f"{Item.objects.count()}\n"
                look()

        return StreamingHttpResponse(rows())


class Once(SimpleRateThrottle):  # type: ignore[misc]
    """Lets one request through; keeps count in the database."""

    rate = "1/day"
    cache = caches["throttles"]

    def get_cache_key(self, request: Request, view: Any) -> str:
        return "everybody"


class Throttled(views.APIView):  # type: ignore[misc]
    """Answers once."""

    throttle_classes = (Once,)

    def get(self, request: Request) -> Response:
        return Response({"count": Item.objects.count()})


class Busy(APIException):  # type: ignore[misc]
    status_code = 503
    default_detail = "come back later"


def to_503(error: Exception, context: Any) -> Response | None:
    """Answer by itself where the database could not be asked, in DRF's own form."""
    if isinstance(error, OperationalError):
        error = Busy()
    found: Response | None = exception_handler(error, context)
    return found


def to_500(error: Exception, context: Any) -> Response:
    """Answer everything alike, as many projects do."""
    set_rollback()
    return Response({"error": "sorry"}, status=500)


router = DefaultRouter()
router.register("items", Items, basename="item")
urlpatterns = [
    path("", include(router.urls)),
    *(
        path(f"{view.__name__.lower()}/", view.as_view())
        for view in (Idle, Choices, Where, Stream, Throttled)
    ),
]
