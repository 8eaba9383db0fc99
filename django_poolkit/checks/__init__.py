"""Django's system checks of the kit: `manage.py check` says what will not work as it is meant."""
