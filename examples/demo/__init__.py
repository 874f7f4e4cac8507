"""The demo: a generated corpus and queries in which it is known which documents teach what."""
