"""Is transaction mode safe for a project, and what would it save? From what all processes saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from django_poolkit.pools.observe import IDLE

# A statement that reads what an earlier one left in the session: refused where it comes to
# another connection (docs/explanation/transaction-mode.md, "What changes for your code").
_REFUSED: Final = "sequence"
# Below this share of the time that leases are held, a switch is hardly worth the trouble.
_LITTLE: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of code, over all processes; see `Observation`."""

    site: str
    reason: str
    count: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinning:
    """One line of code at which RDS Proxy would pin, over all processes."""

    site: str
    condition: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is known about transaction mode for the pools of one name."""

    pool: str
    word: str
    """`safe`; `pins`: safe as well, but not everywhere of use; `mend`: something would be refused;
    `used`: it is in transaction mode; `unknown`: not observed, or nothing has run."""
    text: str
    leases: int
    pins: Mapping[str, int]
    """Leases that were pinned, or in session mode would be, by reason."""
    held: float
    """Seconds for which leases were held; 0.0 where nobody observes."""
    idle: float
    """Seconds of those that transaction mode would save."""
    findings: tuple[Finding, ...]
    """Most seconds first."""
    rds_proxy: tuple[Pinning, ...] = ()
    """What has RDS Proxy hold a client on one session, most frequent first."""

    @property
    def share(self) -> float:
        """What would be saved of what is held, 0.0 to 1.0."""
        return self.idle / self.held if self.held else 0.0


def judge(processes: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Return one verdict for each pool name, from results of `status` with `pins`."""
    pools = [pool for process in processes for pool in process["pools"]]
    names = dict.fromkeys(pool["name"] for pool in pools if pool["kind"] == "postgresql")
    return [_judge(name, processes) for name in names]


def _judge(name: str, processes: Sequence[Mapping[str, Any]]) -> Verdict:
    pools = [pool for p in processes for pool in p["pools"] if pool["name"] == name]
    seen = [p["observations"][name] for p in processes if name in p["observations"]]
    pins: Counter[str] = Counter()
    for pool in pools:
        pins.update(pool["pins"])
    facts = Verdict(
        pool=name,
        word="unknown",
        text="unknown. Set OPTIONS['pool']['observe'] to True, for as long as it takes until all "
        "has run that runs seldom",
        leases=sum(pool["acquired"] for pool in pools),
        pins=dict(pins),
        held=sum(found["held"] for found in seen),
        idle=sum(found["idle"] for found in seen),
        findings=_findings(seen),
        rds_proxy=_pinnings([p.get("rds_proxy", {}).get(name, ()) for p in processes]),
    )
    if seen:
        word, text = _of_observed(facts)
        return replace(facts, word=word, text=text)
    if any(pool["mode"] == "transaction" for pool in pools):
        text = f"in use. Pinned: {_pinned(facts)} of {facts.leases}"
        return replace(facts, word="used", text=text)
    return facts


def _findings(seen: Sequence[Mapping[str, Any]]) -> tuple[Finding, ...]:
    table: dict[tuple[str, str], list[Any]] = {}
    for row in (row for found in seen for row in found["rows"]):
        entry = table.setdefault((row["site"], row["reason"]), [0, 0.0])
        entry[0] += row["count"]
        entry[1] += row["seconds"]
    findings = [
        Finding(site=site, reason=reason, count=count, seconds=seconds)
        for (site, reason), (count, seconds) in table.items()
    ]
    return tuple(sorted(findings, key=lambda f: (-f.seconds, -f.count, f.site, f.reason)))


def _pinnings(seen: Iterable[Iterable[tuple[str, str, int]]]) -> tuple[Pinning, ...]:
    counts: Counter[tuple[str, str]] = Counter()
    for site, condition, count in (row for rows in seen for row in rows):
        counts[site, condition] += count
    return tuple(
        Pinning(site=site, condition=condition, count=count)
        for (site, condition), count in sorted(counts.items(), key=lambda i: (-i[1], i[0]))
    )


def _of_observed(verdict: Verdict) -> tuple[str, str]:
    if not verdict.held:
        return "unknown", "unknown: it is observed, and nothing has run yet"
    saved = (
        f"Of the {verdict.held:.1f} s for which connections were held, {verdict.idle:.1f} s "
        f"({verdict.share:.0%}) would be saved"
    )
    if verdict.share < _LITTLE:
        saved += ", which is little"
    refused = [found.site for found in verdict.findings if found.reason == _REFUSED]
    if refused:
        return "mend", (
            f"not yet: currval() or lastval() at {', '.join(refused)} would be refused outside "
            f"of the atomic() or pinned() that its number was drawn in. {saved}"
        )
    sites = {found.site for found in verdict.findings if found.reason != IDLE}
    if sites:
        lines = "one line" if len(sites) == 1 else f"{len(sites)} lines"
        return "pins", (
            f"safe by what was seen: {lines} would pin {_pinned(verdict)} of {verdict.leases}, "
            f"which then work as in session mode. {saved}"
        )
    return "safe", f"safe by what was seen: no line would pin. {saved}"


def _pinned(verdict: Verdict) -> str:
    count = sum(verdict.pins.values())
    return f"{count} lease" if count == 1 else f"{count} leases"
