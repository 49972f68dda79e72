"""Stays in intensive care of the PhysioNet/Computing in Cardiology Challenge 2012."""
