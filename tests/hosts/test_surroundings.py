"""What else knows aliases, and how it gets along with one that leads to several hosts."""

from __future__ import annotations

import asyncio
import io
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections

from django_poolkit import connection_pools, registry
from django_poolkit.backends import ports
from django_poolkit.backends.postgresql.client import DatabaseClient
from django_poolkit.conf.lifespan import LifespanConfig
from django_poolkit.control import servers as control_servers
from django_poolkit.health.database import DatabaseCheck
from django_poolkit.lifespan.builtin import builtin
from django_poolkit.pools.postgres.errors import PoolTimeout
from django_poolkit.pools.postgres.prober import ProbeFailed
from tests.hosts.conftest import ask, at, ports_of


class TestConnectionPools:
    def test_each_host_has_a_pool_by_its_full_name(self, servers, replica):
        replica()
        found = []
        for name in ("replica/1", "replica/2"):
            with connection_pools[name].lease() as raw:
                found.append(raw.execute("SHOW port").fetchone()[0])
            assert connection_pools[name].name == name
        assert found == ports_of(servers)
        assert {"default", "replica/1", "replica/2"} <= set(connection_pools)
        assert "replica" not in connection_pools

    def test_names_are_the_users(self, proxies, replica):
        replica(hosts={"eu": at(proxies[0]), "us-east.1": at(proxies[1])})
        assert connection_pools["replica/us-east.1"].stats().aliases == (
            "replica/us-east.1", "replica",
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("replica", r"'replica'\] leads to several hosts, .*: 'replica/1', 'replica/2'"),
            ("replica/3", r"'replica'\] leads to several hosts, .*: 'replica/1', 'replica/2'"),
            ("default/1", r"'default'\] has no OPTIONS\['hosts'\], so no pool 'default/1'"),
            ("absent", "DATABASES has no alias 'absent'"),
            ("absent/1", "DATABASES has no alias 'absent/1'"),
        ],
    )
    def test_other_names_say_what_there_is(self, replica, name, said):
        replica()
        with pytest.raises(KeyError, match=said):
            connection_pools[name]

    def test_an_alias_of_its_own_shares_the_pool(self, servers, proxies, replica, monkeypatch):
        wrapper = replica()
        options = {k: v for k, v in wrapper.settings_dict["OPTIONS"].items() if k != "hosts"}
        physical = {**wrapper.settings_dict, **at(proxies[0]), "OPTIONS": options}
        monkeypatch.setitem(connections.settings, "replica_eu", physical)
        try:
            assert connection_pools["replica_eu"] is connection_pools["replica/1"]
            assert connection_pools["replica/1"].aliases == ("replica_eu", "replica/1", "replica")
        finally:
            del connections["replica_eu"]

    def test_no_pool_is_shared_that_leads_elsewhere(self, replica):
        wrapper = replica()
        one, two = wrapper.host_pools.values()
        assert one is not two
        assert wrapper.host_pools["replica/1"] is one


