"""Select a subset in the betons of the whole source."""
