"""Your own data: a folder of `.npz` files."""
