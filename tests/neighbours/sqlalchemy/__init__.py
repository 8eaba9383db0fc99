"""SQLAlchemy on the pools of the site."""
