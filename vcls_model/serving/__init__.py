"""Exported models: writing, reading and combining them, without Beam."""
