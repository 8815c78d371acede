"""Transfer methods, transferability scores and the hyper-parameter search."""
