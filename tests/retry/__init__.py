"""Reads that are made again: single statements, and whole calls."""
