"""Pools of database connections that know neither Django nor its settings."""
