"""The catalogue of transfer methods: which parameters train, and how."""
