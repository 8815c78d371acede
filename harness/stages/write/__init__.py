"""Write a dataset as `.beton` files."""
