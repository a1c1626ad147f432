"""The ground floor: what every stage shares. Knows no stage."""

__version__ = "0.1.0"
