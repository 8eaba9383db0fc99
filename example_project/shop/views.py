"""The shop's pages: fast reads, an order that locks stock, a wait between two queries."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.db import transaction
from django.db.models import Count, F, Model, Sum
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    JsonResponse,
    StreamingHttpResponse,
)
from django.shortcuts import aget_object_or_404, get_object_or_404, render
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_safe

from django_poolkit import asyncpg_pools, client_sessions
from example_project.settings import BACKEND, POOL
from example_project.shop.models import Customer, Order, OrderLine, Product, Stock


class OrderRefused(Exception):
    """The order cannot be placed; the text is for the customer."""


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """Show what there is to try."""
    context = {
        "backend": BACKEND,
        "mode": POOL.get("mode", "session"),
        "pool": POOL,
        "product": Product.objects.order_by("pk").first(),
        "customer": Customer.objects.order_by("pk").first(),
    }
    return render(request, "shop/index.html", context)


@require_safe
def product_page(request: HttpRequest, sku: str) -> HttpResponse:
    """Show one product, its stock, and its neighbours: two queries."""
    product = get_object_or_404(Product.objects.select_related("stock"), sku=sku)
    others = Product.objects.filter(category=product.category).exclude(pk=product.pk)
    some = list(others.order_by("name")[:5])
    page = render(request, "shop/product.html", {"product": product, "others": some})
    return _saying_where(page, product, *some)


@require_safe
def customer_orders(request: HttpRequest, customer_id: int) -> HttpResponse:
    """Show a customer's latest orders with their lines: three queries."""
    customer = get_object_or_404(Customer, pk=customer_id)
    latest = list(customer.orders.order_by("-placed").prefetch_related("lines__product")[:10])
    page = render(request, "shop/orders.html", {"customer": customer, "orders": latest})
    return _saying_where(page, customer, *latest)


def _saying_where(page: HttpResponse, *shown: Model) -> HttpResponse:
    """Name the databases that a page was read from, for whoever counts them."""
    page["X-Read-From"] = ", ".join(sorted({str(row._state.db) for row in shown}))
    return page


@csrf_exempt  # An API without sessions: there is no cookie to abuse.
@require_http_methods(["GET", "HEAD", "POST"])
def orders(request: HttpRequest) -> HttpResponse:
    """Show the latest orders of all, or place one."""
    if request.method == "POST":
        return _place_order_response(request)
    latest = Order.objects.select_related("customer").order_by("-placed")[:20]
    return render(request, "shop/orders.html", {"orders": latest})


def _place_order_response(request: HttpRequest) -> HttpResponse:
    try:
        wanted = json.loads(request.body)
        customer = int(wanted["customer"])
        items = {str(sku): int(quantity) for sku, quantity in wanted["items"].items()}
        if not items or min(items.values()) < 1:
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError):
        example = '{"customer": 1, "items": {"p00001": 2}}'
        return HttpResponseBadRequest(f"Send JSON such as {example}\n", content_type="text/plain")
    try:
        order = place_order(customer, items)
    except OrderRefused as refusal:
        return JsonResponse({"refused": str(refusal)}, status=409)
    return JsonResponse({"order": order.pk, "total": str(order.total)}, status=201)


@transaction.atomic
def place_order(customer_id: int, items: Mapping[str, int]) -> Order:
    """Take the items from stock and write the order, all or nothing.

    Raises:
        OrderRefused: no such customer or product, or not enough of it is left.
    """
    customer = Customer.objects.filter(pk=customer_id).first()
    if customer is None:
        raise OrderRefused(f"there is no customer {customer_id}")
    # One order for all: whoever locks in another sequence makes a deadlock.
    stock = list(
        Stock.objects.select_for_update(of=("self",))
        .select_related("product")
        .filter(product__sku__in=items)
        .order_by("pk")
    )
    missing = set(items) - {row.product.sku for row in stock}
    if missing:
        raise OrderRefused(f"there is no product {', '.join(sorted(missing))}")
    for row in stock:
        if row.quantity < items[row.product.sku]:
            raise OrderRefused(f"{row.quantity} of {row.product.sku} are left")
    total = sum((row.product.price * items[row.product.sku] for row in stock), Decimal(0))
    order = Order.objects.create(customer=customer, placed=timezone.now(), total=total)
    lines = [(row, items[row.product.sku]) for row in stock]
    OrderLine.objects.bulk_create(
        OrderLine(order=order, product=row.product, quantity=quantity, price=row.product.price)
        for row, quantity in lines
    )
    for row, quantity in lines:
        Stock.objects.filter(pk=row.pk).update(quantity=F("quantity") - quantity)
    return order


@require_safe
def quote(request: HttpRequest, sku: str) -> HttpResponse:
    """Ask the slow supplier between two queries, as so many views do."""
    product = get_object_or_404(Product, sku=sku)
    answer = client_sessions["supplier"].sync.get("", params={"sku": product.sku})
    return _quoted(product, Stock.objects.get(product=product).quantity, answer.json())


@require_safe
async def quote_async(request: HttpRequest, sku: str) -> HttpResponse:
    """Do the same, on the event loop of the server."""
    product = await aget_object_or_404(Product, sku=sku)
    async with client_sessions["supplier"].get("", params={"sku": product.sku}) as answer:
        supplier = await answer.json()
    stock = await Stock.objects.aget(product=product)
    return _quoted(product, stock.quantity, supplier)


def _quoted(product: Product, left: int, supplier: Mapping[str, Any]) -> HttpResponse:
    days = supplier["days"] if left < 10 else 1
    return JsonResponse(
        {"sku": product.sku, "price": str(product.price), "left": left, "days": days}
    )


@require_safe
def report(request: HttpRequest) -> HttpResponse:
    """Add up last month's sales by category, on the replica."""
    month = timezone.now() - timedelta(days=30)
    rows = (
        OrderLine.objects.using("replica")
        .filter(order__placed__gte=month)
        .values("product__category")
        .annotate(
            orders=Count("order", distinct=True),
            pieces=Sum("quantity"),
            revenue=Sum(F("quantity") * F("price")),
        )
        .order_by("-revenue")
    )
    return render(request, "shop/report.html", {"rows": rows, "since": month})


@require_safe
async def export(request: HttpRequest) -> StreamingHttpResponse:
    """Send every order line there is, in the memory of a few hundred of them.

    A client that goes away ends the query. Serve it by ASGI: WSGI would collect it all first.
    """
    return StreamingHttpResponse(_order_lines(), content_type="text/csv")


async def _order_lines() -> AsyncIterator[str]:
    lines = OrderLine._meta.db_table
    query = f"SELECT order_id, product_id, quantity, price FROM {lines} ORDER BY id"
    yield "order,product,quantity,price\n"
    chunk: list[str] = []
    async with aclosing(asyncpg_pools["default"].rows(query)) as rows:
        async for row in rows:
            chunk.append(",".join(map(str, row.values())))
            if len(chunk) == 500:
                yield "\n".join([*chunk, ""])
                chunk.clear()
    if chunk:
        yield "\n".join([*chunk, ""])


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer 500 and name the kind of error, never its text, for whoever counts them."""
    error = sys.exc_info()[1]
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    response = HttpResponse("Something went wrong.\n", content_type="text/plain", status=500)
    response["X-Error"] = type(error).__name__
    return response
