"""Beam searches over the networks, and what they return."""
