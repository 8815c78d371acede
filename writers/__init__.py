"""Turn images into betons: datasets, class subsets, encodings, beton files, their manifests."""
