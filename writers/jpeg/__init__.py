"""JPEGs: restart index, markers, resizing, and the C library that implements them."""
