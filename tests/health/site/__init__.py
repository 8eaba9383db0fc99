"""A site for real servers, whose settings are as hostile to probes as settings may be."""
