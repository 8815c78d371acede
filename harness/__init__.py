"""From one recipe to a finished matrix of pretrained and transferred models, timed, resumable and reported."""
