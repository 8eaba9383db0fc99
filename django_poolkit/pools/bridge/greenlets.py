"""greenlet, which the extra `bridge` installs."""

try:
    from greenlet import GreenletExit as GreenletExit
    from greenlet import getcurrent as getcurrent
    from greenlet import greenlet as greenlet
except ImportError as error:
    raise ImportError(
        "the bridge needs greenlet 3.2 or later: pip install django-poolkit[bridge]"
    ) from error
