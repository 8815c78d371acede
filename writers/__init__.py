"""Turn images into FFCV's `.beton` files: datasets, class subsets, encodings, manifests."""
