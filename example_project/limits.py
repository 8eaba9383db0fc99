"""How many files a process may have open: raised as far as is needed, and said where it cannot be.

What is raised here is inherited by the processes that are started afterwards.
"""

from __future__ import annotations

import resource

SPARE = 200
"""Files that a process has open beside its connections: libraries, logs, its event loop."""


class LimitTooLow(Exception):
    """The system lets no process open as many files; the text says what to do."""


def raise_file_limit(connections: int) -> None:
    """Let this process, and those it starts from now on, have so many connections open.

    Raises:
        LimitTooLow: the hard limit is below that, and may not be raised by this user.
    """
    needed = connections + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _reaches(soft, needed):
        return
    wanted = (needed, hard) if _reaches(hard, needed) else (needed, needed)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, wanted)
    except (ValueError, OSError) as error:
        raise LimitTooLow(
            f"{connections:,} connections need {needed:,} open files in one process, and the hard"
            f" limit is {hard:,}: raise it (`ulimit -Hn {needed}` as root, or LimitNOFILE= of the"
            " service), or ask for fewer requests"
        ) from error


def _reaches(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed
