"""The live page of all pools in Django's admin, for those of the staff who may see it."""
