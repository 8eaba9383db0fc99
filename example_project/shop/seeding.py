"""Fill the shop with customers, products and orders, by the server itself."""

from __future__ import annotations

from collections.abc import Callable

from django.db import connection, transaction

CUSTOMERS = 5_000
PRODUCTS = 1_000
BATCH = 10_000
STOCK = 1_000_000

_CITIES = [
    "Aarhus",
    "Bergen",
    "Cork",
    "Dresden",
    "Evora",
    "Florence",
    "Ghent",
    "Haarlem",
    "Izmir",
    "Jena",
]
_CATEGORIES = ["books", "garden", "kitchen", "music", "office", "outdoor", "toys", "travel"]
_ADJECTIVES = ["plain", "sturdy", "quiet", "bright", "folding", "small", "spare", "woollen"]
_NOUNS = [
    "lamp",
    "kettle",
    "notebook",
    "tent",
    "spade",
    "drum",
    "chair",
    "bag",
    "puzzle",
    "compass",
]

# The values follow from the row's number, so that every seeded shop is the same.
_CUSTOMERS = """
INSERT INTO shop_customer (name, email, city, joined)
SELECT 'Customer ' || n, 'customer' || n || '@example.org', (%(cities)s::text[])[1 + n %% 10],
       now() - make_interval(days => n %% 1000)
FROM generate_series(1, %(count)s) AS n
ON CONFLICT (email) DO NOTHING
"""

_PRODUCTS = """
INSERT INTO shop_product (sku, name, category, price, description)
SELECT 'p' || to_char(n, 'FM00000'),
       (%(adjectives)s::text[])[1 + n / 10 %% 8] || ' ' || (%(nouns)s::text[])[1 + n %% 10],
       (%(categories)s::text[])[1 + n %% 8], 1 + (n * 37 %% 9900) / 100.0,
       repeat('Useful, and not too heavy. ', 1 + n %% 8)
FROM generate_series(1, %(count)s) AS n
ON CONFLICT (sku) DO NOTHING
"""

_STOCK = """
INSERT INTO shop_stock (product_id, quantity) SELECT id, %(quantity)s FROM shop_product
ON CONFLICT (product_id) DO UPDATE SET quantity = greatest(shop_stock.quantity, %(quantity)s / 2)
"""

# One statement a batch: orders, their lines, and only then the totals.
_ORDERS = """
WITH known AS MATERIALIZED (
    SELECT (SELECT array_agg(id ORDER BY id) FROM shop_customer) AS customers,
           (SELECT array_agg(id ORDER BY id) FROM shop_product) AS products
), drafts AS (
    SELECT nextval(pg_get_serial_sequence('shop_order', 'id')) AS id, n,
           customers[1 + abs(hashint4(n)::bigint) %% cardinality(customers)] AS customer_id,
           now() - make_interval(mins => (abs(hashint4(-n)::bigint) %% 525600)::int) AS placed
    FROM known, generate_series(%(first)s::int, %(last)s::int) AS n
), lines AS (
    SELECT DISTINCT ON (drafts.id, product.id)
           drafts.id AS order_id, product.id AS product_id, 1 + k %% 3 AS quantity, product.price
    FROM drafts CROSS JOIN known CROSS JOIN LATERAL generate_series(1, 1 + n %% 4) AS k
    JOIN shop_product AS product
      ON product.id = products[1 + abs(hashint8(n * 31::bigint + k)::bigint)
                                %% cardinality(products)]
), placed AS (
    INSERT INTO shop_order (id, customer_id, status, placed, total)
    SELECT drafts.id, customer_id,
           CASE WHEN drafts.placed > now() - interval '2 days' THEN 'placed'
                WHEN drafts.placed > now() - interval '7 days' THEN 'shipped'
                ELSE 'delivered' END,
           drafts.placed, sum(quantity * price)
    FROM drafts JOIN lines ON lines.order_id = drafts.id
    GROUP BY drafts.id, customer_id, drafts.placed
)
INSERT INTO shop_orderline (order_id, product_id, quantity, price)
SELECT order_id, product_id, quantity, price FROM lines
"""


def seed(orders: int, progress: Callable[[int, int], None]) -> int:
    """Bring the shop to at least `orders` orders; return how many were added.

    Blocks; calls `progress(done, orders)` after each batch. What is there stays.
    """
    with connection.cursor() as cursor:
        cursor.execute(_CUSTOMERS, {"count": CUSTOMERS, "cities": _CITIES})
        words = {"adjectives": _ADJECTIVES, "nouns": _NOUNS, "categories": _CATEGORIES}
        cursor.execute(_PRODUCTS, {"count": PRODUCTS, **words})
        cursor.execute(_STOCK, {"quantity": STOCK})
        cursor.execute("SELECT count(*) FROM shop_order")
        present = int(cursor.fetchone()[0])
        for first in range(present + 1, orders + 1, BATCH):
            last = min(first + BATCH - 1, orders)
            with transaction.atomic():
                cursor.execute(_ORDERS, {"first": first, "last": last})
            progress(last, orders)
        if present < orders:
            # The planner knows nothing of what came at once, until it looks.
            cursor.execute("ANALYZE")
    return max(orders - present, 0)
