"""Customers, products with stock, and orders with their lines."""

from django.db import models
from django.db.models import Q


class Customer(models.Model):
    """Somebody who orders."""

    name = models.CharField(max_length=100)
    email = models.EmailField(unique=True)
    city = models.CharField(max_length=60)
    joined = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "shop"

    def __str__(self) -> str:
        return self.name


class Product(models.Model):
    """Something to order."""

    sku = models.SlugField(max_length=20, unique=True)
    name = models.CharField(max_length=120)
    category = models.CharField(max_length=40)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    description = models.TextField(blank=True)

    class Meta:
        app_label = "shop"
        indexes = (models.Index(fields=["category", "name"], name="product_in_category"),)

    def __str__(self) -> str:
        return f"{self.sku} {self.name}"


class Stock(models.Model):
    """How many of a product are left: a row of its own, since every order locks it."""

    product = models.OneToOneField(Product, on_delete=models.CASCADE, primary_key=True)
    quantity = models.IntegerField()

    class Meta:
        app_label = "shop"
        constraints = (
            models.CheckConstraint(condition=Q(quantity__gte=0), name="stock_not_negative"),
        )

    def __str__(self) -> str:
        return f"{self.quantity} of product {self.pk}"


class Order(models.Model):
    """What a customer ordered at one time."""

    class Status(models.TextChoices):
        """Where an order is on its way."""

        PLACED = "placed"
        SHIPPED = "shipped"
        DELIVERED = "delivered"

    customer = models.ForeignKey(Customer, on_delete=models.PROTECT, related_name="orders")
    status = models.CharField(max_length=10, choices=Status, default=Status.PLACED)
    placed = models.DateTimeField()
    total = models.DecimalField(max_digits=10, decimal_places=2)

    class Meta:
        app_label = "shop"
        indexes = (
            models.Index(fields=["customer", "-placed"], name="orders_of_customer"),
            models.Index(fields=["-placed"], name="orders_latest"),
            models.Index(fields=["placed"], condition=Q(status="placed"), name="orders_to_ship"),
        )

    def __str__(self) -> str:
        return f"order {self.pk}"


class OrderLine(models.Model):
    """One product of an order, at the price of that day."""

    order = models.ForeignKey(Order, on_delete=models.CASCADE, related_name="lines")
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="lines")
    quantity = models.PositiveIntegerField()
    price = models.DecimalField(max_digits=8, decimal_places=2)

    class Meta:
        app_label = "shop"
        constraints = (
            models.UniqueConstraint(fields=["order", "product"], name="one_line_a_product"),
        )

    def __str__(self) -> str:
        return f"{self.quantity} of order line {self.pk}"
