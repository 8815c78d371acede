"""Select a subset in the `.beton` files of all source images."""
