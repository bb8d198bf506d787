"""Which images were made from one photograph."""