class TestTheWrapper:
    def test_close_pool_closes_all_and_the_next_read_opens_anew(self, servers, replica):
        wrapper = replica()
        before = list(wrapper.host_pools.values())
        for pool in before:
            pool.acquire().release()
        wrapper.close_pool()
        assert [pool.stats().state for pool in before] == ["closed", "closed"]
        assert ask(wrapper) in ports_of(servers)
        assert not set(before) & set(wrapper.host_pools.values())

    def test_close_pool_makes_none(self, replica):
        wrapper = replica()
        wrapper.close_pool()
        assert [pool.name for pool in registry.pools if "replica" in pool.aliases] == []

    def test_a_test_mirror_leads_to_the_test_database_on_the_same_hosts(self, servers, replica):
        wrapper = replica()
        ask(wrapper)
        wrapper.close()
        servers.primary.create_database("test_shop")
        for node in servers.replicas:
            servers.primary.wait_caught_up(node)
        wrapper.creation.set_as_test_mirror({"NAME": "test_shop"})
        try:
            for _ in range(2):
                assert ask(wrapper, "SELECT current_database()") == "test_shop"
                wrapper.close()
        finally:
            wrapper.close_pool()
            servers.primary.drop_database("test_shop")

    def test_the_settings_of_the_alias_are_those_of_each_host(self, replica):
        wrapper = replica(options="-c lock_timeout=1234", pool={"statement_timeout": "7s"})
        for _ in range(2):
            assert ask(wrapper, "SHOW lock_timeout") == "1234ms"
            assert ask(wrapper, "SHOW statement_timeout") == "7s"
            wrapper.close()

    def test_a_password_of_a_host_may_be_a_function(self, servers, proxies, replica):
        password = servers.primary.password
        hosts = [at(proxy, PASSWORD=lambda: password) for proxy in proxies]
        wrapper = replica(hosts=hosts)
        for _ in range(2):
            ask(wrapper)
            wrapper.close()

    def test_dbshell_and_connections_beside_pools_lead_to_the_first(self, proxies, replica):
        wrapper = replica()
        arguments, _ = DatabaseClient.settings_to_cmd_args_env(wrapper.settings_dict, [])
        assert arguments[3:7] == ["-h", proxies[0].host, "-p", str(proxies[0].port)]
        params = wrapper.get_connection_params()
        assert (params["host"], params["port"]) == (proxies[0].host, str(proxies[0].port))
        assert "hosts" not in params

    def test_a_write_is_told_of_on_the_alias(self, servers, replica, monkeypatch):
        told: list[str] = []
        monkeypatch.setattr(ports, "note_write", told.append)
        wrapper = replica()
        with pytest.raises(Exception, match="read-only transaction"):
            ask(wrapper, "INSERT INTO notes VALUES ('x') RETURNING text")
        assert told == ["replica"]

    def test_aliases_of_one_pool_are_told_apart(self, servers, replica, monkeypatch):
        told: list[str] = []
        monkeypatch.setattr(ports, "note_write", told.append)
        entry = {
            **replica().settings_dict,
            **servers.primary.django_settings(),
            "ENGINE": "django_poolkit.backends.postgresql",
            "OPTIONS": {"pool": {"max_size": 2}},
        }
        wrappers: list[Any] = []
        for alias in ("one", "two"):
            monkeypatch.setitem(connections.settings, alias, entry)
            wrappers.append(connections[alias])
        one, two = wrappers
        try:
            ask(two, "INSERT INTO notes VALUES ('x') RETURNING text")
            ask(one, "INSERT INTO notes VALUES ('x') RETURNING text")
            assert two.pool is one.pool
            assert told == ["two", "one"]
        finally:
            for wrapper in wrappers:
                wrapper.close()
                del connections[wrapper.alias]


class TestHealth:
    @pytest.fixture(autouse=True)
    def cluster(self, settings):
        settings.POOLKIT = {
            **settings.POOLKIT,
            "CLUSTERS": {"default": {"replicas": ["replica"]}},
        }

    @pytest.fixture
    def check(self):
        check = DatabaseCheck(alias="replica")
        yield check
        check.close()

    def test_all_hosts_are_looked_at(self, replica, check):
        wrapper = replica()
        result = check.look(2.0)
        assert (result.name, result.status, result.reason) == ("db:replica", "pass", None)
        assert result.latency is not None
        assert result.lag is not None
        assert (result.figures.max_size, result.figures.size) == (8, 0)
        assert [pool.stats().probing for pool in wrapper.host_pools.values()] == [1, 1]

    def test_only_a_cluster_says_that_it_need_not_be_written_to(self, replica, check, settings):
        replica()
        settings.POOLKIT = {**settings.POOLKIT, "CLUSTERS": {}}
        result = check.look(2.0)
        assert (result.status, result.reason) == ("fail", "read_only")

    def test_one_that_is_down_is_warned_of_and_told_by_name(self, proxies, replica, check, caplog):
        replica()
        proxies[1].refuse()
        result = check.look(2.0)
        assert (result.status, result.reason) == ("warn", "unreachable")
        assert result.latency is not None
        assert "check=db:replica/2 event=probe_failed reason=unreachable" in caplog.text
        assert "check=db:replica/1" not in caplog.text

    def test_it_fails_where_all_are_down(self, proxies, replica, check):
        replica()
        for proxy in proxies:
            proxy.refuse()
        result = check.look(2.0)
        assert (result.status, result.reason, result.latency) == ("fail", "unreachable", None)

    def test_a_silent_one_does_not_cost_the_time_of_the_others(self, proxies, replica, check):
        replica()
        proxies[0].stall()
        result = check.look(0.5)
        assert (result.status, result.reason) == ("warn", "timeout")
        assert result.latency is not None

    def test_one_that_never_comes_back_does_not_cost_the_others(self, replica, check, monkeypatch):
        """As where its resolver hangs, which no deadline of ours ends."""
        wrapper = replica()
        calls, let_go = [], threading.Event()

        def hangs(seconds: float) -> Any:
            calls.append(threading.current_thread())
            let_go.wait(20.0)
            raise ProbeFailed("unreachable", "at last")

        monkeypatch.setattr(wrapper.host_pools["replica/1"].prober, "ask", hangs)
        try:
            for _ in range(2):
                result = check.look(2.0)
                assert (result.status, result.reason) == ("warn", "timeout")
                assert result.latency is not None
            # Nobody has it asked once more meanwhile, nor waits for it at the end of the process.
            [thread] = calls
            assert thread.daemon
        finally:
            let_go.set()
        thread.join(20.0)
        result = check.look(2.0)
        assert (result.status, result.reason) == ("warn", "unreachable")

    def test_one_that_waits_is_seen_in_the_sum(self, replica, check):
        wrapper = replica(pool={"max_size": 1})
        pool = wrapper.host_pools["replica/2"]
        with pool.lease():
            result = check.look(2.0)
        assert (result.figures.used, result.figures.max_size) == (1, 2)
        assert result.figures.utilization == 0.5

    def test_poolcheck_has_one_line_for_it(self, proxies, replica):
        replica()
        proxies[0].refuse()
        out = io.StringIO()
        with pytest.raises(SystemExit) as ended:
            call_command("poolcheck", database=["replica"], format="json", stdout=out)
        assert ended.value.code == 1
        shown = json.loads(out.getvalue())["checks"]
        assert list(shown) == ["db:replica"]
        assert "unreachable" in json.dumps(shown)


