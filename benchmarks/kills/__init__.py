"""Interruptions of training runs, and what is lost by them."""
