"""Attendance: which workers take part in calls that all threads work on together.

A worker whose core has other things to do is put aside by the system in the middle of its part, for
milliseconds, and the others wait for that part. Such a worker stays away for a while. It is asked
back after that, for twice as long a time each time that it is put aside again.

The caller's own core may be the busy one: it is put aside whenever it yields to wait for a worker,
which counts as no wait. So workers stay away, too, after calls that took longer than calls without.

A call after a pause says nothing: caches are cold, cores wake slowly, and one waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence

SHORT, LONG = 0.05, 1.0  # seconds that a worker stays away at first, and at most
NOTICEABLE = 2e-4  # seconds of waiting for a worker; parts of the work take less
SLOWER = 1.1  # times as long as a call of fewer threads
TURNS = 2  # calls in a row that are so slow: one says little
SHARE = 0.2  # of a call: waiting less than that is the end of a part, not a thread put aside


class Attendance:
    """The attendance of the workers of a team in the calls of one program.

    Args:
        workers: of the team.
    """

    def __init__(self, workers: int) -> None:
        self._back = [0.0] * workers  # when each may come back
        self._away = [0.0] * workers  # for how long each stayed away the last time
        self._ended = 0.0  # when the last call did
        self._slow = 0  # calls in a row that were slower than those of fewer threads
        self._all = 0.0  # seconds that a call of all threads takes
        self._fewer = 0.0  # seconds that a call of fewer threads takes; 0 as long as none was made

    def present(self, now: float) -> list[bool]:
        """Whether each worker takes part in a call at the time `now`, in seconds."""
        return [now >= back for back in self._back]

    def note(self, started: float, ended: float, waited: Sequence[float]) -> None:
        """Note when a call started and ended, and how many seconds it waited for each worker."""
        seconds, present = ended - started, self.present(started)
        paused, self._ended = started - self._ended > LONG, ended
        if paused:
            return
        slow = False
        # The fastest lately: a slow call says little, and what was fast long ago is forgotten.
        if not all(present):
            self._fewer = min(1.02 * self._fewer or seconds, seconds)
        elif seconds < self._fewer:
            self._slow = 0
            return  # having waited, the call was still faster than one of fewer threads
        else:
            self._all = min(1.02 * self._all or seconds, seconds)
            # As long as nobody stayed away, what one thread takes if threads save all they can.
            most = SLOWER * self._fewer or (len(waited) + 1) * self._all
            self._slow = self._slow + 1 if seconds > most else 0
            slow = self._slow >= TURNS
        for worker, wait in enumerate(waited):
            if slow or wait > max(NOTICEABLE, SHARE * seconds):
                self._away[worker] = min(max(2 * self._away[worker], SHORT), LONG)
                self._back[worker] = ended + self._away[worker]
            elif present[worker] and started > self._back[worker] + self._away[worker]:
                self._away[worker] = 0.0
