"""Transfer that trains the last stages of the network only."""
