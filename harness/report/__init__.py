"""Turn results into one HTML page: tables, figures and timing."""

ANSWER_FILE = "answer.txt"  # in a report's folder: the answer in one sentence, for the terminal
