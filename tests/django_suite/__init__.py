"""Django's own test suite, on our backend and on Django's: `python3 -m tests.django_suite`."""