class TestControl:
    def test_each_host_is_a_server(self, servers, replica):
        wrapper = replica()
        for pool in wrapper.host_pools.values():
            pool.acquire().release()
        found = control_servers.check(["replica"], [])
        assert [server.aliases for server in found] == [("replica/1",), ("replica/2",)]
        assert all(server.max_connections == 100 and not server.errors for server in found)

    def test_one_host_can_be_asked_for_alone(self, replica):
        replica()
        (found,) = control_servers.check(["replica/2"], [])
        assert found.aliases == ("replica/2",)

    def test_aliases_and_hosts_can_be_named(self, replica):
        replica()
        assert control_servers.pooled_names() == ["default", "replica", "replica/1", "replica/2"]
        assert not [pool for pool in registry.pools if "replica" in pool.aliases]
        assert control_servers.pooled_aliases() == ["default", "replica"]

    def test_poolstatus_shows_a_pool_for_each_host(self, replica):
        wrapper = replica()
        for pool in wrapper.host_pools.values():
            pool.acquire().release()
        for named, pools in (
            (["replica"], {"replica/1", "replica/2"}),
            (["replica/2"], {"replica/2"}),
        ):
            out = io.StringIO()
            call_command("poolstatus", database=named, local=True, format="json", stdout=out)
            document = json.loads(out.getvalue())
            assert {total["name"] for total in document["totals"]} == pools


class TestLifespan:
    def opened(self, pools: Any = "required") -> Callable[[], Any]:
        (resource,) = (
            each
            for each in builtin(LifespanConfig(pools=pools))
            if each.name.startswith("pool:replica")
        )
        assert resource.name == "pool:replica"
        assert resource.required is (pools == "required")

        async def enter() -> Any:
            async with resource.manager() as found:
                return {name: pool.stats().size for name, pool in found.items()}

        return lambda: asyncio.run(enter())

    def test_the_pools_of_all_hosts_are_opened(self, replica):
        replica()
        assert self.opened()() == {"replica/1": 1, "replica/2": 1}

    def test_one_host_that_is_down_does_not_keep_a_server_from_starting(
        self, proxies, replica, caplog
    ):
        replica(pool={"timeout": 0.3})
        proxies[0].refuse()
        sizes = self.opened()()
        assert sizes["replica/2"] == 1
        assert "resource=pool:replica/1 event=open_failed error=PoolTimeout" in caplog.text

    def test_where_all_are_down_it_fails(self, proxies, replica):
        replica(pool={"timeout": 0.3})
        for proxy in proxies:
            proxy.refuse()
        with pytest.raises(PoolTimeout):
            self.opened()()
