"""What the shop answers."""

from django.urls import path

from example_project.shop import views

urlpatterns = [
    path("", views.index),
    path("products/<slug:sku>/", views.product_page, name="product"),
    path("products/<slug:sku>/quote/", views.quote, name="quote"),
    path("products/<slug:sku>/quote/async/", views.quote_async, name="quote-async"),
    path("customers/<int:customer_id>/orders/", views.customer_orders, name="customer-orders"),
    path("orders/", views.orders, name="orders"),
    path("orders.csv", views.export, name="export"),
    path("report/", views.report, name="report"),
]
