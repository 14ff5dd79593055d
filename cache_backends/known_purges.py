"""What one process knows of the purge log, and which entries it covers."""

from __future__ import annotations

from itertools import islice, takewhile
from typing import NamedTuple

from cache_backends.base import Entry
from cache_backends.shared import Purge, PurgeLog

# How many rows are kept until they are old: about 6 MB. Of more, those go that are no longer young,
# and what is fetched for longer than they were kept is not stored.
MAX_ROWS = 10_000
# And of the ids that they name, where nobody else keeps the log: about as much.
MAX_NAMED = 50_000


class Mark(NamedTuple):
    """What was known at some time: see there."""

    seen: int
    forgotten: int


class KnownPurges:
    """The rows that were read and are not forgotten.

    `head` is the last number of the log of `store`: what is read next begins there. `seen` is the
    greatest number ever read, also in a log that was lost meanwhile; all up to it are known.
    `forgotten` is the last one that is known no more: whether an entry whose making began before
    it was purged cannot be told.
    """

    def __init__(self) -> None:
        self.store: str | None = None
        self.head = 0
        self.seen = 0
        self.forgotten = 0
        self._rows: dict[int, Purge] = {}  # in order of their numbers, as are these:
        self._broad: list[Purge] = []
        self._named: dict[str, list[Purge]] = {}  # those that name ids, by each of them

    def follows(self, read: PurgeLog, after: int) -> bool:
        """Does it lead on from what is known? It was read with numbers above `after`."""
        if read.store != self.store or read.head < after:
            return False
        last = self.head
        for purge in self._news(read):
            if purge.previous != last:
                return False
            last = purge.number
        return read.head <= last

    def add(self, read: PurgeLog) -> list[Purge]:
        """Learn what `follows`; give the rows that are new."""
        news = self._news(read)
        for purge in news:
            self._note(purge)
        self.head = max(self.head, read.head)
        self.seen = max(self.seen, read.head)
        return news

    def begin_anew(self, read: PurgeLog) -> None:
        """Learn a whole log that does not follow. What was known before still holds.

        Where it is another store's, or lost its end, rows may be gone that were never read: all
        that began until now is as if they were forgotten.
        """
        lost = self.store is not None and (read.store != self.store or read.head < self.head)
        rows = self._rows | {purge.number: purge for purge in read.purges}
        self._rows, self._broad, self._named = {}, [], {}
        for number in sorted(rows):
            self._note(rows[number])
        self.store, self.head = read.store, read.head
        self.seen = max(self.seen, read.head)
        if read.purges:
            self.forgotten = max(self.forgotten, read.purges[0].previous)
        if lost:
            # No row has had this number, and the next one's will be greater: it is the time.
            self.seen += 1
            self.forgotten = self.seen

    def covers(self, entry: Entry) -> bool:
        """Is there a purge of this entry that its maker did not see?"""
        if entry.seen >= self.seen:
            return False
        return any(
            purge.filter.covers(entry)
            for purges in (self._named.get(entry.key.id, []), self._broad)
            for purge in takewhile(lambda each: each.number > entry.seen, reversed(purges))
        )

    def mark(self) -> Mark:
        return Mark(self.seen, self.forgotten)

    def tells_more_of(self, id: str, since: Mark) -> bool:
        """Did a row become known since then that names this id, or may one have?

        What was on its way from the store may be older than that row, also where it covers it not.
        """
        if self.forgotten != since.forgotten:
            return True
        named = self._named.get(id, []) if self.seen != since.seen else []
        return any(purge.number > since.seen for purge in named[-1:])

    def old(self, since: float, young: float, most: int) -> list[Purge]:
        """The first rows, if they are older, or too many and not `young`; never the last one."""
        too_many = len(self._rows) - MAX_ROWS
        first = enumerate(islice(self._rows.values(), most))
        old = takewhile(lambda row: row[1].at < (young if row[0] < too_many else since), first)
        return [purge for _, purge in old if purge.number < self.head]

    def shed(self) -> None:
        """Forget the first rows, where there are too many; never the last one."""
        while len(self._rows) > MAX_ROWS or (len(self._named) > MAX_NAMED and len(self._rows) > 1):
            self.forget(next(iter(self._rows)))

    def forget(self, number: int) -> None:
        """Know this row, and all before it, no more."""
        self.forgotten = max(self.forgotten, number)
        while self._rows and (first := next(iter(self._rows))) <= number:
            self._drop(self._rows.pop(first))

    def _news(self, read: PurgeLog) -> list[Purge]:
        return [purge for purge in read.purges if purge.number > self.head]

    def _note(self, purge: Purge) -> None:
        self._rows[purge.number] = purge
        if purge.filter.ids is None:
            self._broad.append(purge)
        for name in dict.fromkeys(purge.filter.ids or ()):
            self._named.setdefault(name, []).append(purge)

    def _drop(self, first: Purge) -> None:
        if first.filter.ids is None:
            del self._broad[0]
        for name in dict.fromkeys(first.filter.ids or ()):
            del self._named[name][0]
            if not self._named[name]:
                del self._named[name]
