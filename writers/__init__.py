"""From images to betons: datasets, class subsets, encodings, and the files and manifests that hold them."""
