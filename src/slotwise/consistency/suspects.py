"""Keys whose copies differed at a glance, looked at again: a difference has to be there when nothing is on its way.

A look goes: primary; the replica has applied all of that; replica; primary. A replica that shows what the primary showed
before or after is as it should be. Who differs from a primary that stood still has to do so twice.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from slotwise._slots import key_slot
from slotwise._versions import MAGIC
from slotwise.consistency import large
from slotwise.consistency.digests import DAMAGED, ELSEWHERE, LARGE, UNKNOWN, Look
from slotwise.consistency.findings import Finding
from slotwise.consistency.nodes import FAILURES, Wire
from slotwise.consistency.repair import Mender

if TYPE_CHECKING:
    from slotwise.consistency.auditing import Audit, Shard

#: A key, and the replica whose copy is meant.
_Copy = tuple[bytes, str]


class Suspects:
    """Those of one walk. It has connections of its own: the walk's have the next batch under way."""

    def __init__(self, audit: Audit, shard: Shard) -> None:
        self._audit = audit
        self._shard = shard
        # Key -> replicas whose copies are suspect.
        self._odd: dict[bytes, set[str]] = {}
        self._extra: set[bytes] = set()
        # With the replica whose walk has found them; None: the primary's.
        self._elsewhere: list[tuple[bytes, str | None]] = []
        self._lost: set[str] = set()
        self._primary: Wire | None = None
        self._copies: dict[str, Wire] = {}
        self._owners: dict[str, Wire] = {}

    @property
    def waiting(self) -> int:
        return len(self._odd) + len(self._elsewhere)

    @property
    def settled(self) -> bool:
        """Whether all was looked at until now, on every replica."""
        return not (self.waiting or self._lost)

    def add(self, key: bytes, replica: str | None = None, *, extra: bool = False) -> None:
        """A key to look at again, on one replica or on all. ``extra``: the primary does not seem to have it."""
        names = {replica} if replica is not None else {wire.name for _, wire in self._shard.replicas}
        self._odd.setdefault(key, set()).update(names)
        if extra:
            self._extra.add(key)

    def elsewhere(self, key: bytes, replica: str | None = None) -> None:
        """A key for which its node answers no command."""
        self._elsewhere.append((key, replica))

    def lose(self, replica: str) -> None:
        """A replica has failed."""
        self._lost.add(replica)

    def resolve(self) -> None:
        """Looks at all of them; raises what the primary raises when it fails."""
        if self._primary is None:
            self._primary = self._audit.wire(self._audit.nodes[self._shard.wire.name])
        if self._elsewhere:
            self._look_elsewhere(self._primary)
        if self._odd:
            self._look_again(self._primary)
        self._odd, self._extra, self._elsewhere = {}, set(), []

    # -- copies --------------------------------------------------------------------------------------------------------

    def _look_again(self, primary: Wire) -> None:
        pending = {(key, name) for key, names in self._odd.items() for name in names - self._lost}
        mine = primary.details(list(self._odd))
        found: dict[bytes, list[tuple[str, str, Look]]] = {}
        seen: dict[_Copy, tuple[Look, Look]] = {}
        for _ in range(large.LOOKS):
            if not pending:
                break
            before = primary.details(list({key for key, _ in pending}))
            mine.update(before)
            offset = primary.offset()
            odd: dict[_Copy, tuple[Look, Look]] = {}
            for name in sorted({name for _, name in pending}):
                try:
                    self._look_at(primary, name, offset, pending, before, found, odd)
                except FAILURES as error:
                    if self._is_gone(primary):
                        raise
                    self._audit.fail(name, error)
                    self.lose(name)
            pending = set()
            after = primary.details(list({key for key, _ in odd}))
            for copy, looks in odd.items():
                look, theirs = looks
                key, name = copy
                if self._alike(after[key], theirs):
                    continue
                # Before Redis 7 an expiry is reckoned from two clocks, and is another by a millisecond at every look.
                if (
                    self._alike(look, after[key])
                    and copy in seen
                    and all(map(self._alike, seen[copy], looks))
                ):
                    found.setdefault(key, []).append((self._kind(look, theirs), name, theirs))
                    continue
                seen[copy] = looks
                pending.add(copy)
        for key, name in pending:
            found.setdefault(key, []).append(("busy", name, mine[key]))
        for key in self._odd:
            self._judge(primary, key, mine[key], found.get(key, []))

    def _look_at(
        self,
        primary: Wire,
        name: str,
        offset: int,
        pending: set[_Copy],
        before: dict[bytes, Look],
        found: dict[bytes, list[tuple[str, str, Look]]],
        odd: dict[_Copy, tuple[Look, Look]],
    ) -> None:
        """Looks at the suspects on one replica: those that are told already go to ``found``, others to ``odd``."""
        replica = self._copy(name)
        in_time = self._wait(replica, offset)
        keys = [key for key, of in pending if of == name]
        unseen = 0
        for key, theirs in replica.details(keys).items():
            look = before[key]
            if theirs.letter == ELSEWHERE:
                unseen += 1
                continue
            alike: bool | None = self._alike(look, theirs)
            if alike and look.letter == LARGE:
                alike = large.same(
                    primary, replica, key, look.type, lambda: self._wait(replica, primary.offset())
                )
                if alike is not True and in_time:
                    kind = "different" if alike is False else "busy"
                    found.setdefault(key, []).append((kind, name, theirs))
                    continue
            if not alike and not in_time:
                found.setdefault(key, []).append(("lagging", name, theirs))
            elif not alike:
                odd[key, name] = look, theirs
        if unseen:
            replica.check_up()
            if replica.view().primary_id != self._shard.view.id:
                raise RedisError(f"it is no replica of {primary.name} any more")
            # It has yet to hear whose the slot is.
            with self._audit.lock:
                self._audit.report.moving += unseen

    def _copy(self, name: str) -> Wire:
        if name not in self._copies:
            self._copies[name] = self._audit.wire(self._audit.nodes[name])
        return self._copies[name]

    def _wait(self, replica: Wire, offset: int) -> bool:
        """Whether the replica has caught up in time; who has not once is not waited for again."""
        lag = self._shard.lags[replica.name]
        began = time.monotonic()
        told = replica.info("replication")
        lag.saw(
            max(0, offset - int(told.get("slave_repl_offset", 0))), told.get("master_link_status") == "up"
        )
        if not lag.bytes:
            lag.late = False
            return True
        if lag.late:
            return False
        lag.late = not replica.wait_for(offset, self._audit.options.lag_timeout)
        lag.waited += time.monotonic() - began
        return not lag.late

    def _is_gone(self, primary: Wire) -> bool:
        """Whether it was the primary that failed."""
        try:
            primary.call("PING")
        except FAILURES:
            return True
        return False

    def _alike(self, one: Look, other: Look) -> bool:
        if one.value != other.value or (one.expires < 0) != (other.expires < 0):
            return False
        return abs(one.expires - other.expires) <= self._audit.options.ttl_tolerance * 1000

    def _kind(self, look: Look, theirs: Look) -> str:
        if not theirs.exists:
            return "missing"
        if not look.exists:
            return "extra"
        if theirs.letter == DAMAGED and look.value != theirs.value:
            return "damaged"
        return "wrong_ttl" if look.value == theirs.value else "different"

    def _judge(self, primary: Wire, key: bytes, look: Look, found: list[tuple[str, str, Look]]) -> None:
        """Tells what is wrong with a key, and mends it if asked to."""
        own = {DAMAGED: "damaged", UNKNOWN: "unknown_format"}.get(look.letter)
        if look.letter == LARGE and look.header.startswith(MAGIC):
            own = large.fault(primary.on_key, key)
            # At a glance it was only large.
            with self._audit.lock:
                self._audit.report.versioned += 1
                self._audit.report.unversioned -= 1
        findings = []
        if own is not None:
            findings.append(self._finding(own, key, look, None, None))
        for kind, name, theirs in found:
            # Gone from the primary since: the replica's walk tells what it leaves behind. Moved: nobody's fault.
            if (kind == "extra" and key not in self._extra) or look.letter == ELSEWHERE:
                continue
            # That the primary's copy is damaged has been told.
            if kind == "different" and own == "damaged":
                continue
            findings.append(self._finding(kind, key, look, name, theirs))
        if not findings:
            return
        repaired = None
        if self._audit.options.repair:
            repaired = self._mend(primary, key, [finding.kind for finding in findings])
        for finding in findings:
            self._audit.found(
                finding if finding.kind in ("busy", "lagging") else replace(finding, repaired=repaired)
            )

    def _mend(self, primary: Wire, key: bytes, kinds: list[str]) -> bool:
        try:
            return self._mender(primary).mend(key, kinds)
        except FAILURES as error:
            # A replica that died, or a server that refuses to write, for lack of memory for instance: the others go on.
            if self._is_gone(primary):
                raise
            self._audit.fail(self._shard.wire.name, RuntimeError(f"a repair failed: {error}"))
            return False

    def _mender(self, primary: Wire) -> Mender:
        copies = []
        for _, wire in self._shard.replicas:
            if wire.name not in self._lost:
                try:
                    copies.append(self._copy(wire.name))
                except FAILURES as error:
                    self._audit.fail(wire.name, error)
                    self.lose(wire.name)
        return Mender(primary, copies)

    def _finding(self, kind: str, key: bytes, look: Look, name: str | None, theirs: Look | None) -> Finding:
        version, other = look.version, theirs.version if theirs is not None else None
        detail = ""
        if kind == "wrong_ttl" and theirs is not None:
            detail = f"{_expiry(look)} on the primary, {_expiry(theirs)} on the replica"
        elif version is not None and other is not None and version != other:
            detail = f"the {'replica' if other > version else 'primary'} has the newer version"
        elif theirs is not None and kind == "different" and look.type != theirs.type:
            detail = f"a {look.type} on the primary, a {theirs.type} on the replica"
        return Finding(
            kind,
            key_slot(key),
            self._shard.wire.name,
            name,
            look.type or (theirs.type if theirs is not None else ""),
            detail,
            version.hex() if version is not None else None,
            other.hex() if other is not None else None,
            None,
            key,
        )

    # -- keys in the wrong place ---------------------------------------------------------------------------------------

    def _look_elsewhere(self, primary: Wire) -> None:
        primary.check_up()
        view = primary.view()
        told: set[bytes] = set()
        for key, replica in self._elsewhere:
            slot = key_slot(key)
            holder = primary if replica is None else self._copy(replica)
            if key in told:
                continue
            told.add(key)
            if slot in view.moving:
                with self._audit.lock:
                    self._audit.report.moving += 1
                continue
            if view.owned[slot]:
                # It answers for it by now.
                self.add(key, replica, extra=replica is not None)
                continue
            if not holder.holds(key) or (replica is not None and primary.holds(key)):
                continue
            # It may have gone from the primary a moment ago, brought home by the primary's walk for instance.
            if replica is not None and self._wait(holder, primary.offset()) and not holder.holds(key):
                continue
            owner = self._audit.owner_of(slot)
            detail = f"the slot is owned by {owner[0]}" if owner else "nobody owns the slot"
            repaired = None
            if self._audit.options.repair:
                repaired = owner is not None and self._bring_home(primary, key, owner)
            self._audit.found(
                Finding("misplaced", slot, primary.name, replica, "", detail, None, None, repaired, key)
            )

    def _bring_home(self, primary: Wire, key: bytes, owner: tuple[str, Any]) -> bool:
        name, view = owner
        try:
            # One connection to an owner, however many keys go there.
            if name not in self._owners:
                self._owners[name] = self._audit.wire(self._audit.nodes[name])
            return Mender(self._owners[name], []).take_over(primary, key, view.id)
        except FAILURES:
            return False


def _expiry(look: Look) -> str:
    if look.expires < 0:
        return "no expiry"
    return f"expiry at {look.expires / 1000:.3f}"
