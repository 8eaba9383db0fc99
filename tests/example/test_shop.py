"""The example shop, served as it is served in the example, on a cluster of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from django_poolkit.testing import Cluster, Node
from example_project.measures import Measures
from example_project.processes import listen, url_of
from example_project.runs import ENGINES, Engine
from example_project.sampling import Sampler
from example_project.serving import Shape, database_environment, site, take_peak, upstream

ROOT = Path(__file__).parents[2]
ORDERS = 2_000


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True)
class Shop:
    url: str
    primary: Node
    environment: dict[str, str]

    def ask(self, path: str, body: object = None) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return Answer(response.status, dict(response.headers), response.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read().decode())

    def query(self, statement: str, *parameters: object) -> Any:
        """Ask the shop's database behind the shop's back, for one value."""
        with self.primary.connect(dbname="shop") as connection:
            cursor = connection.execute(statement, parameters)
            row = cursor.fetchone() if cursor.description else None
        return row and row[0]

    def left(self, sku: str) -> int:
        return int(
            self.query(
                "SELECT quantity FROM shop_stock JOIN shop_product ON id = product_id"
                " WHERE sku = %s",
                sku,
            )
        )

    def set_left(self, sku: str, quantity: int) -> None:
        self.query(
            "UPDATE shop_stock SET quantity = %s FROM shop_product"
            " WHERE id = product_id AND sku = %s",
            quantity,
            sku,
        )

    @property
    def orders(self) -> int:
        return int(self.query("SELECT count(*) FROM shop_order"))


def manage(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the example's manage.py as a person does, from elsewhere."""
    command = [sys.executable, str(ROOT / "example_project" / "manage.py"), *arguments]
    variables = {**os.environ, **environment}
    return subprocess.run(
        command, env=variables, cwd="/", capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(replicas=1) as cluster:
        cluster.primary.create_database("shop")
        yield cluster


@pytest.fixture(scope="module")
def environment(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a shop with its tables made and filled."""
    environment = database_environment(cluster.primary, cluster.replicas[0], "shop")
    environment["SHOP_HOME"] = str(tmp_path_factory.mktemp("home"))
    for command in (["migrate", "-v", "0"], ["seed", "--orders", str(ORDERS)]):
        result = manage(environment, *command)
        assert result.returncode == 0, result.stderr
    cluster.primary.wait_caught_up(cluster.replicas[0])
    return environment


@pytest.fixture(scope="module", params=ENGINES, ids=lambda engine: engine.key)
def shop(
    request: pytest.FixtureRequest,
    cluster: Cluster,
    environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Shop]:
    """The shop on each engine: the comparison is one only if all are the same shop."""
    folder = tmp_path_factory.mktemp("site")
    with upstream(folder) as supplier, listen() as listener:
        variables = environment | request.param.variables | {"SHOP_UPSTREAM_URL": supplier}
        with site(listener, Shape(pool_size=4, threads=16), variables, folder / "log"):
            yield Shop(url_of(listener), cluster.primary, variables)


def test_the_index_leads_to_every_page(shop):
    index = shop.ask("")

    assert index.status == 200
    mode = shop.environment.get("SHOP_POOL_MODE", "session")
    engine = f"engine <code>{shop.environment['SHOP_BACKEND']}</code> in <code>{mode}</code>"
    assert engine in index.text
    for path in ("products/p00001/", "products/p00001/quote/", "orders/", "report/"):
        assert f'href="/{path}"' in index.text


def test_a_product_is_shown_with_its_stock_and_neighbours(shop):
    shop.set_left("p00007", 4_321)
    page = shop.ask("products/p00007/")

    assert page.status == 200
    assert "4321 left" in page.text
    assert page.text.count('<a href="/products/') == 5


def test_a_customers_orders_are_shown_with_their_lines(shop):
    customer = shop.query("SELECT customer_id FROM shop_order ORDER BY id LIMIT 1")
    line = shop.query(
        "SELECT l.quantity || ' ' || p.name FROM shop_orderline l"
        " JOIN shop_product p ON p.id = product_id JOIN shop_order o ON o.id = order_id"
        " WHERE customer_id = %s ORDER BY placed DESC LIMIT 1",
        customer,
    )
    page = shop.ask(f"customers/{customer}/orders/")

    assert page.status == 200
    assert line in page.text


def test_an_order_takes_from_stock_and_is_shown(shop):
    shop.set_left("p00010", 100)
    answer = shop.ask("orders/", {"customer": 1, "items": {"p00010": 3, "p00011": 1}})

    assert answer.status == 201
    assert shop.left("p00010") == 97
    order = answer.json["order"]
    total = shop.query(
        "SELECT sum(quantity * price) FROM shop_orderline WHERE order_id = %s", order
    )
    assert answer.json["total"] == str(total)
    assert f"<td>{order}</td>" in shop.ask("orders/").text


@pytest.mark.parametrize(
    ("items", "customer", "reason"),
    [
        ({"p00012": 6, "p00013": 1}, 1, "5 of p00012 are left"),
        ({"p00013": 1, "nothing": 1}, 1, "there is no product nothing"),
        ({"p00013": 1}, 999_999, "there is no customer 999999"),
    ],
)
def test_an_order_that_cannot_be_filled_changes_nothing(shop, items, customer, reason):
    shop.set_left("p00012", 5)
    before = shop.orders, shop.left("p00012"), shop.left("p00013")
    answer = shop.ask("orders/", {"customer": customer, "items": items})

    assert (answer.status, answer.json) == (409, {"refused": reason})
    assert (shop.orders, shop.left("p00012"), shop.left("p00013")) == before


@pytest.mark.parametrize(
    "body", [[], {}, {"customer": 1}, {"customer": 1, "items": {}}, {"customer": "x", "items": {}},
             {"customer": 1, "items": {"p00001": 0}}, {"customer": 1, "items": ["p00001"]}],
)  # fmt: skip
def test_an_order_that_is_none_is_refused(shop, body):
    answer = shop.ask("orders/", body)

    assert answer.status == 400
    assert answer.text.startswith("Send JSON such as")


def test_orders_at_once_never_sell_more_than_there_is(shop):
    shop.set_left("p00020", 5)

    def order(number: int) -> int:
        # Half of them name the products in the other sequence: no deadlock comes of it.
        skus = ["p00020", "p00021"] if number % 2 else ["p00021", "p00020"]
        items = dict.fromkeys(skus, 1)
        answer: Answer = shop.ask("orders/", {"customer": 1, "items": items})
        return answer.status

    with ThreadPoolExecutor(16) as threads:
        statuses = Counter(threads.map(order, range(16)))

    assert statuses == {201: 5, 409: 11}
    assert shop.left("p00020") == 0


@pytest.mark.parametrize("view", ["quote/", "quote/async/"])
def test_a_quote_waits_for_the_supplier_between_two_queries(shop, view):
    shop.set_left("p00030", 3)
    answer = shop.ask(f"products/p00030/{view}")

    assert answer.status == 200
    assert answer.json["left"] == 3
    assert answer.json["days"] >= 2


def test_the_report_is_read_from_the_replica(shop, cluster):
    replica = cluster.replicas[0]
    replica.pause_replay()
    try:
        before = shop.ask("report/")
        placed = shop.ask("orders/", {"customer": 1, "items": {"p00040": 900}})
        behind = shop.ask("report/")
    finally:
        replica.resume_replay()
    cluster.primary.wait_caught_up(replica)

    def figures(page: Answer) -> str:
        return page.text.partition("<table>")[2]

    assert (before.status, placed.status) == (200, 201)
    assert figures(behind) == figures(before)
    assert figures(shop.ask("report/")) != figures(before)


def test_a_visitor_finds_its_order_while_the_replica_stands_still(cluster, environment, tmp_path):
    replica, shape = cluster.replicas[0], Shape(pool_size=2, threads=4)
    jar = urllib.request.HTTPCookieProcessor()
    visitor, stranger = urllib.request.build_opener(jar), urllib.request.build_opener()
    with listen() as listener, site(listener, shape, environment, tmp_path / "log"):
        url = url_of(listener)

        def look(opener: urllib.request.OpenerDirector) -> tuple[str, bool]:
            with opener.open(f"{url}customers/7/orders/", timeout=30) as page:
                return page.headers["X-Read-From"], f"<td>{order}</td>" in page.read().decode()

        replica.pause_replay()
        try:
            wanted = json.dumps({"customer": 7, "items": {"p00050": 1}}).encode()
            with visitor.open(f"{url}orders/", data=wanted, timeout=30) as placed:
                order = json.load(placed)["order"]
            # More often than there are workers.
            found = {(look(visitor), look(stranger)) for _ in range(6)}
        finally:
            replica.resume_replay()
        assert found == {(("default", True), ("replica", False))}
        cluster.primary.wait_caught_up(replica)
        assert look(visitor) == look(stranger) == ("replica", True)
        assert not list(jar.cookiejar)


@pytest.mark.parametrize("path", ["products/none/", "customers/999999/orders/", "nowhere/"])
def test_what_is_not_there_is_not_found(shop, path):
    assert shop.ask(path).status == 404


def test_an_error_is_named_by_its_kind_and_nothing_more(shop):
    shop.query("ALTER TABLE shop_customer RENAME TO elsewhere")
    try:
        answer = shop.ask("customers/1/orders/")
    finally:
        shop.query("ALTER TABLE elsewhere RENAME TO shop_customer")

    assert (answer.status, answer.headers["X-Error"]) == (500, "UndefinedTable")
    assert answer.text == "Something went wrong.\n"


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.key)
def test_who_waits_for_the_supplier_holds_a_connection_but_in_transaction_mode(
    cluster, environment, tmp_path, engine: Engine
):
    # A timeout that nobody meets: what is told apart is who waits where, not for how long.
    shape = Shape(pool_size=2, threads=16, pool_timeout=60.0)
    with upstream(tmp_path, 1.0) as supplier, listen() as listener:
        variables = environment | engine.variables | {"SHOP_UPSTREAM_URL": supplier}
        with site(listener, shape, variables, tmp_path / "log"):
            shop = Shop(url_of(listener), cluster.primary, variables)
            with ThreadPoolExecutor(16) as threads:
                answers = list(threads.map(lambda n: shop.ask("products/p00001/quote/"), range(16)))
            peak = take_peak(supplier)

    assert {answer.status for answer in answers} == {200}
    if engine.key == "transaction":
        assert peak > shape.connections
    else:
        assert 1 <= peak <= shape.connections


def test_the_sampler_counts_the_shops_connections_and_not_its_own(shop, cluster):
    measures = Measures()
    with ThreadPoolExecutor(16) as threads, Sampler(cluster.primary, "shop", measures, 0.01):
        list(threads.map(lambda n: shop.ask("products/p00001/quote/"), range(32)))

    # Two workers with four connections each. In transaction mode it needs fewer of them.
    fewest = 1 if shop.environment.get("SHOP_POOL_MODE") == "transaction" else 4
    assert fewest <= measures.peak_connections <= 8


@pytest.mark.parametrize(
    ("engine", "status", "header"),
    [(ENGINES[1], 503, "Retry-After"), (ENGINES[2], 500, "X-Error")],
    ids=lambda value: value.key if isinstance(value, Engine) else None,
)
def test_an_exhausted_pool_is_told_from_a_bug(
    cluster, environment, tmp_path, engine: Engine, status, header
):
    scarce = Shape(pool_size=1, threads=16, pool_timeout=0.05)
    with upstream(tmp_path) as supplier, listen() as listener:
        variables = environment | engine.variables | {"SHOP_UPSTREAM_URL": supplier}
        with site(listener, scarce, variables, tmp_path / "log"):
            shop = Shop(url_of(listener), cluster.primary, variables)
            with ThreadPoolExecutor(16) as threads:
                answers = list(threads.map(lambda n: shop.ask("products/p00001/quote/"), range(16)))

    assert {answer.status for answer in answers} == {200, status}
    assert all(header in answer.headers for answer in answers if answer.status == status)


def test_a_second_seeding_adds_nothing_and_a_larger_one_the_rest(environment, cluster):
    again = manage(environment, "seed", "--orders", str(ORDERS))

    assert "orders or more are there" in again.stdout
    with cluster.primary.connect(dbname="shop") as connection:
        statement = (
            "SELECT count(*), count(*) FILTER (WHERE total <> (SELECT sum(quantity * price)"
            " FROM shop_orderline WHERE order_id = shop_order.id)) FROM shop_order"
        )
        row = connection.execute(statement).fetchone()
        assert row is not None
        present, wrong = row
    assert present >= ORDERS
    assert wrong == 0
    more = manage(environment, "seed", "--orders", str(present + 10))
    assert f"{present + 10:,} of {present + 10:,} orders" in more.stdout


def test_the_models_and_the_migrations_agree(environment):
    result = manage(environment, "makemigrations", "--check", "--dry-run", "shop")

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.key)
def test_it_says_how_it_is(cluster, environment, tmp_path, engine: Engine):
    # In a shop of its own: whoever asks for health leaves a connection there for a minute.
    variables = environment | engine.variables
    with (
        listen() as listener,
        site(listener, Shape(pool_size=2, threads=4), variables, tmp_path / "log"),
    ):
        shop = Shop(url_of(listener), cluster.primary, variables)
        # With details, since this asks from the same machine, and past no proxy.
        ready, databases = shop.ask("health/ready"), shop.ask("health/db")
    assert (ready.status, ready.json["status"]) == (200, "pass")
    assert (databases.status, databases.json["status"]) == (200, "pass")
    assert set(databases.json["checks"]) == {"db:default", "db:replica"}
    assert databases.json["checks"]["db:replica"]["lag"] is not None


def test_poolcheck_finds_all_well(shop):
    result = manage(shop.environment, "poolcheck")
    if shop.environment["SHOP_BACKEND"] == "poolkit":
        assert (result.returncode, result.stdout[:4]) == (0, "pass"), result
        assert "http:supplier  pass" in result.stdout
    else:
        assert result.returncode == 1  # there is no such command
