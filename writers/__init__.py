"""From images to betons: datasets, class subsets, encodings, beton files and their manifests."""
