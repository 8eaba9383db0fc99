"""The one place where settings are read: a module a section, frozen values, defaults once."""
